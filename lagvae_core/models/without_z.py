"""A model without a latent variable: a decoder alone, as a VAE whose z has no dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch, Domain
from lagvae_core.models.decoder import Decoder, DecoderOptions
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, ModelConfig

__all__ = ["NoEncoder", "decoder_without_z"]


class NoEncoder(nn.Module):
    """q(z|x) over no dimensions, whatever x is."""

    nothing: Tensor

    def __init__(self, setting: ModelConfig, domain: Domain, features: Features | None = None) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(0), persistent=False)

    def forward(self, batch: Batch) -> Gaussian:
        nothing_BZ = self.nothing.expand(batch.size, 0)
        return Gaussian(nothing_BZ, nothing_BZ)


def decoder_without_z(
    setting: ModelConfig, domain: Domain, stream: torch.Generator, options: DecoderOptions
) -> Decoder:
    """The model's own decoder with z taken out of it."""
    return setting.model_copy(update={"latent_dim": 0}).decoder(domain, stream, options)
