"""Gated PixelCNN decoder (van den Oord et al. 2016).

Shape suffixes: H rows and W columns of pixels, C maps of z, B images, R = B * S of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import ImageDomain
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.pixel_decoder import PixelDecoder

__all__ = ["GatedPixelCnn"]


def above(x: Tensor, reach: int, shift: int) -> Tensor:
    """`x` padded for a kernel [reach + 1, 2 reach + 1] that ends `shift` rows above the pixel, in the middle."""
    return functional.pad(x, (reach, reach, reach + shift, -shift))


def before(x: Tensor, reach: int, shift: int) -> Tensor:
    """`x` padded for a kernel [1, reach + 1] that ends `shift` columns before the pixel."""
    return functional.pad(x, (reach + shift, -shift, 0, 0))


def gate(x: Tensor) -> Tensor:
    signal, opening = x.chunk(2, 1)
    return signal.tanh() * opening.sigmoid()


class _Layer(nn.Module):
    """Two stacks: `vertical` sees the rows above, `horizontal` the row itself to the left, and what `vertical` sees."""

    def __init__(self, inputs: int, maps: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.vertical = nn.Conv2d(inputs, 2 * maps, (self.reach + 1, kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * maps, (1, self.reach + 1))
        self.across = nn.Conv2d(2 * maps, 2 * maps, 1)
        self.leave = nn.Conv2d(maps, maps, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        vertical = self.vertical(above(v, self.reach, 1))
        horizontal = self.horizontal(before(h, self.reach, 0)) + self.across(vertical)
        return gate(vertical), h + self.leave(gate(horizontal))

    def enter(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None, shift_z: int) -> tuple[Tensor, Tensor]:
        """The first layer, which sees nothing of a pixel itself; of the maps of z, unless `shift_z`, the same place."""
        pixels, reach = pixels_BHW[:, None], self.reach
        samples = 1 if z_maps_RCHW is None else len(z_maps_RCHW) // len(pixels)
        found = []
        for convolution, padded in ((self.vertical, above), (self.horizontal, before)):
            of_image, of_z = convolution.weight[:, :1], convolution.weight[:, 1:]
            x = functional.conv2d(padded(pixels, reach, 1), of_image, convolution.bias).repeat_interleave(samples, 0)
            if z_maps_RCHW is not None:
                x = x + functional.conv2d(padded(z_maps_RCHW, reach, shift_z), of_z)
            found.append(x)
        vertical, horizontal = found
        return gate(vertical), self.leave(gate(horizontal + self.across(vertical)))


class GatedPixelCnn(PixelDecoder):
    """Gated convolutions over the rows above and over the row itself; the head reads the latter.

    Source: van den Oord et al. 2016, wired as in the published code of Kim et al. 2018: the vertical stack of a layer
    ends one row above its input, its ungated output enters the horizontal one, and every layer but the first adds to
    what came. He et al. 2019, Appendix B.3, word their decoder as such a network, with batch normalisation and ELU
    before the head (`normalised`). Layers start as torch's do.

    The maps of z stand beside the image. With `masked_z`, as in the code of Kim et al., they are shifted as it is, and
    the first pixel sees nothing of z; else they are not, since z is known before it. That code holds probabilities
    in [1e-5, 1 - 1e-5]; here the likelihood is that of the logits.
    """

    def __init__(
        self,
        domain: ImageDomain,
        latent_dim: int,
        z_maps: int,
        maps: int,
        kernels: Sequence[int],
        stream: torch.Generator,
        options: DecoderOptions,
        *,
        normalised: bool,
        masked_z: bool,
    ) -> None:
        first, *further = kernels
        super().__init__(domain, latent_dim, z_maps, maps, stream, options, len(further))
        self._shift_z = int(masked_z)
        self.entry = _Layer(1 + self.z_maps, maps, first)
        self.layers = nn.ModuleList(_Layer(maps, maps, kernel) for kernel in further)
        before_head = [nn.BatchNorm2d(maps), nn.ELU()] if normalised else []
        self.head = nn.Sequential(*before_head, nn.Conv2d(maps, 1, 1))

    def logits(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        v, h = self.entry.enter(pixels_BHW, z_maps_RCHW, self._shift_z)
        for number, layer in enumerate(self.layers):
            v, h = layer(v, self.skips_of_z(number, h, z_maps_RCHW))
        return self.head(self.skips_of_z(len(self.layers), h, z_maps_RCHW))[:, 0]  # type: ignore[no-any-return]
