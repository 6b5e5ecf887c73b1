"""A penalty on posteriors with little Fisher information."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy, without_effect
from lagvae_core.strategies.rules import Incompatibility, Trait
from lagvae_core.strategies.slots import Forward, Penalty

__all__ = ["Fisher", "FisherInformation", "fisher_information"]

BOUND = 88.0
"""Largest -3 log sigma^2 that mode `code` rewards."""

HIGHEST = 40.0
"""Largest -log sigma^2 in J; this bound keeps the exponential finite in float32."""


class Fisher(Strategy):
    """A penalty that pushes the Fisher information of q(z|x) up to a `level`, and thus posterior variances down.

    Source: Zheng et al. 2019, Understanding VAEs in Fisher-Shannon Plane (the Fisher auto-encoder).

    J is the mean over batch and dimensions of 1 / sigma^2 + 1 / (2 sigma^4), the Fisher information of a Gaussian about
    its mean and its variance; it is 1.5 at sigma 1. The loss increases by `weight` times

    - `floor`: max(0, log level - log J), a penalty only below the level;
    - `target`: |log J - log level|, a penalty on both sides of the level;
    - `code`: the mean over batch and dimensions of -max(0, 1 - sigma^2) / 3 * min(-3 log sigma^2, 88), independent of
      the level.

    The penalty acts on the variances alone. A posterior with a small variance and a constant mean has a large KL and no
    information about x; `mi` shows whether this is the case.

    - The paper bounds the absolute difference between J and its level. This implementation uses logarithms, because the
      gradients of 1 / sigma^4 are unbounded. It also adds `floor`, because exceeding the level is no collapse.
    - `code` is the penalty of the published fully connected model, where its weight is always 1, regardless of the
      options of the code. The bound of 88 is not in the published code; without it the reward would be unlimited.
    - The defaults of `weight` and `level`, 0.1 and 5, are those of the published code.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"penalties"})
    paper: ClassVar[str] = "Zheng et al. 2019, Understanding VAEs in Fisher-Shannon Plane"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.REGULARISES_BATCH})

    kind: Literal["fisher"] = "fisher"
    mode: Annotated[Literal["floor", "target", "code"], Field(description="form of the penalty")] = "floor"
    weight: Annotated[
        float, Field(ge=0, description="weight of the penalty in the loss"), Tunable(0.01, 10, log=True)
    ] = 0.1
    level: Annotated[float, Field(gt=0, description="target Fisher information of a dimension")] = 5.0

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"penalties": (FisherInformation(self),) if self.weight > 0 else ()}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.mode == "code":
            yield from without_effect(self, "in mode code", "level")


class FisherInformation(Penalty):
    """weight * shortfall(log sigma^2) of the posteriors whose KL is in the objective."""

    def __init__(self, config: Fisher) -> None:
        super().__init__()
        self._weight = config.weight
        log_level = math.log(config.level)
        shortfalls: dict[str, Callable[[Tensor], Tensor]] = {
            "floor": lambda logvar: (log_level - fisher_information(logvar)).relu(),
            "target": lambda logvar: (fisher_information(logvar) - log_level).abs(),
            "code": _published,
        }
        self._shortfall = shortfalls[config.mode]

    def forward(self, forward: Forward) -> Tensor:
        return self._weight * self._shortfall(forward.inference.kl_posterior.base.at_least_float32().logvar_BZ)


def fisher_information(logvar_BZ: Tensor) -> Tensor:
    """Return log J, J = mean(1 / sigma^2 + 1 / (2 sigma^4)); finite for every finite logvar."""
    precision_BZ = (-logvar_BZ).clamp(max=HIGHEST).exp()
    return torch.addcmul(precision_BZ, precision_BZ, precision_BZ, value=0.5).mean().log()


def _published(logvar_BZ: Tensor) -> Tensor:
    """Return -mean(max(0, 1 - sigma^2) / 3 * min(-3 log sigma^2, 88))."""
    return (logvar_BZ.expm1().clamp(max=0.0) * (-logvar_BZ).clamp(max=BOUND / 3.0)).mean()
