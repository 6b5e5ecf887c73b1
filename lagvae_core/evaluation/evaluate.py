"""Evaluation of a trained model: all default metrics are computed from q(z|x), p(z) and p(x|z)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from lagvae_core.columns import Column
from lagvae_core.data import Batch, Dataset, Split
from lagvae_core.data.images.arrays import BITS_PER_DIM
from lagvae_core.data.text.tokens import PERPLEXITY, TOKENS
from lagvae_core.data.vectors.arrays import NATS_PER_FEATURE
from lagvae_core.evaluation.data_specific_metrics import DATA_COLUMNS
from lagvae_core.metrics.encoding import EncodedSplit, Infer, encode_split
from lagvae_core.metrics.likelihood import (
    LIKELIHOOD_COLUMNS,
    LogMean,
    LogWeight,
    importance_weighted,
    likelihood_columns,
    proposal_weight,
)
from lagvae_core.metrics.posterior import POSTERIOR_COLUMNS, posterior_columns
from lagvae_core.models.vae import Vae
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies.slots import Measurement, TrainingComponents

__all__ = ["EVALUATION_COLUMNS", "evaluate", "examples_at_a_time", "on_device", "sequences_at_a_time"]

EVALUATION_COLUMNS: tuple[Column, ...] = (
    Column("n", "int", "number of measured examples"),
    TOKENS,
    *LIKELIHOOD_COLUMNS,
    *POSTERIOR_COLUMNS,
    PERPLEXITY,
    BITS_PER_DIM,
    NATS_PER_FEATURE,
)
"""Columns that `evaluate` computes for every model; strategies and kinds of data add their own."""

ENCODE_BATCH = 32
"""Number of examples per encoder pass."""

Report = Callable[[str, int, int], None]
"""Called with the name of the phase, the number of finished examples and the total number of examples."""


def on_device(split: Split, batch_size: int, device: torch.device) -> list[Batch]:
    """Return the batches of `split` on `device`."""
    return [batch.to(device) for batch in split.batches(batch_size)]


def evaluate(
    model: Vae,
    components: TrainingComponents,
    dataset: Dataset,
    split: Split,
    config: EvaluationConfig,
    device: torch.device,
    report: Report = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Return the metrics of `split`: `EVALUATION_COLUMNS` and the columns of the components' extra metrics.

    The model is put into eval mode: no dropout, no corruption, KL weight 1, running statistics.

    Args:
        model: A trained model.
        components: The components with which the model was trained.
        dataset: Data set that contains the split. Some extra metrics encode its training split.
        split: The split to measure. Only its first `config.limit` examples are measured.
        config: Numbers of samples and examples, and the seed.
        device: Device of the model.
        report: Called as evaluation proceeds.
    """
    model.eval()
    split = split.limit(config.limit) if config.limit is not None else split
    return _Evaluation(model, components, dataset, split, config, device, report).metrics()


@dataclass(frozen=True)
class _Evaluation:
    """One evaluation, with one method for each family of metrics."""

    model: Vae
    components: TrainingComponents
    dataset: Dataset
    split: Split
    config: EvaluationConfig
    device: torch.device
    report: Report

    def metrics(self) -> dict[str, Any]:
        """Return all metrics by column name."""
        groups = [batch.index_B for batch in self.split.batches(self.config.mi_batch_size)]
        return posterior_columns(self.model, self.encoded, groups) | self._likelihood() | self._extra()

    @cached_property
    def infer(self) -> Infer:
        return self.components.refine(self.model, self.config.seed)

    @cached_property
    def batches(self) -> list[Batch]:
        return on_device(self.split, ENCODE_BATCH, self.device)

    @cached_property
    def encoded(self) -> EncodedSplit:
        progress = self._progress("encode")
        return encode_split(self.model, self.batches, self.config.seed, infer=self.infer, progress=progress)

    @cached_property
    def encoded_train(self) -> EncodedSplit:
        train = self.dataset.train
        batches = on_device(train, ENCODE_BATCH, self.device)

        def progress(done: int) -> None:
            self.report("encode_train", done, len(train))

        return encode_split(self.model, batches, self.config.seed, infer=self.infer, progress=progress)

    def _likelihood(self) -> dict[str, Any]:
        """Return the likelihood columns: the default ones, and those of extra log-weights and of the kind of data."""
        log_weights = {"nll_iw": proposal_weight(self.model)}
        for extra in self.components.extra_metrics:
            log_weights |= extra.log_weights(lambda: self.encoded_train)
        means = self._importance_weighted(self.encoded.infer, log_weights)
        nll_iw = means["nll_iw"]
        return {
            **dict.fromkeys(DATA_COLUMNS),
            **self.dataset.domain.columns(nll_iw.nll, len(self.split), self.split.units),
            **likelihood_columns(nll_iw),
            **{name: mean.nll for name, mean in means.items()},
        }

    def _extra(self) -> dict[str, Any]:
        """Return the columns of all extra metrics, which belong to a strategy or to the kind of data."""
        measurement = Measurement(
            self.model,
            self.batches,
            self.encoded,
            lambda: self.encoded_train,
            lambda infer: self._importance_weighted(infer, {"nll_iw": proposal_weight(self.model)})["nll_iw"],
            self.config.seed,
        )
        columns: dict[str, Any] = {}
        for extra in self.components.extra_metrics:
            columns |= extra.measure(measurement)
        return columns

    def _importance_weighted(self, infer: Infer, log_weights: dict[str, LogWeight]) -> dict[str, LogMean]:
        has_latent = self.encoded.q.size[1] > 0
        return importance_weighted(
            self.model,
            on_device(self.split, examples_at_a_time(self.device), self.device),
            self.config.iw_samples if has_latent else 1,  # without z, one sample is the exact likelihood
            self.config.seed,
            log_weights,
            infer=infer,
            sequences=sequences_at_a_time(self.device),
            progress=self._progress("nll_iw"),
        )

    def _progress(self, phase: str) -> Callable[[int], None]:
        return lambda done: self.report(phase, done, len(self.split))


def examples_at_a_time(device: torch.device) -> int:
    """Return the number of examples per batch of the importance-weighted likelihood."""
    return 1 if device.type == "cpu" else 32


def sequences_at_a_time(device: torch.device) -> int:
    """Return the number of sequences per decoder pass: as many as fit in a CPU cache, or enough to keep a GPU busy."""
    return 256 if device.type == "cpu" else 4096
