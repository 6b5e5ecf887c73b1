"""Exponential KL annealing over updates."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.kl_schedule import KlSchedule

__all__ = ["KlExp"]


class KlExp(KlSchedule):
    """The weight of the KL term grows exponentially from `w_start` to `w_end` over `warm_up` updates, then stays there.

    Source: annealing is from Bowman et al. 2016. The blog post "Posterior collapse and the strong generator problem"
    mentions an exponential shape along with the linear one.

    Departure. No formula is published, so this implementation defines one. With a = min(1, t / warm_up) at update t
    (counted from 0), the fraction of the rise from `w_start` to `w_end` is
    (exp(curvature * a) - 1) / (exp(curvature) - 1). If `curvature` is positive, the weight rises slowly at first; if it
    is negative, the weight rises slowly towards the end. `curvature` = 0 gives the linear limit, as in
    `kl_linear_iter`. With `warm_up` = 0 the weight is `w_end` from the first update.
    """

    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space; the shape is ours"

    kind: Literal["kl_exp"] = "kl_exp"
    warm_up: Annotated[
        int,
        Field(ge=0, description="number of updates until the final weight"),
        Tunable(choices=(30_000, 50_000, 100_000, 120_000)),
    ] = 100_000
    curvature: Annotated[
        float, Field(ge=-50, le=50, description="logarithm of the ratio of the final slope to the initial slope")
    ] = 5.0

    def settled_update(self, batches_per_epoch: int) -> float:
        return self.warm_up

    def weight(self, step: int, batches_per_epoch: int) -> float:
        if step >= self.warm_up:
            return self.between(1.0)
        fraction = step / self.warm_up
        if self.curvature:
            fraction = math.expm1(self.curvature * fraction) / math.expm1(self.curvature)
        return self.between(fraction)
