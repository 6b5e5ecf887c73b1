"""GPU sharing with `gpus: auto`: how many runs share a GPU follows from the estimated peak memory of each arm."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lagvae_core.runtime import CONTEXT_BYTES
from sweeps.spec.sweep import SweepSpec

__all__ = ["MARGIN", "MemoryEstimate", "estimate_memory", "gpu_share_for", "largest_estimate"]

MARGIN = 1.25
"""Factor on the estimated memory. It allows for larger values of searched fields, larger batches, and fragmentation."""

MAX_RUNS_PER_GPU = 16
"""Maximum number of runs on one GPU. With more, the processes lose more time waiting for each other than they gain."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated peak memory of one run of an arm.

    Args:
        arm: Name of the arm.
        peak_bytes: Peak GPU memory of the run.
        device_bytes: Total memory of the GPU.
        error: Why there is no estimate; "" if there is one.
    """

    arm: str
    peak_bytes: int
    device_bytes: int
    error: str = ""

    @property
    def runs(self) -> int:
        """Number of such runs that fit on the GPU, from 1 to 16; 1 if there is no estimate."""
        if self.error or not self.device_bytes:
            return 1
        fit = int(self.device_bytes / (MARGIN * self.peak_bytes + CONTEXT_BYTES))
        return min(MAX_RUNS_PER_GPU, max(1, fit))


def largest_estimate(estimates: Sequence[MemoryEstimate]) -> MemoryEstimate:
    """Return the estimate with the fewest runs per GPU; the first one if several have equally few."""
    return min(estimates, key=lambda estimate: estimate.runs)


def gpu_share_for(estimates: Sequence[MemoryEstimate]) -> float:
    """Return the fraction of a GPU that suffices for every arm: 1/n, where n is the smallest number of runs per GPU."""
    return 1 / largest_estimate(estimates).runs


def estimate_memory(ray: Any, spec: SweepSpec, arms: Collection[str]) -> list[MemoryEstimate]:
    """Estimate the peak memory of one run of each of `arms`. Each estimate waits until it has a whole GPU."""
    task = ray.remote(num_cpus=spec.resources.cpus, num_gpus=1, max_calls=1)(estimate_on_gpu)
    configs = {arm.name: spec.trial_config(arm, arm.probe(), seed=0) for arm in spec.arms if arm.name in arms}
    plugins = [asdict(plugin) for plugin in spec.plugins]
    pending = {arm: task.remote(config.model_dump(mode="json"), plugins) for arm, config in configs.items()}
    return [MemoryEstimate(arm, **_result(ray, reference)) for arm, reference in pending.items()]


def estimate_on_gpu(config_values: Mapping[str, Any], plugins: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """Estimate the peak memory of a configuration on the GPU that Ray assigned to this process.

    Args:
        config_values: The configuration.
        plugins: Fields of the plugins that it needs.

    Returns:
        The fields of a `MemoryEstimate` without `arm`.
    """
    import torch

    from lagvae_core import TrialConfig
    from lagvae_core.plugins import Plugin, load_plugins
    from lagvae_core.runtime import choose_device
    from lagvae_core.training.memory_estimate import estimate_peak_memory
    from sweeps.execution.datasets import load_trial_data
    from sweeps.execution.failures import describe_failure

    device = choose_device("auto")
    if device.type == "cpu":
        return {"peak_bytes": 0, "device_bytes": 0, "error": "PyTorch finds no CUDA device on the node"}
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        load_plugins([Plugin(**values) for values in plugins])
        config = TrialConfig.model_validate(config_values)
        peak = estimate_peak_memory(config, load_trial_data(config.data.model_dump_json()), device)
    except Exception as error:
        # The error only prevents an estimate. If a run fails in the same way, its row contains the full error.
        return {"peak_bytes": 0, "device_bytes": total, "error": describe_failure(error)["stop_reason"]}
    return {"peak_bytes": peak, "device_bytes": total}


def _result(ray: Any, reference: Any) -> Mapping[str, Any]:
    """Wait for an estimate and return its fields. If its process was lost, the fields contain an error."""
    try:
        while not ray.wait([reference], timeout=0.5)[0]:
            pass  # short waits, because an interruption cannot end a wait inside of Ray
        result: Mapping[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        return {"peak_bytes": 0, "device_bytes": 0, "error": f"{type(error).__name__}: the process was lost"}
    return result
