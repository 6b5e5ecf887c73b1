"""Cyclical KL annealing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import ConfigContext
from lagvae_core.strategies.kl_schedule import KlSchedule
from lagvae_core.strategies.rules import ConfigWarning

__all__ = ["KlCyclical"]


class KlCyclical(KlSchedule):
    """The weight of the KL term rises from `w_start` to `w_end` repeatedly: `cycles` times in `epochs` epochs.

    Source: Fu et al. 2019. A cycle has total / cycles updates, with total = epochs * batches per epoch. After a
    fraction tau of a cycle, the weight has covered the fraction g(tau / ramp) of the rise if tau is at most `ramp`, and
    all of it otherwise. After the last cycle the weight stays at `w_end`. `shape` selects g(a): `linear` is g(a) = a,
    `sigmoid` is g(a) = 1 / (1 + exp(6 - 12 a)), and `cosine` is g(a) = (1 - cos(pi a)) / 2.

    Departures. The paper counts updates; in this implementation the length is given in `epochs`, so that one value
    suits data of any size. The default, 4 cycles of 10 epochs, is that of the authors' script for language models. That
    script restarts at 0.1 and reaches 1 after 4.5 of 10 epochs; the default of this implementation restarts at
    `w_start` 0, as in the paper. The script also restarts the learning rate with each cycle; this is left out, because
    no slot can change the learning rate within an epoch.
    """

    paper: ClassVar[str] = "Fu et al. 2019, Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing"

    length: ClassVar[str] = "epochs"
    in_epochs: ClassVar[bool] = True

    kind: Literal["kl_cyclical"] = "kl_cyclical"
    epochs: Annotated[float, Field(gt=0, description="length of all cycles together [epochs]")] = 40.0
    cycles: Annotated[int, Field(ge=1, description="number of cycles"), Tunable(2, 8)] = 4
    ramp: Annotated[
        float, Field(gt=0, le=1, description="fraction of a cycle in which the weight rises"), Tunable(0.25, 1.0)
    ] = 0.5
    shape: Annotated[Literal["linear", "sigmoid", "cosine"], Field(description="shape of the rise")] = "linear"

    def settled_update(self, batches_per_epoch: int) -> float:
        """Return the number of updates until the rise of the last cycle has ended."""
        return self.epochs * batches_per_epoch * (self.cycles - 1 + self.ramp) / self.cycles

    def weight(self, step: int, batches_per_epoch: int) -> float:
        total = self.epochs * batches_per_epoch
        progress = (step * self.cycles) % total / (self.ramp * total)
        if step >= total or progress > 1.0:
            return self.between(1.0)
        if self.shape == "sigmoid":
            return self.between(1.0 / (1.0 + math.exp(6.0 - 12.0 * progress)))
        return self.between(progress if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * progress))

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        training = context.training
        last_cycle = self.epochs * (self.cycles - 1) / self.cycles
        first_decay = max(training.decay_patience, training.decay_min_epoch) + 1
        reloads = training.reload_best_on_decay and training.max_decays > 1
        if reloads and first_decay < min(last_cycle, training.epochs):
            yield ConfigWarning(
                "W3",
                f"The last cycle of kl_cyclical begins after epoch {last_cycle:g}, but from epoch {first_decay} on "
                "a decay of the learning rate can restore model weights from an earlier cycle; set "
                f"training.decay_min_epoch = {math.ceil(last_cycle) - 1} to prevent this.",
            )
