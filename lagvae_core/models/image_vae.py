"""The model of images: ResNet encoder and PixelCNN decoder (He et al. 2019, Appendix B.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from lagvae_core.data import ImageDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.gated_pixelcnn import GatedPixelCnn
from lagvae_core.models.model_config import Features, ModelConfig
from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.models.pixelcnn import ResidualPixelCnn
from lagvae_core.models.resnet import ResNetEncoder

__all__ = ["ResNetPixelCnn"]

_FULL = ((7,) * 5 + (5,) * 4 + (3,) * 4, 64)
_REDUCED = ((7, 5, 3, 3), 16)
LAYERS: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "v2": {"full": _FULL, "reduced": _REDUCED},
    "gated13": {"full": _FULL, "reduced": _REDUCED},
    "gated12_kim": {"full": ((9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3), 32), "reduced": _REDUCED},
}
"""Kernels and maps of each decoder by size."""

ENCODERS = {"full": (64, 512), "reduced": (16, 128)}
"""Maps of the encoder's blocks, and its hidden units, by size."""

DECODERS: dict[str, Callable[..., PixelDecoder]] = {
    "v2": ResidualPixelCnn,
    "gated13": functools.partial(GatedPixelCnn, normalised=True, masked_z=False),
    "gated12_kim": functools.partial(GatedPixelCnn, normalised=False, masked_z=True),
}

SMALL_MAPS = 32
"""Decoders of fewer maps are faster on one core than on several."""


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("be odd")
    return kernel


_Kernel = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]


class ResNetPixelCnn(ModelConfig):
    """ResNet encoder, and a decoder of pixels that sees z as maps beside the image.

    `variant` is `v2`, what the published code of He et al. 2019 runs and their Table 2 has; `gated13`, their Appendix
    B.3 read literally; `gated12_kim`, that of Kim et al. 2018. `size` `full` is theirs; `reduced`, four layers of 16
    maps and a quarter of the encoder, is for a processor, and its numbers compare with none published. `kernels`,
    `maps`, `encoder_maps` and `encoder_hidden` are those of the size unless given.

    Convolutions of the encoder and of `v2` start from N(0, 2 / (height * width * output channels)), linear layers from
    Xavier's uniform distribution; other layers as torch's do. There is no dropout.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"images"})

    kind: Literal["resnet_pixelcnn"] = "resnet_pixelcnn"
    variant: Annotated[Literal["v2", "gated13", "gated12_kim"], Field(description="which PixelCNN decoder")] = "v2"
    size: Annotated[Literal["full", "reduced"], Field(description="as published, or small enough for a processor")] = (
        "full"
    )
    kernels: Annotated[
        tuple[_Kernel, ...] | None, Field(min_length=1, description="odd kernel sizes, one a layer; null: of the size")
    ] = None
    maps: Annotated[int | None, Field(ge=2, le=4096, description="of a decoder's layer; null: of the size")] = None
    z_maps: Annotated[int, Field(ge=1, le=4096, description="maps of the image's size that z becomes")] = 4
    encoder_maps: Annotated[int | None, Field(ge=1, le=4096, description="of its blocks; null: of the size")] = None
    encoder_hidden: Annotated[int | None, Field(ge=1, le=65536, description="units; null: of the size")] = None

    @property
    def small(self) -> bool:
        return self.layers[1] < SMALL_MAPS

    @property
    def layers(self) -> tuple[tuple[int, ...], int]:
        """Kernels and maps of the decoder."""
        kernels, maps = LAYERS[self.variant][self.size]
        return self.kernels or kernels, self.maps or maps

    def encoder(self, domain: ImageDomain, features: Features | None) -> ResNetEncoder:
        assert features is None, "features of an example are about words"
        maps, hidden = ENCODERS[self.size]
        return ResNetEncoder(domain, self.latent_dim, self.encoder_maps or maps, self.encoder_hidden or hidden)

    def decoder(self, domain: ImageDomain, stream: torch.Generator, options: DecoderOptions) -> PixelDecoder:
        kernels, maps = self.layers
        return DECODERS[self.variant](domain, self.latent_dim, self.z_maps, maps, kernels, stream, options)
