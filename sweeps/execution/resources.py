"""How many runs the nodes of a cluster hold at a time, and the resources that a run occupies."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.spec.sections import ResourceSpec

__all__ = [
    "NodeCapacity",
    "check_fits",
    "cluster_nodes",
    "concurrent_runs",
    "exclusive_resources",
    "local_capacity",
    "shared_resources",
]


@dataclass(frozen=True)
class NodeCapacity:
    """The cores and GPUs that a node offers to runs."""

    cpus: int
    gpus: float

    def fits(self, resources: ResourceSpec) -> int:
        """Return how many runs the node holds at a time. A run that needs a fraction of a GPU stays on one GPU."""
        by_cpus = self.cpus // resources.cpus
        gpus = resources.gpu_share
        if not gpus:
            return by_cpus
        # Rounding may leave the quotient of two floats slightly below a whole number.
        by_gpus = int(self.gpus) * int(1 / gpus + 1e-9) if gpus < 1 else int(self.gpus / gpus + 1e-9)
        return min(by_cpus, by_gpus)


def local_capacity() -> NodeCapacity:
    """Return the cores that this process may use, and the GPUs of this machine."""
    import torch

    return NodeCapacity(len(os.sched_getaffinity(0)), torch.cuda.device_count())


def cluster_nodes(ray: Any) -> list[NodeCapacity]:
    """Return the living nodes of the cluster that `ray` is connected to."""
    resources: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeCapacity(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in resources]


def concurrent_runs(resources: ResourceSpec, nodes: Sequence[NodeCapacity], *, grows: bool = False) -> int:
    """Return how many runs to keep on the nodes at a time.

    Args:
        resources: The resources of one run, and `concurrent`, the limit.
        nodes: The nodes that exist now.
        grows: The cluster may add nodes. Its final size is unknown, so a number in `concurrent` is taken for it: runs
            that do not fit yet make the cluster grow.

    Raises:
        ConfigError: No node holds a single run.
    """
    if grows and resources.concurrent != "auto":
        return resources.concurrent
    fit = sum(node.fits(resources) for node in nodes)
    if not fit:
        raise ConfigError(_too_large(resources, nodes, grows))
    return fit if resources.concurrent == "auto" else min(fit, resources.concurrent)


def check_fits(resources: ResourceSpec, nodes: Sequence[NodeCapacity], *, grows: bool = False) -> None:
    """Check that a run fits on a node. With `gpus: auto` only the cores count, because the share is not known yet.

    Raises:
        ConfigError: No node holds a run, and none may be added.
    """
    concurrent_runs(resources.with_gpus(0) if resources.gpus == "auto" else resources, nodes, grows=grows)


def _too_large(resources: ResourceSpec, nodes: Sequence[NodeCapacity], grows: bool) -> list[ValidationIssue]:
    hint = "Lower it."
    if grows:
        hint = "Lower it, or set resources.concurrent to the number of runs that the cluster can grow to."
    cpus, gpus = max((node.cpus for node in nodes), default=0), max((node.gpus for node in nodes), default=0)
    if len(nodes) == 1:
        most_cpus, most_gpus = f"{cpus} available cores", f"{gpus:g} available GPUs"
    else:
        most_cpus, most_gpus = f"{cpus} cores of the largest node", f"{gpus:g} GPUs of the largest node"
    issues = []
    if resources.cpus > cpus:
        issues.append(ValidationIssue("resources.cpus", f"must be at most the {most_cpus}", hint, resources.cpus))
    if resources.gpu_share > gpus:
        issues.append(ValidationIssue("resources.gpus", f"must be at most the {most_gpus}", hint, resources.gpu_share))
    if issues:
        return issues
    both = f"{resources.cpus} cores and {resources.gpu_share:g} GPUs"
    return [ValidationIssue("resources", "no node has as many cores and GPUs together", hint, both)]


def shared_resources(resources: ResourceSpec) -> dict[str, float]:
    """Return what a run occupies of a node, as resources of Ray."""
    if resources.gpu_share:
        return {"CPU": resources.cpus, "GPU": resources.gpu_share}
    return {"CPU": resources.cpus}


def exclusive_resources(resources: ResourceSpec, nodes: Sequence[NodeCapacity]) -> dict[str, float]:
    """Return what a run occupies that must not share: whole GPUs, or without GPUs all cores of the largest node."""
    if resources.gpu_share:
        return {"CPU": resources.cpus, "GPU": math.ceil(resources.gpu_share)}
    return {"CPU": max([resources.cpus, *(node.cpus for node in nodes)])}
