"""The weights with the lowest validation loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["BestWeights"]


@dataclass
class BestWeights:
    """The weights after the epoch with the lowest validation loss, or after the first such epoch if there are several.

    Attributes:
        epoch: Number of that epoch, from 1; 0 before the first epoch.
        valid_loss: Validation loss of that epoch [nats]; infinite before the first epoch.
        weights: A copy of the model's state dict after that epoch; empty before the first epoch.
    """

    epoch: int = 0
    valid_loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)

    def after_epoch(self, epoch: int, valid_loss: float, model: nn.Module) -> None:
        """Copy the weights of `model` if `valid_loss` is the lowest so far."""
        if valid_loss < self.valid_loss:
            self.epoch, self.valid_loss = epoch, valid_loss
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into `model`."""
        model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, its loss and its weights, for a checkpoint."""
        return {"epoch": self.epoch, "valid_loss": self.valid_loss, "model": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epoch, self.valid_loss, self.weights = state["epoch"], state["valid_loss"], state["model"]
