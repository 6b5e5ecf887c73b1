"""What fits where: how many runs the nodes hold at a time, and what a run is given of one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.spec.sweep import ResourceSpec

__all__ = ["NodeCapacity", "alone", "capacity", "local_capacity", "nodes_of", "share"]


@dataclass(frozen=True)
class NodeCapacity:
    """The cores and GPUs that a machine gives to runs."""

    cpus: int
    gpus: float

    def fits(self, wish: ResourceSpec) -> int:
        """How many runs it holds at a time. Fractions of a GPU are fractions of the same one."""
        by_cpus = self.cpus // wish.cpus
        gpus = wish.gpu_share
        if not gpus:
            return by_cpus
        # The quotient of floats may lie a rounding below a whole number.
        by_gpus = int(self.gpus) * int(1 / gpus + 1e-9) if gpus < 1 else int(self.gpus / gpus + 1e-9)
        return min(by_cpus, by_gpus)


def local_capacity() -> NodeCapacity:
    """The cores that this process may use, and the GPUs."""
    import torch

    return NodeCapacity(len(os.sched_getaffinity(0)), torch.cuda.device_count())


def nodes_of(ray: Any) -> list[NodeCapacity]:
    """The living nodes of the cluster that `ray` is connected to."""
    resources: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeCapacity(int(found.get("CPU", 0)), found.get("GPU", 0.0)) for found in resources]


def capacity(wish: ResourceSpec, nodes: Sequence[NodeCapacity], *, grows: bool = False) -> int:
    """How many runs to have at a time: `concurrent` at most, and what fits; ConfigError if no node holds one.

    A cluster that `grows` may have nodes to come, of which it does not tell; there `concurrent`, where it is a number,
    is taken for what it can grow to, and the runs that do not fit yet are what makes it grow.
    """
    if grows and wish.concurrent != "auto":
        return wish.concurrent
    fit = sum(node.fits(wish) for node in nodes)
    if not fit:
        raise ConfigError(_too_much(wish, nodes, grows))
    return fit if wish.concurrent == "auto" else min(fit, wish.concurrent)


def _too_much(wish: ResourceSpec, nodes: Sequence[NodeCapacity], grows: bool) -> list[ValidationIssue]:
    hint = "Lower it" + (", or set resources.concurrent to the runs that the cluster can grow to." if grows else ".")
    where = "there are" if len(nodes) == 1 else "the largest node has"
    cpus, gpus = max((node.cpus for node in nodes), default=0), max((node.gpus for node in nodes), default=0)
    issues = []
    if wish.cpus > cpus:
        issues.append(ValidationIssue("resources.cpus", f"must be at most the {cpus} cores {where}", hint, wish.cpus))
    if wish.gpu_share > gpus:
        issues.append(
            ValidationIssue("resources.gpus", f"must be at most the {gpus:g} GPUs {where}", hint, wish.gpu_share)
        )
    both = f"{wish.cpus} cores and {wish.gpu_share:g} GPUs"
    return issues or [ValidationIssue("resources", "must be on one node, and none has both", hint, both)]


def share(wish: ResourceSpec) -> dict[str, float]:
    """What a run is given of a node."""
    return {"CPU": wish.cpus, "GPU": wish.gpu_share} if wish.gpu_share else {"CPU": wish.cpus}


def alone(wish: ResourceSpec, nodes: Sequence[NodeCapacity]) -> dict[str, float]:
    """What a run is given that must be alone: whole GPUs, or without any all cores of the largest node."""
    if wish.gpu_share:
        return {"CPU": wish.cpus, "GPU": math.ceil(wish.gpu_share)}
    return {"CPU": max([wish.cpus, *(node.cpus for node in nodes)])}
