"""Moments of the true model posterior p(z|x), by integration over a grid or by importance sampling.

Shape suffixes: G grid points, K samples, Z latent dimensions, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import Batch
from lagvae_core.metrics.encoding import Infer
from lagvae_core.models.gaussian import Prior
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import example_noise

__all__ = ["MeanSpace", "PosteriorMoments", "mean_space", "moments_by_grid", "moments_by_importance", "moments_of"]

STEP = 0.1
"""Step of the first grid, in standard deviations of the prior."""

HALF_WIDTHS = {1: 20.0, 2: 5.0}
"""Half-width of the first grid for each number of latent dimensions, in standard deviations of the prior."""

EDGE_WEIGHT = 1e-8
"""Posterior mass within one step of the boundary from which a grid counts as too small."""

WIDER, WIDENINGS = 1.5, 8
"""Factor by which a grid is widened, and the largest number of times that it is widened."""

FINER, REFINEMENTS = 2, 12
"""Factor by which a step is divided, and the largest number of times that it is divided."""

SUPPORT_WEIGHT = 1e-18
"""Posterior mass below which the outer rows and columns of a grid are left out of the finer grid."""

MOST_POINTS = 2**20
"""Largest number of points of a refined grid."""

SMALLEST_SD = 1e-6
"""Standard deviation below which means are equal up to rounding errors, so that no correlation is computed."""


@dataclass(frozen=True)
class PosteriorMoments:
    """Moments of p(z|x) of N examples, in example order, float64, on the CPU.

    Args:
        mean_NZ: Mean of each latent dimension.
        sd_NZ: Standard deviation of each latent dimension.
        log_px_N: log p(x) [nats].
        ess_N: Effective sample size of the importance weights; None for a grid.
    """

    mean_NZ: Tensor
    sd_NZ: Tensor
    log_px_N: Tensor
    ess_N: Tensor | None


@dataclass(frozen=True)
class _Grid:
    """Rectangular grid: its lowest corner [Z], its steps [Z], and its number of points in each dimension."""

    low_Z: Tensor
    step_Z: Tensor
    counts: tuple[int, ...]

    @classmethod
    def around(cls, middle_Z: Tensor, half_width_Z: Tensor, step_Z: Tensor) -> _Grid:
        halves = (half_width_Z / step_Z).round()
        return cls(middle_Z - halves * step_Z, step_Z, tuple(2 * int(half) + 1 for half in halves))

    def points(self) -> Tensor:
        """Return all points, [G, Z]."""
        axes = [
            low + step * torch.arange(count, dtype=torch.float64)
            for low, step, count in zip(self.low_Z, self.step_Z, self.counts, strict=True)
        ]
        return torch.cartesian_prod(*axes).reshape(-1, len(axes))

    def wider(self) -> _Grid:
        """Return a grid with the same centre and steps that is 1.5 times as wide."""
        half_width = self.step_Z * (torch.tensor(self.counts, dtype=torch.float64) - 1) / 2
        return _Grid.around(self.low_Z + half_width, WIDER * half_width, self.step_Z)


@dataclass(frozen=True)
class _Integral:
    """The posterior of one example on a grid."""

    grid: _Grid
    points_GZ: Tensor
    log_joint_G: Tensor

    @property
    def weight_G(self) -> Tensor:
        return self.log_joint_G.softmax(0)

    @property
    def mean_Z(self) -> Tensor:
        return self.weight_G @ self.points_GZ

    @property
    def covariance_ZZ(self) -> Tensor:
        error_GZ = self.points_GZ - self.mean_Z
        return (self.weight_G[:, None] * error_GZ).T @ error_GZ

    @property
    def log_px(self) -> Tensor:
        return self.log_joint_G.logsumexp(0) + self.grid.step_Z.log().sum()

    def marginals(self) -> list[Tensor]:
        """Return the marginal posterior weights of the points of each axis."""
        weight = self.weight_G.view(self.grid.counts)
        others = [[e for e in range(weight.dim()) if e != d] for d in range(weight.dim())]
        return [weight.sum(dims) if dims else weight for dims in others]

    def cut_off(self) -> bool:
        """Return whether there is posterior mass at the boundary of the grid, so that more mass may lie outside."""
        return any(float(weight[:2].sum() + weight[-2:].sum()) >= EDGE_WEIGHT for weight in self.marginals())

    def too_coarse(self) -> Tensor:
        """Return which dimensions [Z] need a finer step.

        A dimension needs a finer step if its standard deviation, conditional on the other dimension, is below two
        steps, or if a single point of its axis has more than a fifth of the mass. The second condition detects a narrow
        mode among several modes.
        """
        covariance = self.covariance_ZZ
        variance = covariance.diagonal()
        if len(variance) == 2:
            variance = variance - covariance[0, 1] ** 2 / variance.flip(0).clamp(min=1e-300)
        peaked = torch.stack([weight.max() > 0.2 for weight in self.marginals()])
        return (variance < (2 * self.grid.step_Z).square()) | peaked

    def finer(self, coarse_Z: Tensor) -> _Grid:
        """Return a grid over the points that have posterior mass, with finer steps in the dimensions `coarse_Z`."""
        low, high = [], []
        for weight in self.marginals():
            support = (weight > SUPPORT_WEIGHT).nonzero()
            low.append(int(support[0]) - 2)
            high.append(int(support[-1]) + 2)
        step = torch.where(coarse_Z, self.grid.step_Z / FINER, self.grid.step_Z)
        low_Z = self.grid.low_Z + self.grid.step_Z * torch.tensor(low)
        width_Z = self.grid.step_Z * (torch.tensor(high) - torch.tensor(low))
        return _Grid(low_Z, step, tuple(int(count) + 1 for count in (width_Z / step).round()))


def moments_of(
    model: Vae,
    examples: Sequence[Batch],
    seed: int,
    *,
    infer: Infer | None = None,
    samples: int = 500,
    step: float = STEP,
    half_width: float | None = None,
    sequences: int = 256,
    progress: Callable[[int], None] = lambda examples: None,
) -> PosteriorMoments:
    """Return the moments of p(z|x): from a grid for one or two latent dimensions, otherwise by importance sampling.

    Args:
        model: A model in eval mode.
        examples: Batches of one example each.
        seed: Seed of the samples.
        infer: Function that returns the q(z|x) of a batch; None for `model.infer`.
        samples: Number of importance samples per example.
        step: Step of the first grid, in standard deviations of the prior.
        half_width: Half-width of the first grid, in the same units; None for `HALF_WIDTHS`.
        sequences: Largest number of points per decoder pass.
        progress: Called with the number of finished examples.
    """
    if model_dimensions(model, examples) in HALF_WIDTHS:
        return moments_by_grid(
            model, examples, step=step, half_width=half_width, sequences=sequences, progress=progress
        )
    return moments_by_importance(
        model, examples, seed, infer=infer, samples=samples, sequences=sequences, progress=progress
    )


def model_dimensions(model: Vae, examples: Sequence[Batch]) -> int:
    """Return the number of latent dimensions of the model."""
    with torch.no_grad():
        return model.infer(examples[0]).q.size[1]


@torch.no_grad()
def moments_by_grid(
    model: Vae,
    examples: Sequence[Batch],
    *,
    step: float = STEP,
    half_width: float | None = None,
    sequences: int = 256,
    progress: Callable[[int], None] = lambda examples: None,
) -> PosteriorMoments:
    """Return the moments of p(z|x), which is proportional to p(x|z) p(z), by a Riemann sum in one or two dimensions.

    p(z) is the generative prior. The weights are float64.

    Source: He et al. 2019, Appendix A. Their grid for a scalar z is [-20, 20] with steps of 0.01. The grid here starts
    with steps of 0.1, on [-20, 20] or [-5, 5]^2, in standard deviations of the prior, and is adapted to each example.
    It is widened while at least 1e-8 of the posterior mass is within one step of the boundary. Its steps are halved
    while the posterior is narrower than two steps. For a Gaussian posterior with standard deviation s, a Riemann sum
    with step h has an error of about exp(-2 (pi s / h)^2), so only rounding errors remain at s = 2 h.

    Args:
        model: A model in eval mode.
        examples: Batches of one example each.
        step: Step of the first grid, in standard deviations of the prior.
        half_width: Half-width of the first grid, in the same units; None for `HALF_WIDTHS`.
        sequences: Largest number of points per decoder pass.
        progress: Called with the number of finished examples.

    Raises:
        ArithmeticError: A posterior extends beyond a grid that is about 26 times as wide as the first.
    """
    assert not model.training, "the model must be in eval mode"
    prior = model.generative_prior()
    rows = []
    for done, example in enumerate(examples, start=1):
        assert example.size == 1, "each batch must hold one example"
        q_mean_1Z = model.infer(example).q.base.mean_BZ
        dimensions = q_mean_1Z.shape[1]
        std = prior.std()
        unit_Z = torch.ones(dimensions, dtype=torch.float64) if std is None else std.double().cpu()
        first_half_width = HALF_WIDTHS[dimensions] if half_width is None else half_width
        grid = _Grid.around(torch.zeros_like(unit_Z), first_half_width * unit_Z, step * unit_Z)

        def integrate(grid: _Grid, example: Batch = example, like: Tensor = q_mean_1Z) -> _Integral:
            z_GZ = grid.points().to(like)
            joint = log_joint(model, prior, example, z_GZ, sequences)
            return _Integral(grid, z_GZ.double().cpu(), joint.cpu())

        integral = _refined(integrate, _contained(integrate, grid))
        rows.append((integral.mean_Z, integral.covariance_ZZ.diagonal().sqrt(), integral.log_px))
        progress(done)
    mean, sd, log_px = (torch.stack(column) for column in zip(*rows, strict=True))
    order = torch.cat([example.index_B for example in examples]).argsort()
    return PosteriorMoments(mean[order], sd[order], log_px[order], None)


def log_joint(model: Vae, prior: Prior, example: Batch, z_KZ: Tensor, sequences: int) -> Tensor:
    """Return log p(x|z) + log p(z) of one example at K points, [K], float64 [nats]."""
    parts = []
    for chunk_SZ in torch.split(z_KZ, sequences):
        z_1SZ = chunk_SZ[None]
        log_p = prior.log_prob(z_1SZ) - model.reconstruct(example, example.history, z_1SZ)
        parts.append(log_p[0].double())
    return torch.cat(parts)


def _contained(integrate: Callable[[_Grid], _Integral], grid: _Grid) -> _Integral:
    """Return the integral over a grid that is wide enough for the whole posterior."""
    for _ in range(WIDENINGS + 1):
        integral = integrate(grid)
        if not integral.cut_off():
            return integral
        grid = grid.wider()
    raise ArithmeticError(
        f"The posterior extends beyond a grid {WIDER**WIDENINGS:.0f} times as wide as the first, so its mean cannot be "
        f"computed. Its mean within that grid is {integral.mean_Z.tolist()}."
    )


def _refined(integrate: Callable[[_Grid], _Integral], integral: _Integral) -> _Integral:
    """Return the integral over a grid whose steps are small enough for the posterior.

    Refinement stops when the steps have been divided by 4,096, at which point the means are accurate to within a step,
    or before the grid exceeds a million points.
    """
    for _ in range(REFINEMENTS):
        coarse_Z = integral.too_coarse()
        if not bool(coarse_Z.any()):
            break
        grid = integral.finer(coarse_Z)
        if math.prod(grid.counts) > MOST_POINTS:
            break
        integral = integrate(grid)
    return integral


@torch.no_grad()
def moments_by_importance(
    model: Vae,
    examples: Sequence[Batch],
    seed: int,
    *,
    infer: Infer | None = None,
    samples: int = 500,
    sequences: int = 256,
    progress: Callable[[int], None] = lambda examples: None,
) -> PosteriorMoments:
    """Return the moments of p(z|x) by self-normalised importance sampling from q(z|x), for any number of dimensions.

    If the effective sample size is small, the means are biased towards the mean of q, and log p(x) is the lower bound
    of `nll_iw`. The arguments are those of `moments_of`. The samples of an example depend only on `seed` and on its
    index.
    """
    assert not model.training, "the model must be in eval mode"
    prior, infer = model.generative_prior(), infer or model.infer
    rows = []
    for done, example in enumerate(examples, start=1):
        assert example.size == 1, "each batch must hold one example"
        q = infer(example).q
        noise = example_noise(seed, "posterior mean", example.index_B, samples, q.size[1]).to(q.base.mean_BZ)
        draw = q.draw(noise)
        joint = log_joint(model, prior, example, draw.z_BSZ[0], sequences)
        log_weight_K = (joint - draw.log_q().sum(-1)[0].double()).cpu()
        weight_K, z_KZ = log_weight_K.softmax(0), draw.z_BSZ[0].double().cpu()
        mean = weight_K @ z_KZ
        variance = weight_K @ (z_KZ - mean).square()
        log_px = log_weight_K.logsumexp(0) - math.log(samples)
        rows.append((mean, variance.sqrt(), log_px, 1.0 / weight_K.square().sum()))
        progress(done)
    order = torch.cat([example.index_B for example in examples]).argsort()
    return PosteriorMoments(*(torch.stack(column)[order] for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class MeanSpace:
    """Summary of the points (mean of p(z|x), mean of q(z|x)) of many examples.

    The summary distinguishes points along the horizontal axis, along the diagonal and at the origin. With several
    latent dimensions, variances and covariances are averaged over the dimensions.

    Args:
        p_sd: Standard deviation of the means of p, in standard deviations of the prior.
        q_sd: Standard deviation of the means of q, in the same units.
        correlation: Correlation of the two means; None if one of them does not vary.
        slope: Slope of the regression of q's means on p's means; None if p's means do not vary.
    """

    p_sd: float
    q_sd: float
    correlation: float | None
    slope: float | None


def mean_space(p_mean_NZ: Tensor, q_mean_NZ: Tensor, prior_std_Z: Tensor | None = None) -> MeanSpace:
    """Return the summary of two sets of posterior means of the same N examples.

    Args:
        p_mean_NZ: Means of p(z|x).
        q_mean_NZ: Means of q(z|x).
        prior_std_Z: Standard deviations of the prior; None for N(0, I).
    """
    unit = 1.0 if prior_std_Z is None else prior_std_Z.double().cpu()
    p, q = (mean.double() / unit for mean in (p_mean_NZ, q_mean_NZ))
    p, q = p - p.mean(0), q - q.mean(0)
    size = max(len(p) - 1, 1) * p.shape[1]
    p_variance, q_variance, covariance = (float(product.sum()) / size for product in (p * p, q * q, p * q))
    p_sd, q_sd = math.sqrt(p_variance), math.sqrt(q_variance)
    if min(p_sd, q_sd) < SMALLEST_SD:
        return MeanSpace(p_sd, q_sd, None, None if p_sd < SMALLEST_SD else 0.0)
    return MeanSpace(p_sd, q_sd, covariance / (p_sd * q_sd), covariance / p_variance)
