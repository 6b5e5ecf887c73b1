"""Linear KL annealing over updates."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.kl_schedule import KlSchedule

__all__ = ["KlLinearIter"]


class KlLinearIter(KlSchedule):
    """The weight of the KL term grows linearly from `w_start` to `w_end` over `warm_up` updates and then stays there.

    Source: He et al. 2019, Appendix E: from 0 to 1 in 30,000, 50,000, 100,000 or 120,000 updates, for text and images.

    At update t (counted from 0), the weight has covered the fraction min(1, t / warm_up) of the rise, so the first
    update has weight `w_start`. Only outer updates (steps on the main objective) count, not the inner encoder steps of
    `aggressive`. In a run with fewer updates than `warm_up`, the weight never reaches `w_end`. With `warm_up` 0 the
    weight is `w_end` from the first update.

    Departure. With a `w_end` other than 1 the slope is (w_end - w_start) / warm_up, not 1 / warm_up, so that `warm_up`
    keeps its meaning.
    """

    paper: ClassVar[str] = "He et al. 2019, Lagging Inference Networks and Posterior Collapse, Appendix E"

    kind: Literal["kl_linear_iter"] = "kl_linear_iter"
    warm_up: Annotated[
        int,
        Field(ge=0, description="number of updates until the final weight"),
        Tunable(choices=(30_000, 50_000, 100_000, 120_000)),
    ] = 100_000

    def settled_update(self, batches_per_epoch: int) -> float:
        return self.warm_up

    def weight(self, step: int, batches_per_epoch: int) -> float:
        return self.between(step / self.warm_up if step < self.warm_up else 1.0)
