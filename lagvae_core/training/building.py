"""From a configuration and its parts to a model."""

from __future__ import annotations

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Domain
from lagvae_core.models.decoder import Decoder
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import Streams
from lagvae_core.strategies.slots import TrainingComponents

__all__ = ["build_decoder", "build_model"]


def build_model(config: TrialConfig, domain: Domain, components: TrainingComponents, streams: Streams) -> Vae:
    """The model of `config` with the slots of `parts` filled in, initialised from the seed."""
    with streams.initialising():
        encoder = components.encoder(config.model, domain, components.features)
        decoder = build_decoder(config, domain, components, streams)
        decoder.bind(encoder)
        model = Vae(encoder, decoder, components.posterior, components.prior, components.penalties)
    with streams.initialising():  # another start is made of the same draws
        components.initialise(encoder, "encoder")
        components.initialise(decoder, "decoder")
    return model


def build_decoder(config: TrialConfig, domain: Domain, components: TrainingComponents, streams: Streams) -> Decoder:
    return components.decoder(config.model, domain, streams["dropout"], components.options(config.model))
