"""Estimate of a trial's peak GPU memory, from a short trial.

The short trial trains on the largest batches, then validates and measures a few examples of each split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset
from lagvae_core.errors import Diverged
from lagvae_core.runtime import peak_reserved_bytes, reset_peak_memory
from lagvae_core.training.trial import Trial

__all__ = ["estimate_peak_memory"]

UPDATES = 2
"""Number of training batches. The first update creates the optimiser state; the second is like all later ones."""

EXAMPLES = 256
"""Number of examples measured per split. Peak memory depends on the length of the examples, not on their number."""


def estimate_peak_memory(config: TrialConfig, dataset: Dataset, device: torch.device) -> int:
    """Return the peak memory [bytes] that a trial reserves on `device`; on a CPU, the resident set of the process.

    All training batches are on the device, as in a full trial, but only the two largest are used for training. The true
    peak may be higher: a later epoch may have larger batches, and the allocator's memory becomes fragmented over time.

    Args:
        config: Configuration of the trial.
        dataset: Data of the trial.
        device: Device of the trial.
    """
    data = config.data.model_copy(update={"partition": "fixed_random"})
    source: Any = dataset
    short = {name: getattr(dataset, name).limit(EXAMPLES) for name in ("train", "valid", "test")}
    reset_peak_memory(device)
    trial = Trial(
        config.model_copy(update={"data": data}), replace(source, valid=short["valid"], test=short["test"]), device
    )
    all_batches = trial.train_batches  # keeps the batches on the device
    trial.learner.batches = sorted(all_batches, key=lambda batch: batch.units)[-UPDATES:]
    trial.dataset = replace(source, **short)
    try:
        trial.fit(report=lambda record: "stop")
        trial.measure()
    except Diverged:
        pass  # an untrained model may diverge; the memory reserved before that still counts
    return peak_reserved_bytes(device)
