"""A trained model for use from Python: texts, images or vectors in and out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset, Split, VectorDataset, VectorSplit
from lagvae_core.errors import CheckpointError, ConfigError, ValidationIssue
from lagvae_core.evaluation.evaluate import ENCODE_BATCH, on_device
from lagvae_core.metrics.decoding import Greedy, Sampling
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.models.mlp import MlpDecoder
from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.sentence_generator import SentenceGenerator
from lagvae_core.studies.trained_model import TrainedModel, configuration_of, restore
from lagvae_core.training.callbacks import TrainingState
from lagvae_core.training.checkpoint import MemoryCheckpoint
from lagvae_core.training.record import TrialRecord
from lagvae_core.training.trial import train

__all__ = ["FittedModel", "load_model", "model_of", "train_model"]

Floats = NDArray[np.float64]


class FittedModel:
    """A trained model. Examples are texts (a list of strings), images [N, H, W] or vectors [N, X], as in the data.

    Args:
        trained: The model in eval mode with its configuration and data.

    Example:
        >>> record, model = train_model(config)
        >>> mean, std = model.encode(["the food was great"])
        >>> model.reconstruct(["the food was great"])
        >>> model.sample(3)
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained

    @classmethod
    def of(cls, state: TrainingState) -> FittedModel:
        """Return the model of a training callback; use it inside `evaluation_mode`."""
        return cls(TrainedModel(state.config, state.dataset, state.model, state.components, state.device))

    def __repr__(self) -> str:
        config = self.trained.config
        stack = "+".join(strategy.kind for strategy in config.strategies) or "vae"
        return f"{type(self).__name__}({config.model.kind}, {stack}, latent_dim={config.model.latent_dim})"

    def encode(self, examples: Any) -> tuple[Floats, Floats]:
        """Return the mean and the standard deviation of q(z|x), [N, Z] each.

        They are those of the evaluation: of the z that the decoder reads, refined if the strategy refines posteriors.
        If q(z|x) is no Gaussian, they are estimated from 100 samples per example.

        Raises:
            DataError: The examples are invalid.
        """
        mean_NZ, std_NZ = self.trained.moments(self.trained.dataset.encode_examples(examples))
        return mean_NZ.numpy(), std_NZ.numpy()

    def reconstruct(self, examples: Any, *, max_length: int = 100) -> Any:
        """Return the reconstruction of each example from the mean of its q(z|x).

        Words are chosen greedily, pixels are set if their probability exceeds 1/2, and vectors are the mean E[x|z].

        Args:
            examples: The examples.
            max_length: Largest number of words of a text.

        Returns:
            A list of texts, or an array of the same shape as the examples, in the units of the data.

        Raises:
            DataError: The examples are invalid.
        """
        split = self.trained.dataset.encode_examples(examples)
        return self._decode(self.trained.means(split), split, Greedy(max_length), None)

    def sample(self, n: int, *, seed: int = 0, max_length: int = 100) -> Any:
        """Return `n` draws from the model: z from the generative prior, and x from p(x|z).

        Args:
            n: Number of draws.
            seed: Seed of the draws of z and x.
            max_length: Largest number of words of a text.

        Returns:
            A list of texts, or an array of images or vectors, in the units of the data. Vectors of a likelihood that is
            conditional on totals have the totals of the first training examples.
        """
        z_NZ = self.trained.from_prior(n, seed, "samples")
        words = Sampling(max_length, seed, purpose="sampled words")
        return self._decode(z_NZ, self.trained.dataset.train, words, seed)

    def log_likelihood(
        self, examples: Any, *, samples: int = 500, seed: int = 0, progress: Callable[[int], None] = lambda done: None
    ) -> Floats:
        """Return the importance-weighted estimate of log p(x) of each example, [N] [nats].

        In expectation it is a lower bound, and its negative mean over a split is the `nll_iw` of the table.

        Args:
            examples: The examples.
            samples: Number of importance samples per example.
            seed: Seed of the samples.
            progress: Called with the number of examples that are done.

        Raises:
            DataError: The examples are invalid.
        """
        trained = self.trained
        weights = {"log_p": proposal_weight(trained.model)}
        infer = trained.components.refine(trained.model, trained.config.evaluation.seed)
        batches = on_device(trained.dataset.encode_examples(examples), ENCODE_BATCH, trained.device)
        found = importance_weighted(trained.model, batches, samples, seed, weights, infer=infer, progress=progress)
        return found["log_p"].value_N.numpy()

    @torch.no_grad()
    def _decode(self, z_NZ: Tensor, split: Split, words: Greedy | Sampling, seed: int | None) -> Any:
        """Return x for each z: the most likely one if `seed` is None, otherwise a draw."""
        decoder, dataset = self.trained.model.decoder, self.trained.dataset
        z_NZ = z_NZ.to(next(decoder.parameters()))
        if isinstance(decoder, TokenDecoder):
            generator = SentenceGenerator.of(self.trained)
            decoded = generator.generate(words, z_NZ, torch.arange(len(z_NZ)))
            return generator.decode_ids([sentence.words for sentence in decoded])
        if isinstance(decoder, PixelDecoder):
            draws_NHW = None
            if seed is not None:
                random = torch.Generator().manual_seed(derive_seed(seed, "sampled pixels"))
                draws_NHW = torch.rand(len(z_NZ), *decoder.size, generator=random)
            return decoder.sample(z_NZ, draws_NHW).cpu().numpy()
        if isinstance(decoder, MlpDecoder) and isinstance(dataset, VectorDataset):
            assert isinstance(split, VectorSplit), "a data set of vectors has splits of vectors"
            x_NX = torch.from_numpy(np.resize(split.x_NX, (len(z_NZ), len(dataset.scale_X)))).to(z_NZ)
            outputs_N1X = decoder.outputs(z_NZ[:, None])
            if seed is None:
                found_N1X = decoder.likelihood.mean(outputs_N1X, x_NX)
            else:
                draws = np.random.default_rng(derive_seed(seed, "sampled vectors"))
                found_N1X = decoder.likelihood.sample(outputs_N1X, x_NX, draws)
            return found_N1X[:, 0].double().cpu().numpy() * dataset.scale_X + dataset.mean_X
        message = "must be a model of text, images or vectors to decode z"
        raise ConfigError([ValidationIssue("model.kind", message, "Call its decoder.", self.trained.config.model.kind)])


