"""Reference LSTM language model, used to score generated sentences (forward and reverse perplexity)."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.data import TokenDataset, TokenSplit
from lagvae_core.data.cache import cache_folder
from lagvae_core.errors import CheckpointError
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.studies.trained_model import TrainedModel, restore
from lagvae_core.training.checkpoint import FileCheckpoint
from lagvae_core.training.record import Progress
from lagvae_core.training.trial import Trial

__all__ = ["ReferenceLanguageModel", "perplexity", "with_training_text"]

_log = logging.getLogger(__name__)

EpochProgress = Callable[[int, int], None]
"""Called with the number of the epoch that has ended and the largest number of epochs."""


@dataclass(frozen=True)
class ReferenceLanguageModel:
    """An `lstm_lm` trial with the recipe of its kind of data. All models of the same data share one reference.

    Args:
        epochs: Largest number of epochs.
        hidden: Number of recurrent units; None for the number in the recipe.
        embedding: Size of the embeddings; None for the size in the recipe.
        seed: Seed of the trial.
    """

    epochs: int
    hidden: int | None = None
    embedding: int | None = None
    seed: int = 0

    def config(self, scored: TrialConfig) -> TrialConfig:
        """Return the configuration of the reference that scores a model with the configuration `scored`."""
        sizes = {"hidden": self.hidden, "embedding": self.embedding}
        return parse_trial(
            {
                "data": scored.data.model_dump(),
                "model": {name: size for name, size in sizes.items() if size is not None},
                "strategies": ["lstm_lm"],
                "training": {"epochs": self.epochs},
                "seed": self.seed,
            }
        )

    def of(self, trained: TrainedModel, progress: EpochProgress = lambda epoch, epochs: None) -> TrainedModel:
        """Return the reference for `trained`, trained on the same data; see `on`."""
        assert isinstance(trained.dataset, TokenDataset), "a reference language model needs sentences"
        return self.on(trained.config, trained.dataset, trained.device, progress)

    def on(
        self,
        scored: TrialConfig,
        dataset: TokenDataset,
        device: torch.device,
        progress: EpochProgress = lambda epoch, epochs: None,
    ) -> TrainedModel:
        """Return the reference from the cache, or train it and store it there.

        Args:
            scored: Configuration of the model whose sentences are scored.
            dataset: Data on which the reference is trained; they may differ from the data of `scored`.
            device: Device of the reference.
            progress: Called after each epoch of training.
        """
        config = self.config(scored)
        name = f"reference-lm-{config.run_id(dataset.fingerprint)}.model"
        if (reference := _cached(name, config, dataset, device)) is not None:
            return reference
        trial = Trial(config, dataset, device)
        trial.fit(progress=lambda place: _report_epoch(place, self.epochs, progress))
        _store(name, trial.best_weights())
        return TrainedModel.of(trial)


def _report_epoch(place: Progress, epochs: int, progress: EpochProgress) -> None:
    if place.phase == "train" and place.done == place.total:
        progress(place.epoch, epochs)


def _cached(name: str, config: TrialConfig, dataset: TokenDataset, device: torch.device) -> TrainedModel | None:
    """Return the cached model called `name`; None if it is missing or cannot be used."""
    try:
        content = FileCheckpoint(cache_folder() / name).load()
        return None if content is None else restore(content, config, dataset, device)
    except (CheckpointError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _log.warning("cannot use the cached language model, so it is trained again: %s", error)
        return None


def _store(name: str, content: bytes) -> None:
    try:
        FileCheckpoint(cache_folder() / name).save(content)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _log.warning("cannot cache the language model: %s", error)


@torch.no_grad()
def perplexity(reference: TrainedModel, split: TokenSplit) -> float | None:
    """Return exp(sum of -log p / number of predicted tokens) over the whole split.

    Every token except the first, `<s>`, is predicted, including `</s>` if the sentence has one. The result is None if
    the split has no predicted tokens.
    """
    if not split.units:
        return None
    total = torch.zeros((), dtype=torch.float64, device=reference.device)
    for batch in on_device(split, ENCODE_BATCH, reference.device):
        z_B1Z = reference.model.infer(batch).q.base.mean_BZ[:, None]
        total += reference.model.reconstruct(batch, batch.history, z_B1Z).double().sum()
    return math.exp(min(float(total) / split.units, 700.0))


def with_training_text(dataset: TokenDataset, train: TokenSplit) -> TokenDataset:
    """Return the data set with different training sentences, and therefore with a different fingerprint."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    digest.update(train.tokens.astype("<i4").tobytes())
    digest.update(train.offsets.astype("<i8").tobytes())
    return replace(dataset, train=train, fingerprint=digest.hexdigest(), truth=None)
