"""The kinds of launch files, and a function that renders any of them from the fields of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.launch.docker import DockerImage, dockerfile
from cluster.launch.kuberay import KubeRayLaunch, kuberay_manifests
from cluster.launch.ray_up import AwsLaunch, SshLaunch, ray_up_config
from cluster.launch.slurm import SlurmLaunch, slurm_script
from cluster.launch.validators import Launch

__all__ = ["TARGETS", "LaunchTarget", "render"]


@dataclass(frozen=True)
class LaunchTarget:
    """A kind of launch file: its config class, and the pure function from a config to text."""

    config: type[Launch]
    text: Callable[[Any], str]


TARGETS: Mapping[str, LaunchTarget] = {
    "kuberay": LaunchTarget(KubeRayLaunch, kuberay_manifests),
    "slurm": LaunchTarget(SlurmLaunch, slurm_script),
    "ray-up": LaunchTarget(SshLaunch, ray_up_config),
    "ray-up-aws": LaunchTarget(AwsLaunch, ray_up_config),
    "dockerfile": LaunchTarget(DockerImage, dockerfile),
}


def render(target: str, values: Mapping[str, Any]) -> str:
    """Return the text of a launch file.

    Args:
        target: Key of `TARGETS`.
        values: Fields of the target's config.

    Raises:
        KeyError: There is no such target.
        pydantic.ValidationError: `values` are invalid. The exception contains every error.
    """
    kind = TARGETS[target]
    return kind.text(kind.config.model_validate(dict(values)))
