"""A minimum KL, enforced by a Lagrange multiplier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import Objective

__all__ = ["Mdr"]

SMOOTHING = 0.99
"""Decay rate of RMSprop's running mean of squared gradients."""

EPSILON = 1e-8
"""Constant that RMSprop adds to the root of this mean."""


class Mdr(Strategy):
    """Minimum desired rate: a multiplier m >= 0 grows while the KL is below `rate`, and the KL weight is 1 - m.

    Source: Pelsmaeker & Aziz 2019. The model minimises mean(rec + KL) + m * (rate - KL), with KL the batch mean of the
    sum over dimensions. m takes one gradient ascent step after each outer update; if m is above 1, the loss rewards KL.
    Evaluation does not use m. `parametrisation` selects whether m is the absolute value (as published) or the softplus
    of a learned number. The gradient of the absolute value at 0 is taken as 0, so with `multiplier_start` 0 the
    multiplier stays 0, which is the plain VAE.

    Departures. In the published code the optimiser of the model also updates the multiplier, because the filter that
    should exclude the multiplier names another parameter; in this implementation only the RMSprop of the multiplier
    updates it. In the published code the gradient of the multiplier is part of the norm for clipping; in this
    implementation it is not. In the published code the KL in the constraint is multiplied by the annealing weight; in
    this implementation it is not, and annealing is rejected (E01).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Pelsmaeker & Aziz 2019, Effective Estimation of Deep Generative Language Models"

    kind: Literal["mdr"] = "mdr"
    rate: Annotated[float, Field(gt=0, description="target minimum KL [nats]"), Tunable(1, 20)] = 5.0
    multiplier_start: Annotated[float, Field(ge=0, description="multiplier at the first update")] = 1.01
    multiplier_lr: Annotated[float, Field(gt=0, description="learning rate of the multiplier's RMSprop")] = 1e-3
    parametrisation: Annotated[
        Literal["abs", "softplus"], Field(description="function that maps the learned number to the multiplier")
    ] = "abs"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": MinimumRate(self)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FIXED_KL_WEIGHT):
            yield Incompatibility(
                "E01",
                f"mdr already sets the effective KL weight, which {other.kind} would change; remove mdr or "
                f"{other.kind}",
            )
        if self.parametrisation == "softplus" and self.multiplier_start == 0:
            yield Incompatibility(
                "E-RANGE",
                "mdr.multiplier_start must be greater than 0 with parametrisation = softplus, because the softplus "
                "is never 0; raise multiplier_start or set parametrisation = abs",
            )

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        for other in context.with_trait(Trait.INNER_LOOP):
            yield ConfigWarning(
                "W2",
                f"The multiplier of mdr changes in the outer updates of {other.kind} only, not in its inner steps.",
            )


class MinimumRate(Objective):
    """The Lagrangian. The multiplier and its RMSprop stay on the device of the KL, which avoids synchronisation."""

    def __init__(self, config: Mdr) -> None:
        self._config = config
        start = config.multiplier_start
        learned = start + math.log(-math.expm1(-start)) if config.parametrisation == "softplus" else start
        self._learned = torch.tensor(learned, dtype=torch.float64)
        self._mean_square = torch.zeros((), dtype=torch.float64)

    @property
    def multiplier(self) -> Tensor:
        return self._learned.abs() if self._config.parametrisation == "abs" else functional.softplus(self._learned)

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        kl_B = kl_BZ.sum(1)
        return (rec_B + weight * kl_B).mean() + self.multiplier.to(kl_B) * (self._config.rate - kl_B.mean())

    def after_step(self, kl_BZ: Tensor) -> None:
        shortfall = (self._config.rate - kl_BZ.sum(1).mean()).double()
        learned, mean_square = self._learned.to(shortfall), self._mean_square.to(shortfall)
        slope = learned.sign() if self._config.parametrisation == "abs" else learned.sigmoid()
        gradient = shortfall * slope
        self._mean_square = SMOOTHING * mean_square + (1.0 - SMOOTHING) * gradient.square()
        self._learned = learned + self._config.multiplier_lr * gradient / (self._mean_square.sqrt() + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        return {"learned": self._learned.cpu(), "mean_square": self._mean_square.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._learned, self._mean_square = state["learned"], state["mean_square"]
