"""One sbatch script: a Ray cluster within one Slurm allocation, and the sweep on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from math import inf
from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from cluster.launch.validators import HEADER, Bytes, FreeText, Launch, LocalPath, Name, SharedPath, fill, quantity

__all__ = ["SlurmLaunch", "slurm_script"]


RAY_ENDS_SECONDS = 60
"""What the nodes may take to end, and the job to get back into the queue, once the sweep has ended."""


class SlurmLaunch(Launch):
    """A sweep in one allocation of Slurm, every node with the same cores and GPUs."""

    summary: ClassVar[str] = "An sbatch script: head and workers of Ray, the sweep, and the way back into the queue."
    usage: ClassVar[str] = "sbatch FILE"

    spec: Annotated[
        SharedPath, Field(description="the sweep: a file that every node sees, or the name of a shipped one")
    ]
    results: Annotated[SharedPath, Field(description="folder or URI of the tables, the same for every node")]
    overrides: Annotated[tuple[FreeText, ...], Field(description="what `lagvae run --set` gets, KEY=VALUE each")] = ()
    job_name: Annotated[Name, Field(description="name of the job")] = "lagvae"
    nodes: Annotated[int, Field(ge=1, le=10_000, description="nodes of the allocation")] = 2
    cpus: Annotated[int, Field(ge=1, le=4096, description="cores of each node")] = 8
    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs of each node; 0 for none")] = 1
    gpu_type: Annotated[Name | None, Field(description="kind of GPU, as Slurm names it; any if not given")] = None
    memory: Annotated[Bytes, Field(description="memory of each node")] = "32Gi"
    hours: Annotated[float, Field(gt=0, le=8760, description="time limit of one start of the job, in hours")] = 24.0
    restarts: Annotated[
        int, Field(ge=0, le=1000, description="how often the job queues itself again when its time is nearly over")
    ] = 20
    grace: Annotated[
        int,
        Field(
            ge=10, le=3600, description="seconds that the sweep has to end before its time is over; Ray has a minute"
        ),
    ] = 60
    patience: Annotated[int, Field(ge=10, le=7200, description="seconds until every node must have joined")] = 600
    partition: Annotated[Name | None, Field(description="partition; Slurm's own if not given")] = None
    account: Annotated[Name | None, Field(description="account; Slurm's own if not given")] = None
    qos: Annotated[Name | None, Field(description="quality of service; Slurm's own if not given")] = None
    constraint: Annotated[Name | None, Field(description="a feature that the nodes must have")] = None
    modules: Annotated[tuple[SharedPath, ...], Field(description="modules to load before anything")] = ()
    venv: Annotated[
        SharedPath | None, Field(description="virtual environment with lagvae in it, seen by every node")
    ] = None
    interface: Annotated[Name | None, Field(description="network interface of every node; by default its first")] = None
    local_folder: Annotated[LocalPath, Field(description="folder of each node for what dies with the job")] = "/tmp"
    object_store: Annotated[Bytes, Field(description="shared memory of Ray on each node")] = "512Mi"

    @field_validator("grace")
    @classmethod
    def _leaves_time(cls, grace: int, info: ValidationInfo) -> int:
        hours = info.data.get("hours", inf)
        if grace + RAY_ENDS_SECONDS >= hours * 3600:
            raise ValueError(f"leave time of the {hours:g} hours for the sweep, a minute for Ray taken off")
        return grace


def slurm_script(launch: SlurmLaunch) -> str:
    """The script. Every value of `launch` is in its directives, where its law leaves nothing to quote, or quoted."""
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
        yield "# The environment is that of `sbatch`."
        return
    yield "set +u # what is loaded here need not name its variables first"
    yield from (f"module load {shlex.quote(name)}" for name in launch.modules)
    if launch.venv is not None:
        yield "# shellcheck disable=SC1091"
        yield f". {shlex.quote(launch.venv + '/bin/activate')}"
    yield "set -u"
