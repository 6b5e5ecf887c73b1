"""Sigmoid KL annealing over updates."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.kl_schedule import REACHED, KlSchedule

__all__ = ["KlSigmoid"]


class KlSigmoid(KlSchedule):
    """The KL weight follows a sigmoid in the update number and is halfway up at update `midpoint`.

    Source: Bowman et al. 2016, section 3.1. The paper shows such a curve without its constants; 0.0025 and 2,500 are
    common in public code.

    At update t (counted from 0), the weight has covered the fraction 1 / (1 + exp(-slope * (t - midpoint))) of the rise
    from `w_start` to `w_end`. With the defaults it starts slightly above `w_start` (at 0.002 of the rise). It
    approaches `w_end` as closely as floating-point precision allows.
    """

    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1"

    length: ClassVar[str] = "midpoint"

    kind: Literal["kl_sigmoid"] = "kl_sigmoid"
    slope: Annotated[
        float, Field(gt=0, description="4 times the slope of the sigmoid at its midpoint [1 / update]")
    ] = 0.0025
    midpoint: Annotated[
        int, Field(ge=0, description="update at which half the rise is reached"), Tunable(1_000, 20_000, log=True)
    ] = 2_500

    def settled_update(self, batches_per_epoch: int) -> float:
        """Return the number of updates until the sigmoid has reached the fraction `REACHED` of the rise."""
        return self.midpoint + math.log(REACHED / (1.0 - REACHED)) / self.slope

    def weight(self, step: int, batches_per_epoch: int) -> float:
        x = self.slope * (step - self.midpoint)
        decay = math.exp(-abs(x))
        return self.between(1.0 / (1.0 + decay) if x >= 0 else decay / (1.0 + decay))
