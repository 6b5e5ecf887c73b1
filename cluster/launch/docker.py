"""The Dockerfile of the image that every node runs: torch, lagvae, a fixed version of Ray, and a non-root user."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from cluster.launch.validators import HEADER, RAY_VERSION, ImageName, Launch, Package, ShellSafe, Wheel, fill

__all__ = ["DockerImage", "dockerfile"]

SOURCES = ("pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("lagvae_core", "sweeps", "cluster")


class DockerImage(Launch):
    """A container image with lagvae, installed from the project's folder, a wheel or a package index."""

    summary: ClassVar[str] = "The container image of every node."
    usage: ClassVar[str] = "docker build --file FILE --tag REGISTRY/lagvae:TAG FOLDER, then docker push"

    base: Annotated[ImageName, Field(description="base image (Debian with Python 3.11 or later)")] = (
        "python:3.11-slim-bookworm"
    )
    wheel: Annotated[
        Wheel | None, Field(description="wheel of lagvae inside FOLDER, installed instead of the project's folder")
    ] = None
    package: Annotated[
        Package | None, Field(description="package that pip installs instead of the project's folder")
    ] = None
    torch: Annotated[Package, Field(description="torch requirement for pip, such as torch or torch==VERSION")] = "torch"
    torch_index: Annotated[
        ShellSafe | None,
        Field(description="package index for torch; by default the index of pip, which provides torch with CUDA"),
    ] = None

    @field_validator("wheel")
    @classmethod
    def _below(cls, wheel: str | None) -> str | None:
        if wheel is not None and (wheel.startswith(("/", "~")) or ".." in wheel.split("/")):
            raise ValueError("must be a relative path inside the build folder")
        return wheel

    @field_validator("package")
    @classmethod
    def _one_source(cls, package: str | None, info: ValidationInfo) -> str | None:
        if package is not None and info.data.get("wheel") is not None:
            raise ValueError("must be omitted if `wheel` is set")
        return package


def dockerfile(image: DockerImage) -> str:
    """Return the text of the Dockerfile. All commands are written as JSON lists, so no shell interprets them."""
    index = [] if image.torch_index is None else ["--index-url", image.torch_index]
    return fill(
        "Dockerfile",
        SUMMARY=image.summary,
        USAGE=image.usage,
        HEADER=HEADER.format(target="dockerfile"),
        BASE=image.base,
        TORCH=_pip(image.torch, *index),
        RAY=f"ray[default,tune]=={RAY_VERSION}",
        INSTALL=_install(image),
    )


def _install(image: DockerImage) -> str:
    if image.package is not None:
        return _pip(image.package)
    if image.wheel is not None:
        name = image.wheel.rpartition("/")[2]
        return f"COPY {json.dumps([image.wheel, f'/tmp/{name}'])}\n{_pip(f'/tmp/{name}')}"
    copies = [f"COPY {json.dumps([*SOURCES, '/opt/lagvae/'])}"]
    copies += [f"COPY {json.dumps([folder, f'/opt/lagvae/{folder}'])}" for folder in FOLDERS]
    return "\n".join([*copies, _pip("/opt/lagvae")])


def _pip(*arguments: str) -> str:
    return f"RUN {json.dumps(['python', '-m', 'pip', 'install', *arguments])}"
