"""Active units: latent dimensions whose posterior mean depends on the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["THRESHOLD", "ActiveUnits", "active_units"]

THRESHOLD = 0.01


@dataclass(frozen=True)
class ActiveUnits:
    """Number of active units, and the variance of the posterior mean in each dimension."""

    count: int
    variance: tuple[float, ...]


def active_units(mean_NZ: Tensor, prior_std_Z: Tensor | None = None, mean_noise_Z: Tensor | None = None) -> ActiveUnits:
    """Return the number of dimensions d with Var_x(E_q[z_d|x]) >= 0.01, and the variances (`au`).

    Variances are computed over the whole split in float64, with denominator N - 1. Source: Burda et al. 2016, section
    5.2. The paper uses > 0.01; published implementations use >=.

    Args:
        mean_NZ: Posterior means of N examples.
        prior_std_Z: Standard deviations of a zero-mean diagonal Gaussian prior; None for N(0, I). Means are divided by
            them, so that a strategy that only rescales the latent space gains nothing.
        mean_noise_Z: Variance of the Monte Carlo error of the means, subtracted from the variances; None if the means
            are exact.
    """
    mean = mean_NZ.double()
    variance = mean.var(0, correction=1) if len(mean) > 1 else mean.new_zeros(mean.shape[1])
    if mean_noise_Z is not None:
        variance = (variance - mean_noise_Z.to(mean)).clamp(min=0.0)
    if prior_std_Z is not None:
        variance = variance / prior_std_Z.to(mean).square()
    return ActiveUnits(int((variance >= THRESHOLD).sum()), tuple(variance.tolist()))
