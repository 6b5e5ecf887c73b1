"""Encoders, decoders and the densities between them. `ModelConfig` is one of the models."""

from lagvae_core.models.lstm import LstmModel

__all__ = ["ModelConfig"]

ModelConfig = LstmModel
