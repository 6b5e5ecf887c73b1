"""Measurements of a trial: training means of an epoch, its validation, and the columns about the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Batch, Dataset
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.metrics.encoding import EncodedSplit, encode_split
from lagvae_core.metrics.posterior import posterior_columns
from lagvae_core.models.vae import Vae
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.training.record import EpochRecord

__all__ = ["TrainingMeans", "Validation", "epoch_columns"]

AT_BEST_EPOCH = ("kl_weight", "valid_loss", "valid_nll_elbo", "valid_kl", "valid_mi", "valid_au")
"""Columns whose values at the best epoch are repeated among the metrics."""


@dataclass(frozen=True)
class TrainingMeans:
    """Means over the training examples of an epoch [nats]: objective, reconstruction and KL."""

    loss: float
    rec: float
    kl: float

    @classmethod
    def of(cls, history: Sequence[Tensor]) -> TrainingMeans:
        """Return the means weighted by batch size. `history` has one tensor [loss, rec, kl, batch size] per update."""
        terms = torch.stack(list(history)).double().cpu()
        size = terms[:, 3]
        mean = (terms[:, :3] * size[:, None]).sum(0) / size.sum()
        return cls(*mean.tolist())


class Validation:
    """The validation split on the device of the model, and the columns of the curve that are measured on it.

    Attributes:
        batches: The examples in batches for encoding.
        groups: Indices of the examples in each group of `mi_batch`.
    """

    def __init__(self, config: TrialConfig, dataset: Dataset, device: torch.device) -> None:
        self.seed = config.evaluation.seed
        self.batches: Sequence[Batch] = on_device(dataset.valid, ENCODE_BATCH, device)
        self.groups = [batch.index_B for batch in dataset.valid.batches(config.evaluation.mi_batch_size)]

    def encode(
        self,
        model: Vae,
        components: TrainingComponents,
        progress: Callable[[int], None] = lambda examples: None,
    ) -> EncodedSplit:
        """Return q(z|x), one sample and its reconstruction for every example, in eval mode.

        Args:
            model: The model, which is put into eval mode.
            components: The components with which the model is trained.
            progress: Called with the number of finished examples.
        """
        model.eval()
        infer = components.refine(model, self.seed)
        return encode_split(model, self.batches, self.seed, infer=infer, progress=progress)

    def columns(self, model: Vae, encoded: EncodedSplit) -> dict[str, Any]:
        """Return the validation columns of the curve."""
        columns = posterior_columns(model, encoded, self.groups)
        return {
            "valid_loss": columns["rec"] + float(encoded.kl_train_N.mean()),
            "valid_nll_elbo": columns["nll_elbo"],
            "valid_kl": columns["kl"],
            "valid_mi": columns["mi"],
            "valid_mi_batch": columns["mi_batch"],
            "valid_kl_agg": columns["kl_agg"],
            "valid_au": columns["au"],
        }


def epoch_columns(curve: Sequence[EpochRecord], best_epoch: int) -> dict[str, Any]:
    """Return the metric columns that describe the epoch whose weights are measured, and the last epoch."""
    best, last = curve[best_epoch - 1], curve[-1]
    columns = {"best_epoch": best.epoch, "epochs": last.epoch, "kl_weight_final": last["kl_weight"]}
    return columns | {name: best[name] for name in AT_BEST_EPOCH}
