"""Optuna samplers by name. To add a sampler, add one entry to `SAMPLERS`."""

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
"""Maps each value of `search.sampler` to a class in `optuna.samplers`.

The class given for `grid` is never used, because `ArmStudy` enumerates the grid itself.
"""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return a new Optuna sampler, seeded with `seed`. `name` is a key of `SAMPLERS`."""
    import optuna

    sampler: Callable[..., BaseSampler] = getattr(optuna.samplers, SAMPLERS[name])
    return sampler(seed=seed % 2**32)
