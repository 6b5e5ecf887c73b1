"""An sbatch script that starts a Ray cluster in one Slurm allocation and runs the sweep on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from math import inf
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from cluster.launch.validators import HEADER, Bytes, FreeText, Launch, LocalPath, Name, SharedPath, fill, quantity

__all__ = ["SlurmLaunch", "slurm_script"]


RAY_ENDS_SECONDS = 60
"""Time reserved for stopping Ray and requeuing the job after the sweep has ended [s]."""


class SlurmLaunch(Launch):
    """A sweep in one Slurm allocation, with the same cores and GPUs on every node."""

    summary: ClassVar[str] = "An sbatch script that starts Ray, runs the sweep and requeues itself near its time limit."
    usage: ClassVar[str] = "sbatch FILE"

    spec: Annotated[
        SharedPath, Field(description="path of a sweep file that every node can read, or name of a shipped sweep")
    ]
    results: Annotated[SharedPath, Field(description="folder or URI of the results, the same on every node")]
    overrides: Annotated[
        tuple[FreeText, ...],
        Field(description="overrides of the sweep file, each as KEY=VALUE, like `lagvae run --set`"),
    ] = ()
    job_name: Annotated[Name, Field(description="name of the job")] = "lagvae"
    nodes: Annotated[int, Field(ge=1, le=10_000, description="number of nodes")] = 2
    cpus: Annotated[int, Field(ge=1, le=4096, description="cores per node")] = 8
    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs per node")] = 1
    gpu_type: Annotated[Name | None, Field(description="name of the GPU type in Slurm; by default any type")] = None
    memory: Annotated[Bytes, Field(description="memory per node")] = "32Gi"
    hours: Annotated[float, Field(gt=0, le=8760, description="time limit of each start of the job [h]")] = 24.0
    restarts: Annotated[
        int,
        Field(ge=0, le=1000, description="maximum number of times that the job requeues itself near its time limit"),
    ] = 20
    grace: Annotated[
        int,
        Field(
            ge=10,
            le=3600,
            description="time for the sweep to save its runs before the time limit [s]; Ray gets one more minute",
        ),
    ] = 60
    patience: Annotated[int, Field(ge=10, le=7200, description="time within which every node must have joined [s]")] = (
        600
    )
    partition: Annotated[Name | None, Field(description="Slurm partition; by default Slurm's own default")] = None
    account: Annotated[Name | None, Field(description="Slurm account; by default Slurm's own default")] = None
    qos: Annotated[Name | None, Field(description="Slurm quality of service; by default Slurm's own default")] = None
    constraint: Annotated[Name | None, Field(description="feature that the nodes must have")] = None
    modules: Annotated[tuple[SharedPath, ...], Field(description="environment modules to load first")] = ()
    venv: Annotated[SharedPath | None, Field(description="virtual environment with lagvae, visible on every node")] = (
        None
    )
    interface: Annotated[
        Name | None, Field(description="network interface of every node; by default the first one")
    ] = None
    local_folder: Annotated[LocalPath, Field(description="local folder of each node for temporary files")] = "/tmp"
    object_store: Annotated[Bytes, Field(description="size of Ray's object store on each node")] = "512Mi"

    @field_validator("grace")
    @classmethod
    def _leaves_time(cls, grace: int, info: ValidationInfo) -> int:
        hours = info.data.get("hours", inf)
        if grace + RAY_ENDS_SECONDS >= hours * 3600:
            raise ValueError(
                f"must leave time for the sweep: `grace` plus one minute must be less than `hours` ({hours:g} h)"
            )
        return grace


def slurm_script(launch: SlurmLaunch) -> str:
    """Return the text of the script. Values in directives have types that need no quotes; other values are quoted."""
    return fill(
        "slurm.sh",
        DIRECTIVES="\n".join(f"#SBATCH --{option}" for option in _directives(launch)),
        HEADER=HEADER.format(target="slurm"),
        VALUES="\n".join(_values(launch)),
        ENVIRONMENT="\n".join(_environment(launch)),
    )


def _directives(launch: SlurmLaunch) -> Iterator[str]:
    minutes, seconds = divmod(round(launch.hours * 3600), 60)
    yield f"job-name={launch.job_name}"
    yield f"nodes={launch.nodes}"
    yield "ntasks-per-node=1"
    yield f"cpus-per-task={launch.cpus}"
    yield f"mem={quantity(launch.memory) // 2**20}M"
    if launch.gpus:
        yield f"gres=gpu:{launch.gpu_type + ':' if launch.gpu_type else ''}{launch.gpus}"
    yield f"time={minutes}:{seconds:02}"
    for option in ("partition", "account", "qos", "constraint"):
        value = getattr(launch, option)
        if value is not None:
            yield f"{option}={value}"
    yield "requeue"
    yield "open-mode=append"
    yield f"signal=B:USR1@{launch.grace + RAY_ENDS_SECONDS}"
    yield "output=%x-%j.log"


def _values(launch: SlurmLaunch) -> Iterator[str]:
    texts = {
        "spec": launch.spec,
        "results": launch.results,
        "interface": launch.interface or "",
        "local_folder": launch.local_folder,
    }
    numbers = {
        "nodes": launch.nodes,
        "cpus": launch.cpus,
        "gpus": launch.gpus,
        "object_store": quantity(launch.object_store),
        "patience": launch.patience,
        "grace": launch.grace,
        "restarts": launch.restarts,
    }
    yield from (f"{name}={shlex.quote(text)}" for name, text in texts.items())
    yield from (f"{name}={number}" for name, number in numbers.items())
    yield f"overrides=({' '.join(shlex.quote(f'--set={item}') for item in launch.overrides)})"


def _environment(launch: SlurmLaunch) -> Iterator[str]:
    if not launch.modules and launch.venv is None:
        yield "# The environment is inherited from `sbatch`."
        return
    yield "set +u # modules and virtual environments may use unset variables"
    yield from (f"module load {shlex.quote(name)}" for name in launch.modules)
    if launch.venv is not None:
        yield "# shellcheck disable=SC1091"
        yield f". {shlex.quote(launch.venv + '/bin/activate')}"
    yield "set -u"
