"""Optuna samplers by name. To add a sampler, add one entry to `SAMPLERS`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["SAMPLERS", "SamplerBudget", "make_sampler"]

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


@dataclass(frozen=True)
class SamplerBudget:
    """The size of the search of one arm, from which the settings of its sampler follow.

    Optuna's own defaults are made for hundreds of trials: TPE and GP start with 10 random points, NSGA-II with 50. An
    arm often has fewer configurations, so that it would only ever be searched at random.

    Args:
        dimensions: Number of searched fields.
        configurations: Number of configurations.
        conditional: Whether some field is searched only under a condition.
    """

    dimensions: int
    configurations: int
    conditional: bool = False

    @property
    def startup(self) -> int:
        """Number of configurations at the start that TPE and GP choose at random.

        That are twice as many as dimensions, because fewer points do not show which field matters, but at most a third
        of the budget and at most 10, which is Optuna's default. Two points are needed to compare anything.
        """
        return max(2, min(2 * self.dimensions, self.configurations // 3, 10))

    @property
    def population(self) -> int:
        """Size of a generation of NSGA-II: a quarter of the budget, so that it has four, but 4 to 50 configurations."""
        return max(4, min(self.configurations // 4, 50))


def make_sampler(name: str, seed: int, budget: SamplerBudget) -> BaseSampler:
    """Return a new Optuna sampler for one arm.

    Args:
        name: Key of `SAMPLERS`.
        seed: Seed of the sampler.
        budget: Size of the search.
    """
    import optuna

    sampler: Callable[..., BaseSampler] = getattr(optuna.samplers, SAMPLERS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler(seed=seed % 2**32, **_options(name, budget))


def _options(name: str, budget: SamplerBudget) -> dict[str, Any]:
    if name == "tpe":
        # Independent TPE cannot see that, for example, a large learning rate needs a long warm-up.
        return {"n_startup_trials": budget.startup, "multivariate": True, "group": budget.conditional}
    if name == "gp":
        return {"n_startup_trials": budget.startup, "warn_independent_sampling": False}
    if name == "nsga2":
        return {"population_size": budget.population}
    return {}
