"""Image model: ResNet encoder and PixelCNN decoder (He et al. 2019, Appendix B.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from lagvae_core.data import ImageDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.gated_pixelcnn import GatedPixelCnn
from lagvae_core.models.model_config import Features, ModelConfig
from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.models.pixelcnn import ResidualPixelCnn
from lagvae_core.models.resnet import ResNetEncoder
from lagvae_core.settings import AddedField

__all__ = ["ResNetPixelCnn"]

_FULL = ((7,) * 5 + (5,) * 4 + (3,) * 4, 64)
_REDUCED = ((7, 5, 3, 3), 16)
LAYERS: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "v2": {"full": _FULL, "reduced": _REDUCED},
    "gated13": {"full": _FULL, "reduced": _REDUCED},
    "gated12_kim": {"full": ((9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3), 32), "reduced": _REDUCED},
}
"""Kernel sizes and number of maps of each decoder variant, by model size."""

ENCODERS = {"full": (64, 512), "reduced": (16, 128)}
"""Number of maps of the encoder's blocks and number of its hidden units, by model size."""

DECODERS: dict[str, Callable[..., PixelDecoder]] = {
    "v2": ResidualPixelCnn,
    "gated13": functools.partial(GatedPixelCnn, normalised=True, masked_z=False),
    "gated12_kim": functools.partial(GatedPixelCnn, normalised=False, masked_z=True),
}

SMALL_MAPS = 32
"""Decoders with fewer maps than this are faster on one core than on several cores."""


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd")
    return kernel


_Kernel = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]


class ResNetPixelCnn(ModelConfig):
    """ResNet encoder, and a PixelCNN decoder that reads z as maps of the image's size.

    `variant` selects the decoder. `v2` is the decoder of the published code of He et al. 2019, which produced their
    Table 2. `gated13` follows the text of their Appendix B.3. `gated12_kim` is the decoder of Kim et al. 2018.

    `size` selects the number of layers and maps. `full` is the published size. `reduced` is meant for CPUs: the decoder
    has four layers of 16 maps, and the encoder a quarter of its maps and hidden units. Its results are not comparable
    with published results. `kernels`, `maps`, `encoder_maps` and `encoder_hidden` override individual values of the
    size.

    Convolutions of the encoder and of `v2` are initialised from N(0, 2 / (height * width * output channels)), linear
    layers from Xavier's uniform distribution, and all other layers by PyTorch's default. There is no dropout.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"images"})

    kind: Literal["resnet_pixelcnn"] = "resnet_pixelcnn"
    variant: Annotated[
        Literal["v2", "gated13", "gated12_kim"], Field(description="variant of the PixelCNN decoder")
    ] = "v2"
    size: Annotated[
        Literal["full", "reduced"], Field(description="size of the model: as published, or small enough for a CPU")
    ] = "full"
    kernels: Annotated[
        tuple[_Kernel, ...] | None,
        Field(min_length=1, description="odd kernel sizes of the decoder, one per layer; null: determined by size"),
    ] = None
    maps: Annotated[
        int | None,
        Field(ge=2, le=4096, description="number of maps of the decoder's layers; null: determined by size"),
    ] = None
    z_maps: Annotated[
        int, Field(ge=1, le=4096, description="number of image-sized feature maps into which the decoder turns z")
    ] = 4
    encoder_maps: Annotated[
        int | None,
        Field(ge=1, le=4096, description="number of maps of the encoder's blocks; null: determined by size"),
    ] = None
    encoder_hidden: Annotated[
        int | None,
        Field(ge=1, le=65536, description="number of hidden units of the encoder; null: determined by size"),
    ] = None

    border: Annotated[
        Literal["bias", "zero"],
        Field(description="values beyond the border of shifted maps of `gated12_kim`; `zero` as in the published code"),
        AddedField(),
    ] = "bias"

    @model_validator(mode="after")
    def _check_border(self) -> ResNetPixelCnn:
        if self.border == "zero" and self.variant != "gated12_kim":
            raise ValueError(f"must have border = bias with variant = {self.variant}; zero is for gated12_kim only")
        return self

    @property
    def small(self) -> bool:
        return self.layers[1] < SMALL_MAPS

    @property
    def layers(self) -> tuple[tuple[int, ...], int]:
        """Kernel sizes and number of maps of the decoder."""
        kernels, maps = LAYERS[self.variant][self.size]
        return self.kernels or kernels, self.maps or maps

    def encoder(self, domain: ImageDomain, features: Features | None) -> ResNetEncoder:
        assert features is None, "the encoder of images takes no additional features"
        maps, hidden = ENCODERS[self.size]
        return ResNetEncoder(domain, self.latent_dim, self.encoder_maps or maps, self.encoder_hidden or hidden)

    def decoder(self, domain: ImageDomain, stream: torch.Generator, options: DecoderOptions) -> PixelDecoder:
        kernels, maps = self.layers
        build = DECODERS[self.variant]
        if self.border == "zero":
            build = functools.partial(build, zero_border=True)
        return build(domain, self.latent_dim, self.z_maps, maps, kernels, stream, options)
