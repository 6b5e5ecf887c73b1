"""Construction of training components and model from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Batch, Domain
from lagvae_core.errors import DataError, ValidationIssue
from lagvae_core.evaluation.data_specific_metrics import data_specific_metrics
from lagvae_core.models.decoder import Decoder
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import Streams
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.slots import TrainingComponents

__all__ = ["build_components", "build_decoder", "build_model"]


def build_components(
    config: TrialConfig, domain: Domain, train_batches: Sequence[Batch], streams: Streams
) -> TrainingComponents:
    """Return the training components of the configured strategies, with the metrics of this kind of data.

    Args:
        config: Configuration of the trial.
        domain: Sizes of the data that determine the shapes of the model.
        train_batches: Training batches of the first epoch, on the device, in stored order.
        streams: Random streams of the trial.

    Raises:
        DataError: Every training batch is too small for the batch statistics of a strategy.
    """
    context = BuildContext(
        latent_dim=config.model.latent_dim,
        batches_per_epoch=len(train_batches),
        streams=streams,
        domain=domain,
        model=config.model,
        train_batches=train_batches,
    )
    with streams.initialising("parts"):
        components = assemble(config.strategies, context)
    largest = max(batch.size for batch in train_batches)
    if not components.accepts(largest):
        stack = "+".join(strategy.kind for strategy in config.strategies)
        message = f"must be large enough for the batch statistics of {stack}"
        hint = (
            "A batch of text may hold only a few sentences, because sentences are batched by length. Use more data, or "
            "lower the smallest batch size that the strategy requires."
        )
        raise DataError([ValidationIssue("the largest training batch", message, hint, largest)])
    metrics = data_specific_metrics(config.data.family_kind)
    return replace(components, extra_metrics=(*components.extra_metrics, *metrics))


def build_model(config: TrialConfig, domain: Domain, components: TrainingComponents, streams: Streams) -> Vae:
    """Return the model of `config` with the strategies' components, initialised from the trial's seed."""
    with streams.initialising():
        encoder = components.encoder(config.model, domain, components.features)
        decoder = build_decoder(config, domain, components, streams)
        decoder.bind(encoder)
        model = Vae(encoder, decoder, components.posterior, components.prior, components.penalties)
    with streams.initialising():  # seeded again, so that a strategy's draws do not depend on the draws of the model
        components.initialise(encoder, "encoder")
        components.initialise(decoder, "decoder")
    return model


def build_decoder(config: TrialConfig, domain: Domain, components: TrainingComponents, streams: Streams) -> Decoder:
    """Return a decoder of `config` with the strategies' components."""
    return components.decoder(config.model, domain, streams["dropout"], components.options(config.model))
