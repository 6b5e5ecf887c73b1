"""Pretraining of encoder and decoder as an autoencoder."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lagvae_core.settings import Tunable
from lagvae_core.strategies.base import BuildContext, Strategy
from lagvae_core.strategies.slots import Pretraining

__all__ = ["AePretrain"]


class AePretrain(Strategy):
    """Encoder and decoder are first trained as an autoencoder; then the decoder is reset and the main training begins.

    Source: Li et al. 2019, following their published code. For `epochs` epochs the loss is only the reconstruction loss
    of a sample from q, regardless of the other strategies in the stack. The main training of `training.epochs` epochs
    follows, with all strategies of the stack. It keeps the encoder and the parameters of the posterior. The decoder
    gets new random weights, different from its initial weights; optimisers, learning rate, learning-rate decay and all
    schedules start from scratch. With `epochs` 0 this is the plain VAE. The strategy is meant to be combined with
    others: the paper adds free_bits (`mode` dim_sample, 8 nats in total) and kl_linear_epoch (0 to 1 in 10 epochs).

    Departures from the paper:

    - The paper trains the autoencoder for as long as any other model and with learning-rate decay, and keeps the
      encoder with the lowest validation reconstruction loss. In this implementation the learning rate is constant, the
      encoder of the last epoch is kept, and the default is a short pretraining of 5 epochs.
    - The README of the paper's code trains with a learning rate of 0.5 and waits 5 bad epochs for a decay, and its code
      selects the best epoch by the loss at the current KL weight. This strategy changes none of these: the learning
      rate and the patience are those of `training`, and the best epoch is selected at weight 1.
    - Dropout, word dropout and the encoder's learning rate are the same in pretraining and in the main training.
    - Counts of epochs, updates and seconds include pretraining: with 5 epochs of pretraining, the first epoch of the
      main training is counted as epoch 6, and `best_epoch` is at least 6.
    """

    slots: ClassVar[frozenset[str]] = frozenset({"pretraining"})
    paper: ClassVar[str] = "Li et al. 2019, A Surprisingly Effective Fix for Deep Latent Variable Modeling of Text"

    kind: Literal["ae_pretrain"] = "ae_pretrain"
    epochs: Annotated[int, Field(ge=0, description="number of pretraining epochs"), Tunable(1, 20)] = 5

    @property
    def pretraining_epochs(self) -> int:
        return self.epochs

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"pretraining": Pretraining(self.epochs)}
