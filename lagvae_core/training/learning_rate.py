"""Decay of the learning rate and end of training, determined by the validation losses alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["DecayRule"]


@dataclass
class DecayRule:
    """Decay of the learning rate as in the published code of He et al. 2019.

    An epoch is bad if its validation loss exceeds the reference loss. An epoch that is not bad sets the reference to
    its loss and the count of bad epochs to 0. The learning rate decays at the `patience`-th consecutive bad epoch, but
    not before epoch `min_epoch` (from 0); bad epochs before `min_epoch` also count. A decay sets the count to 0.

    The effect of a decay on the reference depends on `against`. With `last` (text), a decay sets the reference to the
    loss of the current epoch, which is *worse* than the old reference. With `best` (images), the reference stays the
    lowest loss so far.

    When decay number `max_decays` is due, training stops instead.
    """

    patience: int
    min_epoch: int
    max_decays: int
    against: Literal["last", "best"] = "last"
    reference: float = math.inf
    bad_epochs: int = 0
    decays: int = 0

    def after_epoch(self, epoch: int, loss: float) -> Literal["continue", "decay", "stop"]:
        """Return the action after `epoch` (from 0) with validation loss `loss`."""
        if loss <= self.reference:
            self.reference, self.bad_epochs = loss, 0
            return "continue"
        self.bad_epochs += 1
        if self.bad_epochs < self.patience or epoch < self.min_epoch:
            return "continue"
        self.bad_epochs = 0
        if self.against == "last":
            self.reference = loss
        self.decays += 1
        return "stop" if self.decays >= self.max_decays else "decay"

    def state_dict(self) -> dict[str, float | int]:
        """Return the reference loss and the counts, for a checkpoint."""
        return {"reference": self.reference, "bad_epochs": self.bad_epochs, "decays": self.decays}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Restore what `state_dict` returned."""
        self.reference = float(state["reference"])
        self.bad_epochs = int(state["bad_epochs"])
        self.decays = int(state["decays"])
