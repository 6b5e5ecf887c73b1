"""The base class of the schedules of the KL weight."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lagvae_core.strategies.base import BuildContext, ConfigContext, Strategy
from lagvae_core.strategies.rules import ConfigWarning, Incompatibility, Trait
from lagvae_core.strategies.slots import KlWeight

__all__ = ["KlSchedule"]

REACHED = 0.99
"""Fraction of the final KL weight from which a schedule counts as completed; a sigmoid never reaches all of it."""

MANY_BATCHES = 100_000
"""Number of batches per epoch assumed before the data are loaded. A schedule in epochs hardly depends on it."""


class KlSchedule(Strategy):
    """The KL weight rises from `w_start` to `w_end` over the outer updates; evaluation uses weight 1.

    The weight depends only on the number t of the update, counted from 0. `w_start` = `w_end` = 1 is the plain VAE.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"kl_weight"})
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.FIXED_KL_WEIGHT})
    length: ClassVar[str] = "warm_up"
    """Name of the field that sets the length of the rise."""
    in_epochs: ClassVar[bool] = False
    """Whether the field `length` counts epochs; otherwise it counts updates."""

    w_start: Annotated[float, Field(ge=0, le=1, description="initial KL weight")] = 0.0
    w_end: Annotated[float, Field(ge=0, description="final KL weight")] = 1.0

    @property
    def final_kl_weight(self) -> float:
        return self.w_end

    @abstractmethod
    def weight(self, step: int, batches_per_epoch: int) -> float:
        """Return the weight of outer update `step`."""

    @abstractmethod
    def settled_update(self, batches_per_epoch: int) -> float:
        """Return the number of outer updates after which the weight no longer falls below `REACHED` * `w_end`."""

    def settled_epoch(self, context: ConfigContext) -> int:
        if self.w_start == self.w_end:
            return 1
        batches = context.batches_per_epoch or (MANY_BATCHES if self.in_epochs else None)
        if batches is None:
            return context.epochs + 1
        updates_per_epoch = context.updates_per_epoch or batches
        return 1 + min(context.epochs, math.ceil(self.settled_update(batches) / updates_per_epoch))

    def between(self, fraction: float) -> float:
        """Return the weight at `fraction` of the rise from `w_start` to `w_end`."""
        return min(self.w_end, self.w_start + (self.w_end - self.w_start) * fraction)

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"kl_weight": _ScheduledWeight(self, context.batches_per_epoch)}

    def incompatibilities(self, context: ConfigContext) -> Iterator[Incompatibility]:
        yield from super().incompatibilities(context)
        if self.w_start > self.w_end:
            yield Incompatibility(
                "E-RANGE",
                f"{self.kind}.w_start must not exceed {self.kind}.w_end, but {self.w_start} > {self.w_end}; lower "
                "w_start or raise w_end",
            )

    def warnings(self, context: ConfigContext) -> Iterator[ConfigWarning]:
        yield from super().warnings(context)
        if context.batches_per_epoch is None and not self.in_epochs:
            return
        batches = context.batches_per_epoch or MANY_BATCHES
        updates = context.epochs * batches
        last = self.weight(updates - 1, batches)
        if last >= REACHED * self.w_end:
            return
        highest = max(self.weight(step, batches) for step in range(0, updates, math.ceil(updates / 1000)))
        verb = "is again below" if highest >= REACHED * self.w_end else "never reaches"
        length = f"{context.epochs} epochs"
        if context.batches_per_epoch is not None:
            length += f" ({updates:,} updates)"
        yield ConfigWarning(
            "W7",
            f"With {self.kind}.{self.length} = {getattr(self, self.length)}, the KL weight {verb} {self.kind}.w_end = "
            f"{self.w_end}: it is {last:.2g}, a fraction of {last / self.w_end:.2g}, when training ends after {length}."
            f" The model is trained like a beta-VAE whose beta ends at {last:.2g}; lower "
            f"{self.kind}.{self.length} or train longer.",
        )


class _ScheduledWeight(KlWeight):
    def __init__(self, schedule: KlSchedule, batches_per_epoch: int) -> None:
        self._schedule = schedule
        self._batches = batches_per_epoch

    def __call__(self, step: int) -> float:
        return self._schedule.weight(step, self._batches)
