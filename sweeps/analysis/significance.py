"""Differences between two samples: effect with an interval, exact permutation test, and Holm's correction.

Shape suffixes: N and M values, K comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.statistics import CONFIDENCE, Interval, Statistic, student_interval

__all__ = ["ALPHA", "Difference", "holm", "independent_difference", "paired_difference", "required_size"]

ALPHA = 0.05
"""Largest p-value that counts as significant."""

RESAMPLES = 20_000
"""Largest number of permutations. It covers all of them up to 14 pairs, and up to 8 values in each of two samples."""

DECIMALS = 9
"""Decimals to which values are compared. Smaller differences are rounding errors."""


@dataclass(frozen=True)
class Difference:
    """Mean of a sample minus the mean of a baseline.

    Args:
        mean: The difference.
        interval: Interval for the difference by Student's t, which assumes normal values; None if a sample has too few
            values for an estimate of its spread.
        p: Two-sided p-value of the permutation test; None if no outcome with this many values could be significant.
        paired: Whether the values were compared pair by pair.
        n: Number of values of the sample, and of pairs if the values are paired.
        baseline_n: Number of values of the baseline.
        required: Smallest number of pairs, or of values in each sample, with which the test can be significant.
    """

    mean: float
    interval: Interval | None
    p: float | None
    paired: bool
    n: int
    baseline_n: int
    required: int


def paired_difference(values_N: ArrayLike, baseline_N: ArrayLike, comparisons: int = 1) -> Difference:
    """Compare two samples of N pairs.

    The interval is that of the paired t-test. The test flips the signs of the differences: its null hypothesis is that
    each difference is as likely to be negative as positive (Fisher 1935, The Design of Experiments, section 21). It is
    exact up to 14 pairs, and beyond by `RESAMPLES` random permutations with a fixed seed.

    Args:
        values_N: Values of the sample, in any unit.
        baseline_N: Values of the baseline, in the same order.
        comparisons: Number of comparisons for which the p-values will be corrected.

    Raises:
        ValueError: The samples are empty, not finite, or of different lengths.
    """
    values_N, baseline_N = _sample(values_N, "values_N"), _sample(baseline_N, "baseline_N")
    if len(values_N) != len(baseline_N):
        raise ValueError(f"values_N must have the length of baseline_N, {len(baseline_N)}, got {len(values_N)}.")
    n = len(values_N)
    difference_N = np.round(values_N - baseline_N, DECIMALS)
    statistic = Statistic.of(difference_N)
    assert statistic is not None
    required = required_size(_smallest_paired_p, comparisons)
    p = _permutation_p((difference_N,), _mean, "samples") if n >= required else None
    return Difference(statistic.mean, statistic.interval(), p, True, n, n, required)


def independent_difference(values_N: ArrayLike, baseline_M: ArrayLike, comparisons: int = 1) -> Difference:
    """Compare two independent samples.

    The interval is Welch's, which does not assume equal variances (Welch 1947). The test permutes the values between
    the samples: its null hypothesis is that both have the same distribution (Fisher 1935; Pitman 1937). It is exact up
    to 8 values in each sample, and beyond by `RESAMPLES` random permutations with a fixed seed. With very different
    variances and sizes, it rejects equal means too often or too rarely; the interval does not.

    Args:
        values_N: Values of the sample, in any unit.
        baseline_M: Values of the baseline.
        comparisons: Number of comparisons for which the p-values will be corrected.

    Raises:
        ValueError: A sample is empty or not finite.
    """
    values_N, baseline_M = _sample(values_N, "values_N"), _sample(baseline_M, "baseline_M")
    n, m = len(values_N), len(baseline_M)
    difference = float(np.round(values_N.mean() - baseline_M.mean(), DECIMALS))
    interval = None
    if n > 1 and m > 1:
        square, baseline_square = values_N.var(ddof=1) / n, baseline_M.var(ddof=1) / m
        se = math.sqrt(square + baseline_square)
        degrees = se**4 / (square**2 / (n - 1) + baseline_square**2 / (m - 1)) if se > 0 else n + m - 2
        interval = student_interval(difference, se, degrees, CONFIDENCE)
    samples = np.round(values_N, DECIMALS), np.round(baseline_M, DECIMALS)
    is_possible = comparisons * 2 / math.comb(n + m, n) <= ALPHA
    p = _permutation_p(samples, _mean_difference, "independent") if is_possible else None
    return Difference(difference, interval, p, False, n, m, required_size(_smallest_independent_p, comparisons))


def required_size(smallest_p: Callable[[int], float], comparisons: int) -> int:
    """Return the smallest n for which `smallest_p(n)`, corrected for `comparisons`, is at most `ALPHA`."""
    return next(n for n in count(1) if comparisons * smallest_p(n) <= ALPHA)


def holm(p_K: Sequence[float | None], comparisons: int | None = None) -> list[float | None]:
    """Correct p-values for the number of comparisons, so that the chance of any false positive is at most `ALPHA`.

    A comparison without a p-value counts as one that could not be significant: it stays None, and the correction of the
    others includes it. Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    Args:
        p_K: The p-values; None for a comparison without one.
        comparisons: Number of comparisons; None for the length of `p_K`.

    Returns:
        The corrected p-values, in the same order.
    """
    total = len(p_K) if comparisons is None else comparisons
    corrected: list[float | None] = [None] * len(p_K)
    largest = 0.0
    known = sorted((p, k) for k, p in enumerate(p_K) if p is not None)
    for place, (p, k) in enumerate(known):
        largest = max(largest, min(1.0, (total - place) * p))
        corrected[k] = largest
    return corrected


def _smallest_paired_p(n: int) -> float:
    """Return the two-sided p-value if all n differences have the same sign."""
    return float(2.0 ** (1 - n))


def _smallest_independent_p(n: int) -> float:
    """Return the two-sided p-value if all n values of one sample exceed all n values of the other."""
    return 2 / math.comb(2 * n, n)


def _permutation_p(samples: Sequence[NDArray[np.float64]], statistic: Callable[..., Any], kind: str) -> float:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(0)
    result = permutation_test(
        samples, statistic, permutation_type=kind, vectorized=True, n_resamples=RESAMPLES, random_state=generator
    )
    return float(result.pvalue)


def _mean(values: NDArray[np.float64], axis: int = -1) -> Any:
    return values.mean(axis=axis)


def _mean_difference(values: NDArray[np.float64], baseline: NDArray[np.float64], axis: int = -1) -> Any:
    return values.mean(axis=axis) - baseline.mean(axis=axis)


def _sample(values: ArrayLike, name: str) -> NDArray[np.float64]:
    sample: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"{name} must be a list of finite numbers, got {sample.tolist()}.")
    return sample
