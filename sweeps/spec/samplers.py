"""Optuna samplers by name. A sampler is one entry of `SAMPLERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["SAMPLERS", "make_sampler"]

SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "grid": "RandomSampler",
    "nsga2": "NSGAIISampler",
    "gp": "GPSampler",
}
"""Values of `search.sampler`, and the class in `optuna.samplers`. `ArmStudy` enumerates a grid and asks no sampler."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return the Optuna sampler called `name`, seeded for one suggestion."""
    import optuna

    sampler: Callable[..., BaseSampler] = getattr(optuna.samplers, SAMPLERS[name])
    return sampler(seed=seed % 2**32)
