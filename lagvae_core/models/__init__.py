"""Encoders, decoders and latent densities. `AnyModel` is the union of all model configurations."""

from typing import Annotated, Union

from pydantic import Field

from lagvae_core.models.gru_attention import GruAttentionModel
from lagvae_core.models.image_vae import ResNetPixelCnn
from lagvae_core.models.lstm import LstmModel

__all__ = ["AnyModel"]

AnyModel = Annotated[
    Union[  # noqa: UP007
        LstmModel,
        GruAttentionModel,
        ResNetPixelCnn,
    ],
    Field(discriminator="kind"),
]
