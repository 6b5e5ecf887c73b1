"""`gpus: auto`: how many runs share a GPU, from what one run of each arm takes of its memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.runtime import CONTEXT_BYTES
from sweeps.spec.sweep import SweepSpec

__all__ = ["MemoryEstimate", "estimate_memory", "gpu_share_for", "largest_estimate"]

MARGIN = 1.25
"""On what was rehearsed: other values of the searched fields, other batches, gaps of the allocator."""

MOST = 16
"""Runs on one GPU. More processes wait for each other more than they gain."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What the rehearsal of an arm took of the memory of the device it ran on. `error`: why it is not known."""

    arm: str
    peak_bytes: int
    device_bytes: int
    error: str = ""

    @property
    def runs(self) -> int:
        """How many such runs the device holds, from 1 to 16."""
        if self.error or not self.device_bytes:
            return 1
        return min(MOST, max(1, int(self.device_bytes / (MARGIN * self.peak_bytes + CONTEXT_BYTES))))


def largest_estimate(estimates: Sequence[MemoryEstimate]) -> MemoryEstimate:
    """The first of those of which the fewest share a GPU."""
    return min(estimates, key=lambda estimate: estimate.runs)


def gpu_share_for(estimates: Sequence[MemoryEstimate]) -> float:
    """The share of a GPU that is enough for each: 1/n for the largest n that fits the most demanding."""
    return 1 / largest_estimate(estimates).runs


def estimate_on_gpu(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Rehearse a configuration on the GPU that this process was given; the fields of a `Demand` but for its arm."""
    import torch

    from lagvae_core import TrialConfig
    from lagvae_core.runtime import choose_device
    from lagvae_core.training.memory_estimate import estimate_peak_memory
    from sweeps.execution.datasets import load_trial_data
    from sweeps.execution.failures import describe_failure

    device = choose_device("auto")
    if device.type == "cpu":
        return {"peak_bytes": 0, "device_bytes": 0, "error": "PyTorch sees no CUDA device there"}
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        config = TrialConfig.model_validate(setting["config"])
        peak = estimate_peak_memory(config, load_trial_data(config.data.model_dump_json()), device)
    except Exception as error:
        # The run itself will tell the whole of it; here it only means that nothing is known.
        return {"peak_bytes": 0, "device_bytes": total, "error": describe_failure(error)["stop_reason"]}
    return {"peak_bytes": peak, "device_bytes": total}


def estimate_memory(ray: Any, spec: SweepSpec, arms: Collection[str]) -> list[MemoryEstimate]:
    """What each of `arms` of `spec` takes, each rehearsed on a whole GPU, as soon as one is free."""
    cpus = spec.resources.cpus
    task = ray.remote(num_cpus=cpus, num_gpus=1, max_calls=1)(estimate_on_gpu)
    settings = {arm.name: spec.trial_config(arm, arm.probe(), seed=0) for arm in spec.arms if arm.name in arms}
    tasks = {arm: task.remote({"config": config.model_dump(mode="json")}) for arm, config in settings.items()}
    return [MemoryEstimate(arm, **_answer(ray, reference)) for arm, reference in tasks.items()]


def _answer(ray: Any, reference: Any) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        return {"peak_bytes": 0, "device_bytes": 0, "error": f"{type(error).__name__}: its process was lost"}
    return answer
