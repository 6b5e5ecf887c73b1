"""Linear KL annealing over epochs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.kl_schedule import KlSchedule

__all__ = ["KlLinearEpoch"]


class KlLinearEpoch(KlSchedule):
    """The weight of the KL term grows linearly from `w_start` to `w_end` over `warm_up` epochs and then stays there.

    Source: Bowman et al. 2016. Kim et al. 2018 and He et al. 2019 use it with 0.1 to 1 in 10 epochs.

    Update t (counted from 0) has weight min(w_end, w_start + (t + 1) * rate), with N batches per epoch. `rate_mode`
    selects the rate: `exact`, the default, is (w_end - w_start) / (warm_up * N). `kim` is w_end / (warm_up * N), as in
    the code of Kim et al.; the rise from 0.1 to 1 then takes 0.9 * warm_up epochs. With `warm_up` 0 the weight is
    `w_end` from the first update.

    Departure. Instead of N, the public code of He et al. uses the number of examples divided by the batch size. For
    length-bucketed batches this is a little less than N, so their weight reaches `w_end` a little earlier.
    """

    paper: ClassVar[str] = "Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1"
    in_epochs: ClassVar[bool] = True

    kind: Literal["kl_linear_epoch"] = "kl_linear_epoch"
    warm_up: Annotated[float, Field(ge=0, description="number of epochs until the final weight"), Tunable(1, 20)] = 10.0
    w_start: Annotated[float, Field(ge=0, le=1, description="weight before the first update")] = 0.1
    rate_mode: Annotated[Literal["exact", "kim"], Field(description="formula of the slope")] = "exact"

    def settled_update(self, batches_per_epoch: int) -> float:
        return self.warm_up * batches_per_epoch

    def weight(self, step: int, batches_per_epoch: int) -> float:
        updates = self.warm_up * batches_per_epoch
        if step + 1 >= updates:
            return self.w_end
        rise = self.w_end - self.w_start if self.rate_mode == "exact" else self.w_end
        return min(self.w_end, self.w_start + (step + 1) * rise / updates)
