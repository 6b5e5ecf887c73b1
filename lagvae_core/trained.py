"""A trained model as one thing: what a trial leaves behind, what a file keeps of it, and what studies measure."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from lagvae_core import checkpoint as checkpoints
from lagvae_core.config import TrialConfig
from lagvae_core.data import Dataset, Split
from lagvae_core.evaluation import ENCODE_BATCH, on_device
from lagvae_core.metrics.encoding import EncodedSplit, encode_split
from lagvae_core.models.vae import Vae
from lagvae_core.slots import Parts
from lagvae_core.trainable import Trial

__all__ = ["Trained", "keep", "restore"]


@dataclass(frozen=True, eq=False)
class Trained:
    """The best weights of a trial in eval mode, with its configuration, parts and data."""

    config: TrialConfig
    dataset: Dataset
    model: Vae
    parts: Parts
    device: torch.device

    @property
    def run_id(self) -> str:
        return self.config.run_id(self.dataset.fingerprint)

    @property
    def split(self) -> Split:
        """The split that the configuration measures, cut to its `limit`."""
        setting = self.config.evaluation
        split: Split = getattr(self.dataset, setting.split)
        return split if setting.limit is None else split.limit(setting.limit)

    def encode(self, split: Split) -> EncodedSplit:
        """q(z|x) of every example by the proposal that evaluation uses, and one sample and its reconstruction."""
        seed = self.config.evaluation.seed
        batches = on_device(split, ENCODE_BATCH, self.device)
        return encode_split(self.model, batches, seed, infer=self.parts.refine(self.model, seed))

    @functools.cached_property
    def encoded(self) -> EncodedSplit:
        """`split`, encoded at the first use."""
        return self.encode(self.split)

    @classmethod
    def of(cls, trial: Trial) -> Trained:
        """The trial's model at its best weights; the trial itself should not be trained further."""
        trial.model.load_state_dict(trial.best["model"])
        return cls(trial.config, trial.dataset, trial.model.eval(), trial.parts, trial.device)


def keep(trial: Trial) -> bytes:
    """The trial's best weights as bytes that `restore` reads: weights alone, since its configuration says the rest."""
    state: dict[str, Any] = {"identity": trial.run_id, "model": trial.best["model"]}
    return checkpoints.encode(state)


def restore(content: bytes, config: TrialConfig, dataset: Dataset, device: torch.device | str = "cpu") -> Trained:
    """The model that `keep` kept of the trial with this configuration and these data.

    Raises:
        CheckpointError: the bytes are damaged, or of another configuration or other data.
    """
    state = checkpoints.decode(content, config.run_id(dataset.fingerprint))
    trial = Trial(config, dataset, torch.device(device))
    trial.best["model"] = state["model"]
    return Trained.of(trial)
