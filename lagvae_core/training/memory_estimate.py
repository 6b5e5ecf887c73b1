"""How much of a GPU's memory a trial takes: its largest batches once through training, validation and measurement."""

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
"""The first makes the optimisers' state, the second is like all others."""

EXAMPLES = 256
"""Measured of each split: what measurement takes at a time depends on the length of examples, not on their number."""


def estimate_peak_memory(config: TrialConfig, dataset: Dataset, device: torch.device) -> int:
    """The most memory [bytes] that the allocator of `device` reserves; on a CPU the process's resident set.

    Every training batch is held, as in a trial, and the largest two are trained on. An estimate: a later epoch may
    partition the data otherwise, and an allocator that is used for hours leaves gaps.
    """
    data = config.data.model_copy(update={"partition": "fixed_random"})
    source: Any = dataset
    short = {name: getattr(dataset, name).limit(EXAMPLES) for name in ("train", "valid", "test")}
    reset_peak_memory(device)
    trial = Trial(
        config.model_copy(update={"data": data}), replace(source, valid=short["valid"], test=short["test"]), device
    )
    held = trial.train_batches
    trial.train_batches = trial.learner.batches = sorted(held, key=lambda batch: batch.units)[-UPDATES:]
    trial.dataset = replace(source, **short)
    try:
        trial.fit(report=lambda record: "stop")
        trial.measure(lambda progress: None)
    except Diverged:
        pass  # an untrained model may; what it took until then it took
    return peak_reserved_bytes(device)
