"""When the learning rate decays and when training ends, from the validation losses alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["DecayRule"]


@dataclass
class DecayRule:
    """The rules of the published code of He et al. 2019.

    An epoch is bad if its loss exceeds the reference. A decay happens at the `patience`-th bad epoch running, from
    epoch `min_epoch` (from 0) on; the count goes on before that epoch. An epoch that is not bad sets the reference and
    clears the count. A decay clears the count too; against the `last` loss (text) it sets the reference to its own,
    *worse* one, and against the `best` so far (images) leaves the reference alone. Training stops at decay number
    `max_decays`.
    """

    patience: int
    min_epoch: int
    max_decays: int
    against: Literal["last", "best"] = "last"
    reference: float = math.inf
    bad_epochs: int = 0
    decays: int = 0

    def after_epoch(self, epoch: int, loss: float) -> Literal["continue", "decay", "stop"]:
        """What to do after `epoch` (from 0) with validation loss `loss`."""
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
        return {"reference": self.reference, "bad_epochs": self.bad_epochs, "decays": self.decays}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.reference = float(state["reference"])
        self.bad_epochs = int(state["bad_epochs"])
        self.decays = int(state["decays"])
