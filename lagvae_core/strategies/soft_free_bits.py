"""A KL weight that adapts until the KL is near a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Objective

__all__ = ["SoftFreeBits"]


class SoftFreeBits(Strategy):
    """Each update divides the KL weight by `factor` if the KL is below `rate`, and multiplies it if the KL is above.

    Source: Chen et al. 2017, Variational Lossy Autoencoder. "Above" means above (1 + tolerance) * rate; between this
    value and `rate` the weight does not change. The weight stays in [weight_min, 1]. The KL is the unweighted batch
    mean of the sum over dimensions.

    Departures. The default `weight_start` of 0.1 is from the code of Pelsmaeker & Aziz; with 1 the weight would start
    at its upper bound. Their code derives its factor, 11 by default, from the slope of an annealing schedule; the
    default in this implementation is the paper's 1.1. `weight_min` and its default are from their code; the paper has
    no lower bound, but no factor can raise a weight of 0.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"objective"})
    paper: ClassVar[str] = "Chen et al. 2017, Variational Lossy Autoencoder"

    kind: Literal["soft_free_bits"] = "soft_free_bits"
    rate: Annotated[float, Field(gt=0, description="target KL [nats]"), Tunable(1, 20)] = 5.0
    factor: Annotated[float, Field(ge=1, description="factor by which an update changes the weight")] = 1.1
    tolerance: Annotated[
        float, Field(ge=0, description="relative excess of the KL over `rate` up to which the weight is unchanged")
    ] = 0.05
    weight_start: Annotated[float, Field(gt=0, le=1, description="weight at the first update")] = 0.1
    weight_min: Annotated[float, Field(gt=0, le=1, description="lower bound of the weight")] = 1e-4

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"objective": _AdaptiveWeight(self)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        for other in context.with_trait(Trait.FIXED_KL_WEIGHT):
            yield Incompatibility(
                "E01",
                f"soft_free_bits already sets the effective KL weight, which {other.kind} would change; remove "
                f"soft_free_bits or {other.kind}",
            )
        if self.weight_min > self.weight_start:
            yield Incompatibility(
                "E-RANGE",
                f"soft_free_bits.weight_min must not exceed soft_free_bits.weight_start, but {self.weight_min} > "
                f"{self.weight_start}; lower weight_min or raise weight_start",
            )


class _AdaptiveWeight(Objective):
    """The weighted ELBO. The weight stays on the device of the KL, which avoids synchronisation."""

    def __init__(self, config: SoftFreeBits) -> None:
        self._config = config
        self._weight = torch.tensor(config.weight_start, dtype=torch.float64)

    def __call__(self, rec_B: Tensor, kl_BZ: Tensor, weight: float) -> Tensor:
        return (rec_B + weight * (self._weight.to(kl_BZ) * kl_BZ.sum(1))).mean()

    def after_step(self, kl_BZ: Tensor) -> None:
        config = self._config
        kl = kl_BZ.sum(1).mean()
        current = self._weight.to(kl.device)
        lower, higher = current / config.factor, current * config.factor
        above = torch.where(kl > (1.0 + config.tolerance) * config.rate, higher, current)
        self._weight = torch.where(kl < config.rate, lower, above).clamp(config.weight_min, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self._weight.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weight = state["weight"]
