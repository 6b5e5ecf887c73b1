"""A posterior family that keeps a minimal rate from the prior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.models.gaussian import Gaussian, Inference
from lagvae_core.models.vae import Posterior
from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import Refusal, Setup, Strategy, Surroundings

__all__ = ["DeltaPosterior", "DeltaVae", "committed_deviations"]

SLACK = 1e-6
LEAST_SQUARE = 1e-8


class DeltaVae(Strategy):
    """Every dimension of every posterior has a KL of at least `delta` from the prior, whatever the encoder says.

    Source: Razavi et al. 2019, equation 4 (independent dimensions, prior N(0, I)).

    The second output s sets sigma = l + (u - l) * sigmoid(s), where l^2 < 1 < u^2 are the variances at which a
    centred Gaussian has a KL of exactly `delta`; the first output a sets mu = sqrt(2 delta + 1 + ln sigma^2 - sigma^2
    + max(0, a) + 1e-6). The KL is then delta + max(0, a) / 2 + 5e-7, whatever sigma is. Below a = 0 no gradient
    reaches a, and mu moves with sigma alone. Means are never negative, so the aggregate posterior stays away from the
    prior (`kl_agg`); a KL of delta for each dimension is no use of z (read `mi`).

    - mu is the root of the sum, as in public code; without the root the KL would not keep its floor.
    - That code holds the sigmoid at 0.02 or more, and with it kills the gradient below; here nothing holds it.
    - The sum is held at 1e-8 or more, against rounding where sigma is near l or u.
    - The default of 0.1 is that of the comparison of Song et al. 2024; the public code has 0.15.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"posterior"})
    paper: ClassVar[str] = "Razavi et al. 2019, Preventing Posterior Collapse with delta-VAEs, equation 4"

    kind: Literal["delta_vae"] = "delta_vae"
    delta: Annotated[
        float, Field(gt=0, le=10, description="least KL of each dimension [nats]"), Tunable(0.05, 0.25)
    ] = 0.1

    def parts(self, surroundings: Surroundings) -> dict[str, Any]:
        return {"posterior": DeltaPosterior(self.delta)}

    def refusals(self, setup: Setup) -> Iterator[Refusal]:
        for other in setup.strategies:
            if other.kind in {"bn_vae", "du_vae", "scale_vae"}:
                yield Refusal(
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
