"""Means of the true model posterior p(z|x), by integration over a grid or by importance sampling.

Shapes: G points of a grid, K samples, Z latent dimensions, N examples.
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
HALF_WIDTHS = {1: 20.0, 2: 5.0}
"""Of the first grid, by latent dimensions; this and the step are in units of the prior's standard deviation."""

EDGE_WEIGHT = 1e-8
"""Most of the posterior that may lie within one step of the boundary."""
WIDER, WIDENINGS = 1.5, 8
FINER, REFINEMENTS = 2, 12
SUPPORT_WEIGHT = 1e-18
"""Points that weigh less, with all others in their row or column, are left out of a finer grid."""
MOST_POINTS = 2**20

SMALLEST_SD = 1e-6
"""Means that spread less are equal but for rounding: they have no correlation."""


@dataclass(frozen=True)
class PosteriorMoments:
    """Of p(z|x) for N examples, in their order, float64 on the CPU.

    Mean and standard deviation [N, Z] of each latent dimension; log p(x) [N] in nats; the effective sample size [N] of
    the importance weights, or None for a grid.
    """

    mean_NZ: Tensor
    sd_NZ: Tensor
    log_px_N: Tensor
    ess_N: Tensor | None


@dataclass(frozen=True)
class _Grid:
    """A rectangular grid: its lowest corner [Z], its steps [Z], and how many points it has in each dimension."""

    low_Z: Tensor
    step_Z: Tensor
    counts: tuple[int, ...]

    @classmethod
    def around(cls, middle_Z: Tensor, half_width_Z: Tensor, step_Z: Tensor) -> _Grid:
        halves = (half_width_Z / step_Z).round()
        return cls(middle_Z - halves * step_Z, step_Z, tuple(2 * int(half) + 1 for half in halves))

    def points(self) -> Tensor:
        """[G, Z]"""
        axes = [
            low + step * torch.arange(count, dtype=torch.float64)
            for low, step, count in zip(self.low_Z, self.step_Z, self.counts, strict=True)
        ]
        return torch.cartesian_prod(*axes).reshape(-1, len(axes))

    def wider(self) -> _Grid:
        """The same steps over a space wider by half."""
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
        """The weight of each point of each axis."""
        weight = self.weight_G.view(self.grid.counts)
        others = [[e for e in range(weight.dim()) if e != d] for d in range(weight.dim())]
        return [weight.sum(dims) if dims else weight for dims in others]

    def cut_off(self) -> bool:
        """Whether some of the posterior lies at the boundary, and so some perhaps beyond."""
        return any(float(weight[:2].sum() + weight[-2:].sum()) >= EDGE_WEIGHT for weight in self.marginals())

    def too_coarse(self) -> Tensor:
        """Which dimensions [Z] need a finer step: a deviation, given the other dimension, below two steps.

        A weight of more than a fifth on one point of an axis says the same of one mode among several.
        """
        covariance = self.covariance_ZZ
        variance = covariance.diagonal()
        if len(variance) == 2:
            variance = variance - covariance[0, 1] ** 2 / variance.flip(0).clamp(min=1e-300)
        peaked = torch.stack([weight.max() > 0.2 for weight in self.marginals()])
        return (variance < (2 * self.grid.step_Z).square()) | peaked

    def finer(self, coarse_Z: Tensor) -> _Grid:
        """A grid over the points that weigh anything, with finer steps in the dimensions `coarse_Z`."""
        low, high = [], []
        for weight in self.marginals():
            kept = (weight > SUPPORT_WEIGHT).nonzero()
            low.append(int(kept[0]) - 2)
            high.append(int(kept[-1]) + 2)
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
    """Moments of p(z|x): by a grid for one or two latent dimensions, else by importance sampling from q."""
    if model_dimensions(model, examples) in HALF_WIDTHS:
        return moments_by_grid(
            model, examples, step=step, half_width=half_width, sequences=sequences, progress=progress
        )
    return moments_by_importance(
        model, examples, seed, infer=infer, samples=samples, sequences=sequences, progress=progress
    )


