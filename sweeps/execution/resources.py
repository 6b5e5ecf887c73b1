"""How many runs the nodes of a cluster can hold at a time, and the resources that each run occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.machine import available_cores
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
    """Numbers of cores and GPUs of one node that runs can use."""

    cpus: int
    gpus: float

    def fits(self, resources: ResourceSpec) -> int:
        """Return how many runs fit on the node at a time. A fraction of a GPU is never split between two GPUs."""
        by_cpus = self.cpus // resources.cpus
        gpus = resources.gpu_share
        if not gpus:
            return by_cpus
        # 1e-9 prevents a rounding error from leaving the quotient slightly below the correct whole number.
        by_gpus = int(self.gpus) * int(1 / gpus + 1e-9) if gpus < 1 else int(self.gpus / gpus + 1e-9)
        return min(by_cpus, by_gpus)


def local_capacity() -> NodeCapacity:
    """Return the cores that this process may use, and the GPUs of this machine."""
    import torch

    return NodeCapacity(available_cores(), torch.cuda.device_count())


def cluster_nodes(ray: Any) -> list[NodeCapacity]:
    """Return the capacity of each live node of the cluster that `ray` is connected to."""
    resources: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeCapacity(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in resources]


def concurrent_runs(resources: ResourceSpec, nodes: Sequence[NodeCapacity], *, grows: bool = False) -> int:
    """Return the maximum number of concurrent runs on the nodes.

    Args:
        resources: The resources of one run, and the limit `concurrent`.
        nodes: The nodes that exist now.
        grows: Whether the cluster may add nodes. If so, a number in `concurrent` is returned unchanged, because the
            final size of the cluster is unknown: runs that do not fit yet make it grow.

    Raises:
        ConfigError: No node can hold a run.
    """
    if grows and resources.concurrent != "auto":
        return resources.concurrent
    fit = sum(node.fits(resources) for node in nodes)
    if not fit:
        raise ConfigError(_too_large(resources, nodes, grows))
    return fit if resources.concurrent == "auto" else min(fit, resources.concurrent)


def check_fits(resources: ResourceSpec, nodes: Sequence[NodeCapacity], *, grows: bool = False) -> None:
    """Check that a run fits on a node. With `gpus: auto`, only cores are checked: the fraction of a GPU is unknown.

    Raises:
        ConfigError: No node can hold a run. If `grows` is true, this is an error only if `concurrent` is `auto`.
    """
    concurrent_runs(resources.with_gpus(0) if resources.gpus == "auto" else resources, nodes, grows=grows)


def _too_large(resources: ResourceSpec, nodes: Sequence[NodeCapacity], grows: bool) -> list[ValidationIssue]:
    or_grow = ", or set resources.concurrent to the number of runs that the grown cluster can hold" if grows else ""
    cpus, gpus = max((node.cpus for node in nodes), default=0), max((node.gpus for node in nodes), default=0)
    if len(nodes) == 1:
        most_cpus, most_gpus = f"{cpus} available cores", f"{gpus:g} available GPUs"
    else:
        most_cpus, most_gpus = f"{cpus} cores of the largest node", f"{gpus:g} GPUs of the largest node"
    issues = []
    if resources.cpus > cpus:
        hint = f"Lower resources.cpus{or_grow}."
        issues.append(ValidationIssue("resources.cpus", f"must not exceed the {most_cpus}", hint, resources.cpus))
    if resources.gpu_share > gpus:
        hint = f"Lower resources.gpus{or_grow}."
        issues.append(ValidationIssue("resources.gpus", f"must not exceed the {most_gpus}", hint, resources.gpu_share))
    if issues:
        return issues
    both = f"{resources.cpus} cores and {resources.gpu_share:g} GPUs"
    hint = f"Lower resources.cpus or resources.gpus{or_grow}."
    return [ValidationIssue("resources", "must fit on one node, but no node has enough cores and GPUs", hint, both)]


def shared_resources(resources: ResourceSpec) -> dict[str, float]:
    """Return the resources, in Ray's terms, that a run occupies on a node that it may share with other runs."""
    if resources.gpu_share:
        return {"CPU": resources.cpus, "GPU": resources.gpu_share}
    return {"CPU": resources.cpus}


def exclusive_resources(resources: ResourceSpec, nodes: Sequence[NodeCapacity]) -> dict[str, float]:
    """Return the resources, in Ray's terms, of a run that must not share its GPUs or, without GPUs, its node.

    These are whole GPUs, or without GPUs as many cores as the largest node has.
    """
    if resources.gpu_share:
        return {"CPU": resources.cpus, "GPU": math.ceil(resources.gpu_share)}
    return {"CPU": max([resources.cpus, *(node.cpus for node in nodes)])}
