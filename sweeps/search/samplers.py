"""Optuna samplers by name."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler

__all__ = ["make_sampler"]


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return the Optuna sampler called `name`, seeded for one suggestion.

    The grid sampler is never asked, since `ArmStudy` enumerates grids itself; it maps to random sampling.
    """
    seed %= 2**32
    match name:
        case "random" | "grid":
            return optuna.samplers.RandomSampler(seed=seed)
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
    raise AssertionError(f"unknown sampler {name}")
