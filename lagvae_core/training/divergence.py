"""When a trial counts as diverged. A warm-up with a small KL weight may legitimately reach hundreds of nats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.errors import Diverged

__all__ = ["DivergenceRule", "check_finite"]

PATIENCE = 2


def check_finite(losses_S: Tensor, first_step: int) -> None:
    """Raise `Diverged` naming the first outer update, counted from 1, whose loss is not finite."""
    bad = torch.nonzero(~torch.isfinite(losses_S))
    if len(bad):
        step = int(bad[0])
        raise Diverged(f"the loss is {float(losses_S[step])} at update {first_step + step + 1}")


@dataclass
class DivergenceRule:
    """Diverged is: a validation number that is not finite; a validation KL above `kl_explode` nats at a weight of at
    least 0.5, twice running; or a validation loss above twice that of the first epoch, twice running at such a weight.
    Below it a large KL is what warm-ups and autoencoders are for. KL and loss are those that training charges at weight
    1: what a remedy leaves out of its objective (Scale-VAE does) may grow without an accident.
    """

    kl_explode: float
    first_loss: float | None = None
    exploded: int = 0
    doubled: int = 0

    def after_epoch(self, epoch: int, kl: float, loss: float, weight: float, uncharged: float = 0.0) -> None:
        """Raise `Diverged` if the rule fires after `epoch` (from 1); `uncharged` must be finite, and no more."""
        if not all(map(math.isfinite, (kl, loss, uncharged))):
            raise Diverged(f"validation gives kl {kl} ({uncharged} as measured) and loss {loss} after epoch {epoch}")
        if self.first_loss is None:
            self.first_loss = loss
        self.exploded = self.exploded + 1 if kl > self.kl_explode and weight >= 0.5 else 0
        self.doubled = self.doubled + 1 if loss > 2.0 * abs(self.first_loss) and weight >= 0.5 else 0
        if self.exploded >= PATIENCE:
            raise Diverged(f"the validation KL is {kl:.4g} nats, above {self.kl_explode:g}, after epoch {epoch}")
        if self.doubled >= PATIENCE:
            raise Diverged(
                f"the validation loss is {loss:.4g} nats after epoch {epoch}, more than twice the "
                f"{self.first_loss:.4g} of the first epoch"
            )

    def state_dict(self) -> dict[str, float | int | None]:
        return {"first_loss": self.first_loss, "exploded": self.exploded, "doubled": self.doubled}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        self.first_loss = state["first_loss"]
        self.exploded = int(state["exploded"] or 0)
        self.doubled = int(state["doubled"] or 0)