def model_dimensions(model: Vae, examples: Sequence[Batch]) -> int:
    """How many latent dimensions the model has."""
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
    """Moments of p(z|x) proportional to p(x|z) p(z), by a Riemann sum over a grid of one or two dimensions.

    Source: He et al. 2019, Appendix A, whose grid for a scalar z is [-20, 20] with steps of 0.01. This one begins with
    steps of 0.1, in two dimensions on [-5, 5]^2, in units of the prior's standard deviation. For each example by itself
    it is made wider while 1e-8 of the posterior lies within a step of the boundary, and twice as fine while the
    posterior is narrower than two steps. For a Gaussian posterior of deviation s a sum with step h is off by about
    exp(-2 (pi s / h)^2), so that s = 2 h leaves nothing but rounding.

    `examples` are batches of one example each; p(z) is the density that the model is sampled from. The decoder sees
    `sequences` points at a time. `model` must be in eval mode; the weights are float64.

    Raises:
        ArithmeticError: a posterior is not contained even in a grid 25 times as wide.
    """
    assert not model.training, "evaluation wants eval mode"
    prior = model.generative_prior()
    rows = []
    for done, example in enumerate(examples, start=1):
        assert example.size == 1, "a grid belongs to one example"
        like_1Z = model.infer(example).q.base.mean_BZ
        dimensions = like_1Z.shape[1]
        std = prior.std()
        unit_Z = torch.ones(dimensions, dtype=torch.float64) if std is None else std.double().cpu()
        wide = HALF_WIDTHS[dimensions] if half_width is None else half_width
        grid = _Grid.around(torch.zeros_like(unit_Z), wide * unit_Z, step * unit_Z)

        def integrate(grid: _Grid, example: Batch = example, like: Tensor = like_1Z) -> _Integral:
            z_GZ = grid.points().to(like)
            joint = log_joint(model, prior, example, z_GZ, sequences)
            return _Integral(grid, z_GZ.double().cpu(), joint.cpu())

        found = _refined(integrate, _contained(integrate, grid))
        rows.append((found.mean_Z, found.covariance_ZZ.diagonal().sqrt(), found.log_px))
        progress(done)
    mean, sd, log_px = (torch.stack(column) for column in zip(*rows, strict=True))
    order = torch.cat([example.index_B for example in examples]).argsort()
    return PosteriorMoments(mean[order], sd[order], log_px[order], None)


def log_joint(model: Vae, prior: Prior, example: Batch, z_KZ: Tensor, sequences: int) -> Tensor:
    """log p(x|z) + log p(z) of one example at K points, [K], float64, in nats."""
    parts = []
    for chunk_SZ in torch.split(z_KZ, sequences):
        z_1SZ = chunk_SZ[None]
        log_p = prior.log_prob(z_1SZ) - model.reconstruct(example, example.history, z_1SZ)
        parts.append(log_p[0].double())
    return torch.cat(parts)


def _contained(integrate: Callable[[_Grid], _Integral], grid: _Grid) -> _Integral:
    """The integral over a grid that holds the whole posterior."""
    for _ in range(WIDENINGS + 1):
        found = integrate(grid)
        if not found.cut_off():
            return found
        grid = grid.wider()
    message = f"lie within {WIDER**WIDENINGS:.0f} times the first grid for its mean to be computed"
    raise ArithmeticError(f"A posterior must {message}, but its mean on that grid is {found.mean_Z.tolist()}.")


def _refined(integrate: Callable[[_Grid], _Integral], found: _Integral) -> _Integral:
    """The integral over a grid whose steps the posterior does not fall between.

    It ends after a factor of 4,096, with means that are good to the last step, or before a million points.
    """
    for _ in range(REFINEMENTS):
        coarse_Z = found.too_coarse()
        if not bool(coarse_Z.any()):
            break
        grid = found.finer(coarse_Z)
        if math.prod(grid.counts) > MOST_POINTS:
            break
        found = integrate(grid)
    return found


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
    """The same by self-normalised importance sampling from q(z|x), for any number of latent dimensions.

    Biased towards q's own mean where the effective sample size is small; log p(x) is then the bound of `nll_iw`. The
    samples of an example depend on `seed` and its number alone.
    """
    assert not model.training, "evaluation wants eval mode"
    prior, infer = model.generative_prior(), infer or model.infer
    rows = []
    for done, example in enumerate(examples, start=1):
        assert example.size == 1, "samples belong to one example"
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
    """How points (mean of p(z|x), mean of q(z|x)) lie: along the horizontal axis, along the diagonal, at the origin.

    Standard deviations of both means in units of the prior's, their correlation, and the slope of q's means on those of
    p. There is no correlation where one of the means does not vary, and no slope where those of p do not. With several
    latent dimensions, variances and covariances are averages over the dimensions.
    """

    p_sd: float
    q_sd: float
    correlation: float | None
    slope: float | None


def mean_space(p_mean_NZ: Tensor, q_mean_NZ: Tensor, prior_std_Z: Tensor | None = None) -> MeanSpace:
    """The summary of two sets of posterior means of the same N examples."""
    unit = 1.0 if prior_std_Z is None else prior_std_Z.double().cpu()
    p, q = (mean.double() / unit for mean in (p_mean_NZ, q_mean_NZ))
    p, q = p - p.mean(0), q - q.mean(0)
    size = max(len(p) - 1, 1) * p.shape[1]
    p_variance, q_variance, covariance = (float(product.sum()) / size for product in (p * p, q * q, p * q))
    p_sd, q_sd = math.sqrt(p_variance), math.sqrt(q_variance)
    if min(p_sd, q_sd) < SMALLEST_SD:
        return MeanSpace(p_sd, q_sd, None, None if p_sd < SMALLEST_SD else 0.0)
    return MeanSpace(p_sd, q_sd, covariance / (p_sd * q_sd), covariance / p_variance)
