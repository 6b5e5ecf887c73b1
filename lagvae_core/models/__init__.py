"""Encoders, decoders and latent densities. `MODELS` contains all model configurations."""

from typing import Annotated

from lagvae_core.catalogue import Catalogue
from lagvae_core.models.gru_attention import GruAttentionModel
from lagvae_core.models.image_vae import ResNetPixelCnn
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.mlp import MlpModel
from lagvae_core.models.model_config import ModelConfig
from lagvae_core.models.transformer import TransformerModel

__all__ = ["MODELS", "AnyModel", "ModelConfig"]

MODELS: Catalogue[ModelConfig] = Catalogue(
    ModelConfig, "model", "lagvae.models", [LstmModel, TransformerModel, GruAttentionModel, ResNetPixelCnn, MlpModel]
)
"""All model configurations by `kind`."""

AnyModel = Annotated[ModelConfig, MODELS]
