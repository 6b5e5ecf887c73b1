"""Shape of the tail of importance weights, which tells whether an estimate from these weights can be trusted.

Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling; the fit of the generalised
Pareto distribution is that of Zhang & Stephens 2009, with the weak prior of the former paper.

Shape suffixes: B examples, M weights in the tail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["FEWEST_IN_TAIL", "KHAT_LIMIT", "pareto_khat", "tail_size"]

FEWEST_IN_TAIL = 5
"""Smallest number of weights to which the tail is fitted, as in the authors' code."""

KHAT_LIMIT = 0.7
"""k-hat above which an estimate from importance weights is unreliable."""

_PRIOR_WEIGHT, _PRIOR_SHAPE = 10.0, 0.5
"""Weight, in observations, of the prior on k and its centre."""

_SMALLEST_RATIO = 1e-300
"""Smallest excess of a weight over the threshold, relative to the largest weight; smaller numbers underflow."""


def tail_size(samples: int) -> int:
    """Return the number of weights in the tail of `samples` weights: min(samples / 5, 3 sqrt(samples))."""
    return math.ceil(min(samples / 5.0, 3.0 * math.sqrt(samples)))


def pareto_khat(largest_BM: Tensor) -> Tensor:
    """Return k-hat of each example [B]: the shape of the generalised Pareto distribution of its largest weights.

    The distribution has about 1 / k finite moments, so the weights have no finite variance at k >= 0.5 and no finite
    mean at k >= 1. Equal weights have k-hat 0.

    Args:
        largest_BM: The largest `tail_size(K)` + 1 log-weights of K samples, float64. The smallest one is the threshold
            that the others exceed.

    Returns:
        k-hat, float64; NaN for a tail of fewer than `FEWEST_IN_TAIL` weights.
    """
    count = largest_BM.shape[1] - 1
    if count < FEWEST_IN_TAIL:
        return torch.full_like(largest_BM[:, 0], math.nan)
    log_w_BM = largest_BM.sort(1).values
    log_w_BM = log_w_BM - log_w_BM[:, -1:]
    threshold_B1 = log_w_BM[:, :1]
    # exp(w) - exp(threshold) without cancellation, in units of the largest excess, which does not change k
    excess_BM = (-log_w_BM[:, 1:].exp() * torch.expm1(threshold_B1 - log_w_BM[:, 1:])).clamp(min=_SMALLEST_RATIO)
    excess_BM = excess_BM / excess_BM[:, -1:]
    khat_B = _shape(excess_BM)
    equal_B = threshold_B1[:, 0] > -1e-9
    return torch.where(equal_B, torch.zeros_like(khat_B), khat_B)


def _shape(excess_BM: Tensor) -> Tensor:
    """Return the posterior mean of the shape k [B] of a generalised Pareto distribution, given sorted excesses."""
    count = excess_BM.shape[1]
    grid = 30 + math.isqrt(count)
    step_G = 1.0 - (grid / (torch.arange(1, grid + 1, dtype=torch.float64) - 0.5)).sqrt()
    quartile_B1 = excess_BM[:, math.floor(count / 4.0 + 0.5) - 1, None]
    theta_BG = 1.0 / excess_BM[:, -1:] + step_G.to(excess_BM) / (3.0 * quartile_B1)
    k_BG = torch.log1p(-theta_BG[:, :, None] * excess_BM[:, None]).mean(2)
    log_likelihood_BG = count * ((-theta_BG / k_BG).log() - k_BG - 1.0)
    theta_B = (theta_BG * log_likelihood_BG.softmax(1)).sum(1)
    k_B = torch.log1p(-theta_B[:, None] * excess_BM).mean(1)
    return (count * k_B + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (count + _PRIOR_WEIGHT)
