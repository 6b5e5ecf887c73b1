"""Divergence criteria of a trial. At a small KL weight, as in a warm-up, a KL of hundreds of nats is normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.errors import Diverged

__all__ = ["DivergenceRule", "check_finite"]

PATIENCE = 2
"""Number of consecutive epochs for which a limit must be exceeded."""


def check_finite(losses_S: Tensor, first_step: int) -> None:
    """Check that every training loss is finite.

    Args:
        losses_S: Losses of S consecutive outer updates.
        first_step: Number of outer updates before these losses.

    Raises:
        Diverged: A loss is not finite; the message gives the number of the first update with such a loss, from 1.
    """
    bad = torch.nonzero(~torch.isfinite(losses_S))
    if len(bad):
        step = int(bad[0])
        raise Diverged(f"the loss is {float(losses_S[step])} at update {first_step + step + 1}")


@dataclass
class DivergenceRule:
    """Decides after each validation whether the trial has diverged.

    The trial has diverged if a validation value is not finite. It has also diverged if, in two consecutive epochs with
    a KL weight of at least 0.5, the validation KL exceeds `kl_explode` nats, or the validation loss exceeds twice the
    absolute loss of the first epoch, or twice `loss_floor` if that is larger. At a smaller weight a large KL is
    intended, as in warm-ups and autoencoders.

    The KL and the loss are those of the training objective, at KL weight 1. No limit applies to a KL that a strategy
    leaves out of its objective, as Scale-VAE does.
    """

    kl_explode: float
    loss_floor: float = 0.0
    first_loss: float | None = None
    exploded: int = 0
    doubled: int = 0

    def after_epoch(self, epoch: int, kl: float, loss: float, weight: float, evaluated_kl: float = 0.0) -> None:
        """Check the validation values of an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            kl: Validation KL of the training objective [nats].
            loss: Validation loss at weight 1 [nats].
            weight: KL weight of the epoch's last update.
            evaluated_kl: KL of the evaluated model [nats]. It must be finite; no limit applies to it.

        Raises:
            Diverged: One of the criteria is met.
        """
        if not all(map(math.isfinite, (kl, loss, evaluated_kl))):
            raise Diverged(
                f"after epoch {epoch}, the validation KL is {kl} (of the evaluated model: {evaluated_kl}) and the "
                f"validation loss is {loss}"
            )
        if self.first_loss is None:
            self.first_loss = loss
        self.exploded = self.exploded + 1 if kl > self.kl_explode and weight >= 0.5 else 0
        self.doubled = (
            self.doubled + 1 if loss > 2.0 * max(abs(self.first_loss), self.loss_floor) and weight >= 0.5 else 0
        )
        if self.exploded >= PATIENCE:
            raise Diverged(
                f"the validation KL is {kl:.4g} nats after epoch {epoch}, "
                f"above training.kl_explode = {self.kl_explode:g}"
            )
        if self.doubled >= PATIENCE:
            raise Diverged(
                f"the validation loss is {loss:.4g} nats after epoch {epoch}, more than twice the loss of the first "
                f"epoch ({self.first_loss:.4g})"
            )

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the counts and the loss of the first epoch, for a checkpoint."""
        return {"first_loss": self.first_loss, "exploded": self.exploded, "doubled": self.doubled}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """Restore what `state_dict` returned."""
        self.first_loss = state["first_loss"]
        self.exploded = int(state["exploded"] or 0)
        self.doubled = int(state["doubled"] or 0)
