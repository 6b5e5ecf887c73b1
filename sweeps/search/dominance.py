"""Which configurations are worse than another one beyond the error of the comparison, given values of several seeds.

Shape suffixes: N seeds, D objectives, M configurations. All values are oriented so that lower is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "MIN_DEGREES", "Domination", "Sample", "Spread", "find_dominating"]

Floats: TypeAlias = NDArray[np.float64]

CONFIDENCE = 0.9
"""Default one-sided confidence with which a configuration must be worse."""

MIN_DEGREES = 3
"""Smallest number of degrees of freedom of the variance between seeds. With fewer, nothing counts as worse."""

_DECIMALS = 9
"""Decimals to which means are compared. Smaller differences are rounding errors of the mean."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The finite values of one configuration.

    Args:
        config_id: Id of the configuration.
        values_ND: One row per seed, at least one.
    """

    config_id: str
    values_ND: Floats

    @cached_property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values_ND)

    @cached_property
    def mean_D(self) -> Floats:
        """Mean over the seeds, rounded."""
        mean_D: Floats = np.round(self.values_ND.mean(axis=0), _DECIMALS)
        return mean_D

    @cached_property
    def squares_D(self) -> Floats:
        """Sum of the squared deviations from the mean."""
        squares_D: Floats = ((self.values_ND - self.values_ND.mean(axis=0)) ** 2).sum(axis=0)
        return squares_D


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviations between seeds, pooled over configurations, and their degrees of freedom."""

    std_D: Floats
    degrees: int

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Spread | None:
        """Return the spread of the configurations that have at least two seeds; None if there are none."""
        replicated = [sample for sample in samples if sample.n > 1]
        if not replicated:
            return None
        degrees = sum(sample.n - 1 for sample in replicated)
        return cls(np.sqrt(np.sum([sample.squares_D for sample in replicated], axis=0) / degrees), degrees)


@dataclass(frozen=True, eq=False)
class Domination:
    """A configuration that dominates another one even after the other one is improved by a margin.

    Args:
        config_id: Id of the dominating configuration.
        margin_D: The margins.
    """

    config_id: str
    margin_D: Floats


def find_dominating(own: Sample, others: Sequence[Sample], confidence: float) -> Domination | None:
    """Return the first of `others` that dominates `own` beyond the error of the comparison.

    `own` is improved in every objective by the one-sided quantile t of Student's distribution times the standard error
    of the difference, s * sqrt(1 / n_own + 1 / n_other). The variance s^2 between seeds is pooled over `own` and all of
    `others` that have at least two seeds. A configuration dominates the improved one if it is no worse in any objective
    and better in at least one.

    Args:
        own: The configuration that is compared.
        others: The other configurations.
        confidence: Probability of the quantile, between 0.5 and 1.

    Returns:
        The dominating configuration and its margins. None if there is none, or if the pooled variance has fewer than
        `MIN_DEGREES` degrees of freedom.
    """
    from scipy.special import stdtrit

    spread = Spread.of((own, *others))
    if spread is None or spread.degrees < MIN_DEGREES or not others:
        return None
    mean_MD = np.array([other.mean_D for other in others])
    n_M = np.array([other.n for other in others])
    margin_MD = stdtrit(spread.degrees, confidence) * spread.std_D * np.sqrt(1.0 / own.n + 1.0 / n_M)[:, None]
    improved_MD = own.mean_D - np.round(margin_MD, _DECIMALS)
    dominating_M = (mean_MD <= improved_MD).all(axis=1) & (mean_MD < improved_MD).any(axis=1)
    if not dominating_M.any():
        return None
    first = int(dominating_M.argmax())
    return Domination(others[first].config_id, margin_MD[first])
