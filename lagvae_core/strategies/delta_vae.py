"""A posterior family that keeps a minimal rate from the prior, by its own form or by that of the prior."""

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
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy
from lagvae_core.strategies.free_bits import FreeBits

__all__ = ["Ar1Prior", "DeltaPosterior", "DeltaVae", "committed_deviations", "committed_rate"]

DELTA, CORRELATION = 0.1, 0.9
SLACK = 1e-6
LEAST_SQUARE = 1e-8


class DeltaVae(Strategy):
    """Every posterior keeps a least KL from the prior, whatever the encoder says.

    Source: Razavi et al. 2019, equation 4 for independent dimensions, and their autoregressive prior.

    `independent`: every dimension keeps a KL of at least `delta` from N(0, I). The second output s sets
    sigma = l + (u - l) * sigmoid(s), where l^2 < 1 < u^2 are the variances at which a centred Gaussian has a KL of
    exactly `delta`; the first output a sets mu = sqrt(2 delta + 1 + ln sigma^2 - sigma^2 + max(0, a) + 1e-6). The KL is
    then delta + max(0, a) / 2 + 5e-7, whatever sigma is. Below a = 0 no gradient reaches a, and mu moves with sigma
    alone. Means are never negative, so the aggregate posterior stays away from the prior (`kl_agg`); a KL of delta for
    each dimension is no use of z (read `mi`).

    `ar1`: z is read as `steps` latents of k = latent_dim / steps dimensions, one after the other, with the prior
    z_1 ~ N(0, I), z_t ~ N(a z_(t-1), (1 - a^2) I), where a = `correlation`. The posterior is the encoder's Gaussian as
    it is; no product of independent Gaussians follows that prior, and so its KL is at least the committed rate
    k/2 ((steps - 2) ln(1 + a^2) - ln(1 - a^2)). The KL is in closed form, by dimension that of z_t given the step
    before it, in expectation. With a = 0 this is the plain VAE, bit for bit.

    - mu is the root of the sum, as in public code; without the root the KL would not keep its floor.
    - That code holds the sigmoid at 0.02 or more, and with it kills the gradient below; here nothing holds it.
    - The sum is held at 1e-8 or more, against rounding where sigma is near l or u.
    - The default of 0.1 is that of the comparison of Song et al. 2024; the public code has 0.15.
    - In the paper's sequence models the decoder reads z_t at step t; here it reads the whole vector at every step. One
      correlation serves all k dimensions. Its default and that of `steps` are ours.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior", "prior"})
    paper: ClassVar[str] = "Razavi et al. 2019, Preventing Posterior Collapse with delta-VAEs, equation 4"

    kind: Literal["delta_vae"] = "delta_vae"
    prior: Annotated[
        Literal["independent", "ar1"], Field(description="which prior commits the posterior to a rate")
    ] = "independent"
    delta: Annotated[
        float, Field(gt=0, le=10, description="least KL of each dimension if `independent` [nats]"), Tunable(0.05, 0.25)
    ] = DELTA
    steps: Annotated[int | None, Field(ge=2, description="latents in sequence if `ar1`; null: one a dimension")] = None
    correlation: Annotated[float, Field(ge=0, lt=1, description="of neighbouring latents if `ar1`")] = CORRELATION

    def build(self, context: BuildContext) -> dict[str, Any]:
        if self.prior == "ar1":
            steps = self.steps or context.latent_dim
            return {"posterior": Posterior(), "prior": Ar1Prior(steps, self.correlation)}
        return {"posterior": DeltaPosterior(self.delta), "prior": NormalPrior()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for name, of_form in (("delta", "independent"), ("steps", "ar1"), ("correlation", "ar1")):
            if self.prior != of_form and getattr(self, name) != type(self).model_fields[name].default:
                yield Incompatibility(
                    "E18", f"delta_vae.{name} is an unused option with prior = {self.prior}; leave it out"
                )
        yield from self._of_steps(context) if self.prior == "ar1" else self._of_independence(context)
        for other in context.strategies:
            if "prior" in other.slots and other.kind != "delta_vae":
                yield Incompatibility(
                    "E06",
                    f"the least KL of delta_vae is derived for its own prior, which {other.kind} would replace; remove "
                    "one of the two",
                )

    def _of_steps(self, context: ConfigContext) -> Iterator[Incompatibility]:
        size = context.model.latent_dim
        if size % (self.steps or size) or size < 2:
            yield Incompatibility(
                "E-RANGE",
                "delta_vae.steps must be 2 or more and divide model.latent_dim, but got "
                f"{self.steps or size} and {size}",
            )

    def _of_independence(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if isinstance(other, FreeBits) and other.floor <= self.delta:
                yield Incompatibility(
                    "E06",
                    f"free_bits.floor = {other.floor:g} has no effect where delta_vae keeps a KL of delta = "
                    f"{self.delta:g} in every dimension; raise the floor above delta or remove free_bits",
                )
            if other.kind in {"bn_vae", "du_vae", "scale_vae"}:
                yield Incompatibility(
                    "E03",
                    f"delta_vae and {other.kind} both rewrite the means, which voids the KL that delta_vae guarantees; "
                    "remove one of the two",
                )


class DeltaPosterior(Posterior):
    """N(mu, sigma^2) on or above the curve of KL delta; without state."""

    def __init__(self, delta: float) -> None:
        super().__init__()
        self._delta = delta
        self._lower, self._upper = committed_deviations(delta)

    def forward(self, encoded: Gaussian) -> Inference:
        wide = encoded.at_least_float32()
        sigma = self._lower + (self._upper - self._lower) * wide.logvar_BZ.sigmoid()
        logvar = 2.0 * sigma.log()
        square = (2.0 * self._delta + 1.0 + SLACK) + logvar - sigma.square() + wide.mean_BZ.relu()
        return Inference.plain(Gaussian(square.clamp(min=LEAST_SQUARE).sqrt(), logvar))


class Ar1Prior(Prior):
    """z_1 ~ N(0, I), z_t ~ N(a z_(t-1), (1 - a^2) I): dimension d follows dimension d - k, and is N(0, 1) by itself."""

    def __init__(self, steps: int, correlation: float) -> None:
        super().__init__()
        self._steps, self._correlation = steps, correlation

    def _innovation(self, like_Z: Tensor) -> Tensor:
        """The variance of each dimension given the step before it, [Z]."""
        variance = torch.full_like(like_Z, 1.0 - self._correlation**2)
        variance[: len(like_Z) // self._steps] = 1.0
        return variance

    def _before(self, x: Tensor) -> Tensor:
        """The same of the step before, 0 before the first."""
        return functional.pad(x, (x.shape[-1] // self._steps, 0))[..., : x.shape[-1]]

    def log_prob(self, z_BSZ: Tensor) -> Tensor:
        variance = self._innovation(z_BSZ[0, 0])
        error = z_BSZ - self._correlation * self._before(z_BSZ)
        return -0.5 * (error.square() / variance + variance.log() + LOG_2PI).sum(-1)

    def sample(self, noise_NZ: Tensor, generator: torch.Generator) -> Tensor:
        deviation = self._innovation(noise_NZ[0]).sqrt()
        first, *later = (deviation * noise_NZ).chunk(self._steps, 1)
        found = [first]
        for innovation in later:
            found.append(self._correlation * found[-1] + innovation)
        return torch.cat(found, 1)

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
    """The least KL of a product of Gaussians from that prior: `steps` (2 or more) latents of `dimensions` each."""
    square = correlation**2
    return 0.5 * dimensions * ((steps - 2) * math.log1p(square) - math.log1p(-square))


def committed_deviations(delta: float) -> tuple[float, float]:
    """The two sigma at which KL(N(0, sigma^2) || N(0, 1)) = delta, the smaller first; to rounding, for any delta > 0.

    Newton on the convex e^y - 1 - y = 2 delta, where y = ln sigma^2, from outside of either root, where it is
    monotone. Written with e^y - 1, it keeps its digits when delta is small and the roots meet.
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