def train_model(
    config: TrialConfig, *, dataset: Dataset | None = None, **options: Any
) -> tuple[TrialRecord, FittedModel]:
    """Train and measure one configuration, and return the record and the model with its best weights.

    Args:
        config: Configuration of the trial.
        dataset: The data: the result of `config.data.load()` or `config.data.from_memory(...)`; None to load them.
        options: Other arguments of `train`, such as `callback` or `device`.

    Raises:
        CheckpointError: The trial diverged or was stopped, so there is no model.
        UserError: The data cannot be loaded, or are too few.
    """
    dataset = dataset or config.data.load()
    weights = MemoryCheckpoint()
    record = train(config, dataset=dataset, model_store=weights, **options)
    if weights.content is None:
        raise CheckpointError(f"There is no model, because the trial ended as {record.status}: {record.stop_reason}")
    return record, FittedModel(restore(weights.content, config, dataset, options.get("device", "cpu")))


def load_model(
    path: str | Path, *, dataset: Dataset | None = None, data_path: str | None = None, device: str = "cpu"
) -> FittedModel:
    """Return the model in a file of weights: `results/SWEEP/models/RUN.pt` of a run, or the file of `--keep`.

    Args:
        path: The file. A plugin that the model needs must be loaded already.
        dataset: The data with which it was trained; None to load them.
        data_path: Location of the data, if it has changed.
        device: Device of the model.

    Raises:
        CheckpointError: There is no such file, it is damaged, or the data are not those of the training.
        DataError: The data cannot be loaded.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Keep weights with --keep.") from None
    return model_of(content, dataset=dataset, data_path=data_path, device=device)


def model_of(
    content: bytes, *, dataset: Dataset | None = None, data_path: str | None = None, device: str = "cpu"
) -> FittedModel:
    """Return the model in stored weights, the content of a file; see `load_model`."""
    config = configuration_of(content)
    if data_path is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data_path})})
    return FittedModel(restore(content, config, dataset or config.data.load(), device))
