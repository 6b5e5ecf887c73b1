"""A least KL, kept by a Lagrange multiplier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Incompatibility, Strategy
from lagvae_core.strategies.slots import Objective

__all__ = ["Mdr"]

SMOOTHING, EPSILON = 0.99, 1e-8
"""Of RMSprop: how much of the mean square of past gradients is kept, and what keeps its root from 0."""


class Mdr(Strategy):
    """Minimum desired rate: a multiplier m >= 0 grows while the KL is below `rate`, and the KL weight is 1 - m.

    Source: Pelsmaeker & Aziz 2019. The model descends mean(rec + KL) + m * (rate - KL), KL the batch mean of the sum
    over dimensions, and m ascends it once after each outer update; m above 1 rewards KL. Evaluation knows no m.
    `parametrisation`: m is the absolute value (as published) or the softplus of the number that is learned. The
    absolute value has no slope at 0, so a `multiplier_start` of 0 stays 0, which is the plain VAE.

    Departures from the published code. There the optimiser of the model steps the multiplier too, since the filter that
    should exclude it names another parameter; here its own RMSprop alone does. There its gradient enters the clipped
    norm; here it does not. There the KL in the constraint is multiplied by the annealing weight; here it is unscaled,
    and annealing is refused (E01).
    """

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Pelsmaeker & Aziz 2019, Effective Estimation of Deep Generative Language Models"

    kind: Literal["mdr"] = "mdr"
    rate: Annotated[float, Field(gt=0, description="least KL that is wished [nats]"), Tunable(1, 20)] = 5.0
    multiplier_start: Annotated[float, Field(ge=0, description="multiplier of the first update")] = 1.01
    multiplier_lr: Annotated[float, Field(gt=0, description="learning rate of the multiplier's RMSprop")] = 1e-3
    parametrisation: Annotated[
        Literal["abs", "softplus"], Field(description="what makes the multiplier of the learned number")
    ] = "abs"

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": MinimumRate(self)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        for other in context.strategies:
            if "kl_weight" in other.slots or other.kind == "beta_vae":
                yield Incompatibility(
                    "E01",
                    f"mdr already sets the effective KL weight, which {other.kind} would change; remove one of the two",
                )
        if self.parametrisation == "softplus" and self.multiplier_start == 0:
            yield Incompatibility("E-RANGE", "multiplier_start > 0 must hold for softplus, but got 0; abs allows it")

    def warnings(self, context: ConfigContext) -> Iterator[str]:
        if any(s.kind == "aggressive" for s in context.strategies):
            yield "W2: the multiplier of mdr moves in the outer steps of aggressive only."


class MinimumRate(Objective):
    """The Lagrangian; the multiplier and its RMSprop live on the device of the KL, so that no update waits for them."""

    def __init__(self, setting: Mdr) -> None:
        self._setting = setting
        start = setting.multiplier_start
        learned = start + math.log(-math.expm1(-start)) if setting.parametrisation == "softplus" else start
        self._learned = torch.tensor(learned, dtype=torch.float64)
        self._mean_square = torch.zeros((), dtype=torch.float64)

    @property
    def multiplier(self) -> Tensor:
        return self._learned.abs() if self._setting.parametrisation == "abs" else functional.softplus(self._learned)

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        kl_B = kl_BZ.sum(1)
        return (rec_B + weight * kl_B).mean() + self.multiplier.to(kl_B) * (self._setting.rate - kl_B.mean())

    def after_step(self, kl_BZ: Tensor) -> None:
        missing = (self._setting.rate - kl_BZ.sum(1).mean()).double()
        learned, mean_square = self._learned.to(missing), self._mean_square.to(missing)
        slope = learned.sign() if self._setting.parametrisation == "abs" else learned.sigmoid()
        gradient = missing * slope
        self._mean_square = SMOOTHING * mean_square + (1.0 - SMOOTHING) * gradient.square()
        self._learned = learned + self._setting.multiplier_lr * gradient / (self._mean_square.sqrt() + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        return {"learned": self._learned.cpu(), "mean_square": self._mean_square.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._learned, self._mean_square = state["learned"], state["mean_square"]
