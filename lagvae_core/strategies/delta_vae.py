"""A guaranteed minimum KL, enforced by the form of the posterior or of the prior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lagvae_core.models.gaussian import LOG_2PI, Draw, Gaussian, Inference, NormalPrior, Prior, Proposal
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, without_effect
from lagvae_core.strategies.rules import Incompatibility, Trait

__all__ = ["Ar1Prior", "DeltaPosterior", "DeltaVae", "committed_rate", "committed_stds"]

DELTA, CORRELATION = 0.1, 0.9
SLACK = 1e-6
LEAST_SQUARE = 1e-8


class DeltaVae(Strategy):
    """Every posterior has a guaranteed minimum KL from the prior, whatever the encoder outputs.

    Source: Razavi et al. 2019, equation 4 (for `independent`) and the autoregressive prior (for `ar1`).

    `independent`: every dimension has a KL of at least `delta` from N(0, I). The second output s of the encoder sets
    sigma = l + (u - l) * sigmoid(s), where l^2 < 1 < u^2 are the variances at which a Gaussian with mean 0 has a KL of
    exactly `delta`. The first output a sets mu = sqrt(2 delta + 1 + ln sigma^2 - sigma^2 + max(0, a) + 1e-6). The KL is
    then delta + max(0, a) / 2 + 5e-7 for every sigma. For a < 0 no gradient reaches a, and mu depends on sigma alone.
    Posterior means are never negative, so the aggregate posterior differs from the prior (`kl_agg`). A KL of delta in
    each dimension does not show that z is used (see `mi`).

    `ar1`: z is a sequence of `steps` latents of k = latent_dim / steps dimensions each, with the prior z_1 ~ N(0, I),
    z_t ~ N(a z_(t-1), (1 - a^2) I), where a = `correlation`. The posterior is the unchanged Gaussian of the encoder. No
    product of independent Gaussians equals this prior, so the KL of the posterior is always at least k/2 ((steps - 2)
    ln(1 + a^2) - ln(1 - a^2)), the committed rate. The KL has a closed form; the term of a dimension is its expected KL
    given the previous step. With a = 0 this is the plain VAE, bit for bit.

    - mu is the square root of the sum, as in public code; without the root the KL could fall below its minimum.
    - The public code clamps the sigmoid to at least 0.02, which removes the gradient below this value; in this
      implementation the sigmoid is not clamped.
    - The sum under the root is at least 1e-8, because rounding could make it negative where sigma is near l or u.
    - The default `delta` of 0.1 comes from the comparison of Song et al. 2024; the public code uses 0.15.
    - In the paper's sequence models the decoder reads z_t at step t; in this implementation it reads all of z at every
      step. All k dimensions of z_t have the same correlation. The defaults of `correlation` and `steps` are choices of
      this implementation.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "prior"})
    paper: ClassVar[str] = "Razavi et al. 2019, Preventing Posterior Collapse with delta-VAEs, equation 4"

    kind: Literal["delta_vae"] = "delta_vae"
    prior: Annotated[
        Literal["independent", "ar1"],
        Field(description="prior with a guaranteed minimum KL: N(0, I), or a first-order autoregression"),
    ] = "independent"
    delta: Annotated[
        float,
        Field(gt=0, le=10, description="minimum KL of each dimension, for `independent` [nats]"),
        Tunable(0.05, 0.25),
    ] = DELTA
    steps: Annotated[
        int | None, Field(ge=2, description="number of latents in the sequence, for `ar1`; null: one per dimension")
    ] = None
    correlation: Annotated[float, Field(ge=0, lt=1, description="correlation of successive latents, for `ar1`")] = (
        CORRELATION
    )

    def build(self, context: BuildContext) -> dict[str, Any]:
        if self.prior == "ar1":
            steps = self.steps or context.latent_dim
            return {"posterior": Posterior(), "prior": Ar1Prior(steps, self.correlation)}
        return {"posterior": DeltaPosterior(self.delta), "prior": NormalPrior()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        unused = ("delta",) if self.prior == "ar1" else ("steps", "correlation")
        yield from without_effect(self, f"with prior = {self.prior}", *unused)
        yield from self._ar1_issues(context) if self.prior == "ar1" else self._independent_issues(context)
        for other in context.filling("prior"):
            if other.kind != self.kind:
                yield Incompatibility(
                    "E06",
                    f"delta_vae guarantees a minimum KL for its own prior, which {other.kind} would replace; remove "
                    f"delta_vae or {other.kind}",
                )

    def _ar1_issues(self, context: ConfigContext) -> Iterator[Incompatibility]:
        size = context.model.latent_dim
        if size % (self.steps or size) or size < 2:
            yield Incompatibility(
                "E-RANGE",
                f"delta_vae.steps must be at least 2 and divide model.latent_dim, but is {self.steps or size} with "
                f"model.latent_dim = {size}; change delta_vae.steps or model.latent_dim",
            )

    def _independent_issues(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if other.free_kl is not None and other.free_kl <= self.delta:
                yield Incompatibility(
                    "E06",
                    f"{other.kind} has no effect, because its {other.free_kl:g} free nats per dimension do not exceed "
                    f"delta_vae.delta = {self.delta:g}, the guaranteed KL of every dimension; raise the free nats or "
                    f"remove {other.kind}",
                )
            if other.has(Trait.NORMALISES_MEANS) or other.has(Trait.SCALES_MEANS):
                yield Incompatibility(
                    "E03",
                    f"delta_vae and {other.kind} both change the posterior means, so delta_vae can no longer guarantee "
                    f"a minimum KL; remove delta_vae or {other.kind}",
                )


class DeltaPosterior(Posterior):
    """The posterior N(mu, sigma^2), with a KL of at least delta in each dimension; it has no state."""

    def __init__(self, delta: float) -> None:
        super().__init__()
        self._delta = delta
        self._lower, self._upper = committed_stds(delta)

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        sigma = self._lower + (self._upper - self._lower) * wide.logvar_BZ.sigmoid()
        logvar = 2.0 * sigma.log()
        square = (2.0 * self._delta + 1.0 + SLACK) + logvar - sigma.square() + wide.mean_BZ.relu()
        return Inference.plain(Gaussian(square.clamp(min=LEAST_SQUARE).sqrt(), logvar))


class Ar1Prior(Prior):
    """z_1 ~ N(0, I), z_t ~ N(a z_(t-1), (1 - a^2) I); each marginal is N(0, 1).

    Each z_t is a block of k = Z / steps dimensions, so dimension d depends on dimension d - k.
    """

    def __init__(self, steps: int, correlation: float) -> None:
        super().__init__()
        self._steps, self._correlation = steps, correlation

    def _innovation(self, like_Z: Tensor) -> Tensor:
        """Return the variance of each dimension given the previous step, [Z]."""
        variance = torch.full_like(like_Z, 1.0 - self._correlation**2)
        variance[: len(like_Z) // self._steps] = 1.0
        return variance

    def _before(self, x: Tensor) -> Tensor:
        """Return the values of x at the previous step; they are 0 for the first step."""
        return functional.pad(x, (x.shape[-1] // self._steps, 0))[..., : x.shape[-1]]

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        variance = self._innovation(z_BSZ[0, 0])
        error = z_BSZ - self._correlation * self._before(z_BSZ)
        return -0.5 * (error.square() / variance + variance.log() + LOG_2PI).sum(-1)

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        std = self._innovation(noise_NZ[0]).sqrt()
        first, *later = (std * noise_NZ).chunk(self._steps, 1)
        latents = [first]
        for innovation in later:
            latents.append(self._correlation * latents[-1] + innovation)
        return torch.cat(latents, 1)

    def closed_form(self, q: Proposal) -> bool:
        return isinstance(q, Gaussian)

    def kl(self, q: Proposal, draw: Draw) -> Tensor:
        if not isinstance(q, Gaussian):
            return super().kl(q, draw)
        mean, variance = q.mean_BZ, q.logvar_BZ.exp()
        innovation = self._innovation(mean[0])
        error = (mean - self._correlation * self._before(mean)).square()
        error = error + variance + self._correlation**2 * self._before(variance)
        return 0.5 * (error / innovation + innovation.log() - q.logvar_BZ - 1.0)


def committed_rate(steps: int, dimensions: int, correlation: float) -> float:
    """Return the minimum KL of independent Gaussians to an Ar1Prior of `steps` >= 2 latents with `dimensions` each."""
    square = correlation**2
    return 0.5 * dimensions * ((steps - 2) * math.log1p(square) - math.log1p(-square))


def committed_stds(delta: float) -> tuple[float, float]:
    """Return the two values of sigma with KL(N(0, sigma^2) || N(0, 1)) = delta, the smaller first.

    They are exact up to rounding for any delta > 0. Newton's method solves e^y - 1 - y = 2 delta for y = ln sigma^2.
    The left side is convex, and the iteration for each root starts farther from 0 than the root, so it converges
    monotonically. Because expm1 computes e^y - 1, no digits are lost if delta is small and the roots are close.
    """
    roots = []
    for y in (-(2.0 * delta + 1.0), math.log(4.0 * delta + 2.0)):
        for _ in range(200):
            step = (math.expm1(y) - y - 2.0 * delta) / math.expm1(y)
            y -= step
            if abs(step) <= 1e-16 * abs(y):
                break
        roots.append(math.exp(0.5 * y))
    return roots[0], roots[1]
