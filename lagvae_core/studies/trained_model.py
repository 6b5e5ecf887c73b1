"""A trained model as one thing: what a trial leaves behind, what a file keeps of it, and what studies measure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset, Split
from lagvae_core.errors import CheckpointError
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.metrics.encoding import EncodedSplit, encode_split, posterior_mean
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import derive_seed, example_noise
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.trial import Trial

__all__ = ["TrainedModel", "configuration_of", "keep", "restore"]

REMEDY = "Train it again."


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The best weights of a trial in eval mode, with its configuration, parts and data."""

    config: TrialConfig
    dataset: Dataset
    model: Vae
    components: TrainingComponents
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
        return encode_split(self.model, batches, seed, infer=self.components.refine(self.model, seed))

    @torch.no_grad()
    def means(self, split: Split, progress: Callable[[int], None] = lambda examples: None) -> Tensor:
        """E_q[z|x] of every example in the order of the split, float64 [N, Z] on the CPU; nothing is decoded for it.

        It is the mean of what the decoder is given, by the proposal that evaluation uses. `progress` hears the examples
        done.
        """
        seed = self.config.evaluation.seed
        infer = self.components.refine(self.model, seed)
        rows, index = [], []
        for batch in on_device(split, ENCODE_BATCH, self.device):
            rows.append(posterior_mean(infer(batch).q, batch.index_B, seed)[0].double().cpu())
            index.append(batch.index_B)
            progress(sum(map(len, index)))
        return torch.cat(rows)[torch.cat(index).argsort()]

    @torch.no_grad()
    def from_prior(self, examples: int, seed: int, purpose: str) -> Tensor:
        """z from the prior that the model is sampled from, [N, Z]; none depends on how many there are."""
        (one,) = on_device(self.split.limit(1), 1, self.device)
        latent = self.model.infer(one).q.size[1]
        noise_NZ = example_noise(seed, purpose, torch.arange(examples), 1, latent)[:, 0]
        generator = torch.Generator(self.device).manual_seed(derive_seed(seed, f"{purpose} prior"))
        weights = next(self.model.parameters())
        return self.model.generative_prior().sample(noise_NZ.to(weights), generator)

    @functools.cached_property
    def encoded(self) -> EncodedSplit:
        """`split`, encoded at the first use."""
        return self.encode(self.split)

    @classmethod
    def untrained(cls, config: TrialConfig, dataset: Dataset, device: torch.device) -> TrainedModel:
        """The model as the trial of this configuration starts to train it."""
        trial = Trial(config, dataset, device)
        return cls(config, dataset, trial.model.eval(), trial.components, device)

    @classmethod
    def of(cls, trial: Trial) -> TrainedModel:
        """The trial's model at its best weights; the trial itself should not be trained further."""
        trial.model.load_state_dict(trial.best.weights)
        return cls(trial.config, trial.dataset, trial.model.eval(), trial.components, trial.device)


def keep(trial: Trial) -> bytes:
    """The trial's best weights as bytes that `restore` reads: weights alone, since its configuration says the rest."""
    return trial.best_weights()


def configuration_of(content: bytes) -> TrialConfig:
    """The configuration of the trial whose weights `content` keeps.

    Raises:
        CheckpointError: the bytes are damaged, or no kept model of this version.
    """
    state = _decode(content, None)
    try:
        return TrialConfig.model_validate_json(state.get("config", ""))
    except ValueError:
        message = "A kept model must hold a configuration of this version of lagvae, but this file does not."
        raise CheckpointError(f"{message} {REMEDY}") from None


def restore(content: bytes, config: TrialConfig, dataset: Dataset, device: torch.device | str = "cpu") -> TrainedModel:
    """The model that `keep` kept of the trial with this configuration and these data.

    Raises:
        CheckpointError: the bytes are damaged, or of another configuration or other data.
    """
    state = _decode(content, config.run_id(dataset.fingerprint))
    trial = Trial(config, dataset, torch.device(device))
    trial.best.weights = state.get("model", {})
    try:
        return TrainedModel.of(trial)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        message = "A kept model must hold the weights of its configuration, but this one does not"
        raise CheckpointError(f"{message} ({reason}). {REMEDY}") from None


def _decode(content: bytes, identity: str | None) -> dict[str, Any]:
    instead = "Give the model of this very run."
    return checkpoints.decode(content, identity, what="kept model", hint=REMEDY, mismatch_hint=instead)
