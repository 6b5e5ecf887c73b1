"""From a configuration and its parts to a model."""

from __future__ import annotations

from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Domain
from lagvae_core.models.decoder import Decoder
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import Streams
from lagvae_core.strategies.slots import Parts

__all__ = ["build_decoder", "build_model"]


def build_model(config: TrialConfig, domain: Domain, parts: Parts, streams: Streams) -> Vae:
    """The model of `config` with the slots of `parts` filled in, initialised from the seed."""
    with streams.initialising():
        encoder = parts.encoder(config.model, domain, parts.features)
        decoder = build_decoder(config, domain, parts, streams)
        decoder.bind(encoder)
        model = Vae(encoder, decoder, parts.posterior, parts.prior, parts.penalties)
    with streams.initialising():  # another start is made of the same draws
        parts.initialise(encoder, "encoder")
        parts.initialise(decoder, "decoder")
    return model


def build_decoder(config: TrialConfig, domain: Domain, parts: Parts, streams: Streams) -> Decoder:
    return parts.decoder(config.model, domain, streams["dropout"], parts.wiring(config.model))
