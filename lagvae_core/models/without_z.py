"""Models without a latent variable: a decoder alone, as a VAE whose z has zero dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lagvae_core.data import Batch, Domain
from lagvae_core.models.decoder import Decoder, DecoderOptions
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, ModelConfig

__all__ = ["NoEncoder", "decoder_without_z"]


class NoEncoder(nn.Module):
    """Encoder of a model without z: q(z|x) over zero dimensions."""

    empty: Tensor

    def __init__(self, config: ModelConfig, domain: Domain, features: Features | None = None) -> None:
        super().__init__()
        self.register_buffer("empty", torch.zeros(0), persistent=False)

    def forward(self, batch: Batch) -> Gaussian:
        empty_BZ = self.empty.expand(batch.size, 0)
        return Gaussian(empty_BZ, empty_BZ)


def decoder_without_z(config: ModelConfig, domain: Domain, stream: torch.Generator, options: DecoderOptions) -> Decoder:
    """Return the decoder of `config` with `latent_dim` 0."""
    return config.model_copy(update={"latent_dim": 0}).decoder(domain, stream, options)
