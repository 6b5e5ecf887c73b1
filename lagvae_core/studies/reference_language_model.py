"""A language model that tells how likely sentences are which another model made."""

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
from lagvae_core.studies.trained_model import TrainedModel, keep, restore
from lagvae_core.training.checkpoint import FileCheckpoint
from lagvae_core.training.record import Progress
from lagvae_core.training.trial import Trial

__all__ = ["ReferenceLanguageModel", "perplexity", "with_training_text"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceLanguageModel:
    """An `lstm_lm` trial of the same data, by the recipe of their kind: the same judge for every model of these data.

    `hidden` and `embedding` are those of the recipe where they are None.
    """

    epochs: int
    hidden: int | None = None
    embedding: int | None = None
    seed: int = 0

    def config(self, judged: TrialConfig) -> TrialConfig:
        """The trial that the judge of the model `judged` comes from."""
        sizes = {"hidden": self.hidden, "embedding": self.embedding}
        return parse_trial(
            {
                "data": judged.data.model_dump(),
                "model": {name: size for name, size in sizes.items() if size is not None},
                "strategies": ["lstm_lm"],
                "training": {"epochs": self.epochs},
                "seed": self.seed,
            }
        )

    def of(
        self, trained: TrainedModel, progress: Callable[[int, int], None] = lambda epoch, epochs: None
    ) -> TrainedModel:
        """The judge for `trained`, out of the cache or trained now; the cache is a folder beside that of the data."""
        assert isinstance(trained.dataset, TokenDataset), "a judge of sentences"
        return self.on(trained.config, trained.dataset, trained.device, progress)

    def on(
        self,
        judged: TrialConfig,
        dataset: TokenDataset,
        device: torch.device,
        progress: Callable[[int, int], None] = lambda epoch, epochs: None,
    ) -> TrainedModel:
        """The same from data that need not be those of the configuration."""
        config = self.config(judged)
        stored = _Stored(config.run_id(dataset.fingerprint))
        found = stored.restore(config, dataset, device)
        if found is None:
            trial = Trial(config, dataset, device)
            trial.fit(progress=lambda now: _of_epochs(now, self.epochs, progress))
            stored.save(keep(trial))
            found = TrainedModel.of(trial)
        return found


def _of_epochs(now: Progress, epochs: int, progress: Callable[[int, int], None]) -> None:
    if now.done == now.total:
        progress(now.epoch, epochs)


class _Stored:
    """The judge's file in the cache. Without a usable folder it is trained each time."""

    def __init__(self, identity: str) -> None:
        self._identity = identity

    def _file(self) -> FileCheckpoint:
        return FileCheckpoint(cache_folder() / f"judge-{self._identity}.model")

    def restore(self, config: TrialConfig, dataset: TokenDataset, device: torch.device) -> TrainedModel | None:
        try:
            content = self._file().load()
            return None if content is None else restore(content, config, dataset, device)
        except (CheckpointError, OSError, RuntimeError) as error:
            _log.warning("the cached language model cannot be used and is trained again: %s", error)
            return None

    def save(self, content: bytes) -> None:
        try:
            self._file().save(content)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
            _log.warning("the language model is not cached: %s", error)


@torch.no_grad()
def perplexity(reference: TrainedModel, split: TokenSplit) -> float | None:
    """exp(sum of -log p / number of predicted tokens) of the whole split; None where it predicts none.

    Predicted is all that follows a first token, which is `<s>`: `</s>` counts where a sentence has one.
    """
    if not split.units:
        return None
    total = torch.zeros((), dtype=torch.float64, device=reference.device)
    for batch in on_device(split, ENCODE_BATCH, reference.device):
        z_B1Z = reference.model.infer(batch).q.base.mean_BZ[:, None]
        total += reference.model.reconstruct(batch, batch.history, z_B1Z).double().sum()
    return math.exp(min(float(total) / split.units, 700.0))


def with_training_text(dataset: TokenDataset, train: TokenSplit) -> TokenDataset:
    """The data set with other training sentences, and so with another fingerprint."""
    digest = hashlib.sha256(dataset.fingerprint.encode())
    digest.update(train.tokens.astype("<i4").tobytes())
    digest.update(train.offsets.astype("<i8").tobytes())
    return replace(dataset, train=train, fingerprint=digest.hexdigest(), truth=None)
