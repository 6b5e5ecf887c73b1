"""A trained model: the input of every study, built from a trial or from stored weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lagvae_core.config.trial import TrialConfig, complete_stored
from lagvae_core.data import Dataset, Split
from lagvae_core.errors import CheckpointError
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.metrics.encoding import EncodedSplit, encode_split, posterior_moments
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import derive_seed, example_noise
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.training import checkpoint as checkpoints
from lagvae_core.training.trial import Trial

__all__ = ["TrainedModel", "configuration_of", "restore"]

TRAIN_AGAIN = "Train the model again."


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A model in eval mode with its configuration, training components and data."""

    config: TrialConfig
    dataset: Dataset
    model: Vae
    components: TrainingComponents
    device: torch.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}(run_id={self.run_id!r}, dataset={self.dataset}, device={str(self.device)!r})"

    @property
    def run_id(self) -> str:
        """Identity of configuration, data and seed."""
        return self.config.run_id(self.dataset.fingerprint)

    @property
    def split(self) -> Split:
        """The split that the configuration measures, limited to its first `limit` examples."""
        evaluation = self.config.evaluation
        split: Split = getattr(self.dataset, evaluation.split)
        return split if evaluation.limit is None else split.limit(evaluation.limit)

    def encode(self, split: Split) -> EncodedSplit:
        """Return q(z|x) as in the evaluation, one sample and its reconstruction for every example."""
        seed = self.config.evaluation.seed
        batches = on_device(split, ENCODE_BATCH, self.device)
        return encode_split(self.model, batches, seed, infer=self.components.refine(self.model, seed))

    def means(self, split: Split, progress: Callable[[int], None] = lambda examples: None) -> Tensor:
        """Return E_q[z|x] of every example, the mean of the decoder's input, without running the decoder.

        Args:
            split: The examples.
            progress: Called with the number of examples that are done.

        Returns:
            float64 [N, Z] on the CPU, in the order of the split. q(z|x) is computed as in the evaluation.
        """
        return self.moments(split, progress)[0]

    @torch.no_grad()
    def moments(self, split: Split, progress: Callable[[int], None] = lambda examples: None) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of q(z|x) of every example, in the form of `means`."""
        seed = self.config.evaluation.seed
        infer = self.components.refine(self.model, seed)
        means, deviations, index = [], [], []
        for batch in on_device(split, ENCODE_BATCH, self.device):
            mean, deviation = posterior_moments(infer(batch).q, batch.index_B, seed)
            means.append(mean.cpu())
            deviations.append(deviation.cpu())
            index.append(batch.index_B)
            progress(sum(map(len, index)))
        order = torch.cat(index).argsort()
        return torch.cat(means)[order], torch.cat(deviations)[order]

    @torch.no_grad()
    def from_prior(self, examples: int, seed: int, purpose: str) -> Tensor:
        """Return draws of z from the generative prior.

        Args:
            examples: Number of draws N.
            seed: Seed of the draws.
            purpose: Name of the draws; different purposes get independent draws.

        Returns:
            The draws [N, Z]. A row does not depend on N.
        """
        (example,) = on_device(self.split.limit(1), 1, self.device)
        latent = self.model.infer(example).q.size[1]
        noise_NZ = example_noise(seed, purpose, torch.arange(examples), 1, latent)[:, 0]
        generator = torch.Generator(self.device).manual_seed(derive_seed(seed, f"{purpose} prior"))
        weights = next(self.model.parameters())
        return self.model.generative_prior().sample(noise_NZ.to(weights), generator)

    @functools.cached_property
    def encoded(self) -> EncodedSplit:
        """The encoding of `split`, computed on first use."""
        return self.encode(self.split)

    @classmethod
    def untrained(cls, config: TrialConfig, dataset: Dataset, device: torch.device) -> TrainedModel:
        """Return the model of this configuration before its first update."""
        trial = Trial(config, dataset, device)
        return cls(config, dataset, trial.model.eval(), trial.components, device)

    @classmethod
    def of(cls, trial: Trial) -> TrainedModel:
        """Load the best weights into the trial's model and return it. Do not train the trial further."""
        trial.best.restore(trial.model)
        return cls(trial.config, trial.dataset, trial.model.eval(), trial.components, trial.device)


def configuration_of(content: bytes) -> TrialConfig:
    """Return the configuration of the trial that stored these weights with `Trial.best_weights`.

    Raises:
        CheckpointError: The content is damaged, or does not hold a model that this version of lagvae can load.
    """
    state = _decode(content, None)
    try:
        return TrialConfig.model_validate(complete_stored(json.loads(state.get("config", ""))))
    except ValueError:
        message = "The configuration of the stored model is missing or not valid in this version of lagvae."
        raise CheckpointError(f"{message} {TRAIN_AGAIN}") from None


def restore(content: bytes, config: TrialConfig, dataset: Dataset, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the model whose weights `Trial.best_weights` returned.

    Args:
        content: The bytes that `Trial.best_weights` returned.
        config: Configuration of that trial.
        dataset: Data of that trial.
        device: Device of the model.

    Raises:
        CheckpointError: The content is damaged, or has a different configuration or different data.
    """
    state = _decode(content, config.run_id(dataset.fingerprint))
    trial = Trial(config, dataset, torch.device(device))
    trial.best.weights = state.get("model", {})
    try:
        return TrainedModel.of(trial)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The stored weights do not fit their configuration ({reason}). {TRAIN_AGAIN}") from None


def _decode(content: bytes, identity: str | None) -> dict[str, Any]:
    mismatch_hint = "Use the configuration and data with which the stored model was trained."
    return checkpoints.decode(content, identity, what="stored model", hint=TRAIN_AGAIN, mismatch_hint=mismatch_hint)
