"""An encoder that has learned to encode before it is asked to be a posterior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, Strategy
from lagvae_core.strategies.slots import Pretraining

__all__ = ["AePretrain"]


class AePretrain(Strategy):
    """Encoder and decoder first train as an autoencoder; then the decoder starts anew, and the trial proper begins.

    Source: Li et al. 2019, as their published code has it. For `epochs` epochs the loss is the reconstruction alone,
    from a sample of q, whatever else is stacked; `training.epochs` more follow under the stacked remedies. The encoder
    is kept, with what belongs to the posterior. The decoder gets fresh weights, others than its first; optimisers,
    learning rate, its decay and all schedules start as if nothing had been before. `epochs` 0 is the plain VAE. The
    remedy is meant for a stack: theirs has free_bits (`mode` dim_sample, 8 nats in all) and kl_linear_epoch (0 to 1 in
    10 epochs).

    - They train the autoencoder as long as any model, with decays of the learning rate, and keep the encoder of the
      best validation reconstruction. Here the learning rate stays, the encoder is that of the last epoch, and the
      default of 5 epochs is short.
    - Dropout, dropped words and the learning rate of the encoder are the same in both stages.
    - Epochs, updates and seconds are counted through: with 5 epochs of pretraining the first of the trial proper is the
      sixth of the curve, and `best_epoch` is at least 6.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"pretraining"})
    paper: ClassVar[str] = "Li et al. 2019, A Surprisingly Effective Fix for Deep Latent Variable Modeling of Text"

    kind: Literal["ae_pretrain"] = "ae_pretrain"
    epochs: Annotated[int, Field(ge=0, description="epochs as an autoencoder, before all others"), Tunable(1, 20)] = 5

    @property
    def pretraining_epochs(self) -> int:
        return self.epochs

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"pretraining": Pretraining(self.epochs)}
