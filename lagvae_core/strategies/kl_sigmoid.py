"""KL annealing over updates, along a sigmoid."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import KlSchedule

__all__ = ["KlSigmoid"]


class KlSigmoid(KlSchedule):
    """The weight of the KL term grows along a sigmoid of the updates, half way at update `midpoint`.

    Source: Bowman et al. 2016, section 3.1, who draw such a curve and give no constants; 0.0025 and 2,500 are common
    in public code.

    Update t (from 0) has share 1 / (1 + exp(-slope * (t - midpoint))). It starts a little above `w_start` (0.002 of the
    way with the defaults) and comes as near to `w_end` as the precision allows.
    """

    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1"

    kind: Literal["kl_sigmoid"] = "kl_sigmoid"
    slope: Annotated[float, Field(gt=0, description="steepness at the midpoint, times 4, an update")] = 0.0025
    midpoint: Annotated[
        int, Field(ge=0, description="update at which half the way is covered"), Tunable(1_000, 20_000, log=True)
    ] = 2_500

    def share(self, step: int, batches_per_epoch: int) -> float:
        x = self.slope * (step - self.midpoint)
        small = math.exp(-abs(x))
        return 1.0 / (1.0 + small) if x >= 0 else small / (1.0 + small)
