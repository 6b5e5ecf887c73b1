"""Active units: latent dimensions whose posterior mean depends on the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["THRESHOLD", "ActiveUnits", "active_units"]

THRESHOLD = 0.01


@dataclass(frozen=True)
class ActiveUnits:
    count: int
    variance: tuple[float, ...]


def active_units(mean_NZ: Tensor, prior_std_Z: Tensor | None = None, mean_noise_Z: Tensor | None = None) -> ActiveUnits:
    """The number of dimensions d with Var_x(E_q[z_d|x]) >= 0.01, and the variances (`au`).

    The means are counted in units of the prior's standard deviation where the prior is a zero-mean diagonal Gaussian
    other than N(0, I), so that a remedy which only rescales its latent space gains nothing. Variance with N - 1, over
    the whole split, float64. `mean_noise_Z`, the variance that comes from the means' own Monte Carlo error, is taken
    off first. Source: Burda et al. 2016, section 5.2 (there > 0.01; the public codes use >=).
    """
    mean = mean_NZ.double()
    variance = mean.var(0, correction=1) if len(mean) > 1 else mean.new_zeros(mean.shape[1])
    if mean_noise_Z is not None:
        variance = (variance - mean_noise_Z.to(mean)).clamp(min=0.0)
    if prior_std_Z is not None:
        variance = variance / prior_std_Z.to(mean).square()
    return ActiveUnits(int((variance >= THRESHOLD).sum()), tuple(variance.tolist()))
