"""Gated PixelCNN decoder (van den Oord et al. 2016).

Shape suffixes: H rows and W columns of pixels, C maps of z, B images, R = B * S images with their samples of z.
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
    """Return `x` padded for a kernel [reach + 1, 2 reach + 1] whose last row is `shift` rows above the pixel."""
    return functional.pad(x, (reach, reach, reach + shift, -shift))


def before(x: Tensor, reach: int, shift: int) -> Tensor:
    """Return `x` padded for a kernel [1, reach + 1] whose last column is `shift` columns left of the pixel."""
    return functional.pad(x, (reach + shift, -shift, 0, 0))


ONE_DOWN, ONE_RIGHT = (0, 0, 1, -1), (1, -1, 0, 0)
"""Padding that shifts maps by one row or column, filling the border with 0."""


def gate(x: Tensor) -> Tensor:
    """Return tanh(a) * sigmoid(b), where a and b are the two halves of the channels."""
    signal, gate_input = x.chunk(2, 1)
    return signal.tanh() * gate_input.sigmoid()


class _Layer(nn.Module):
    """Gated layer of two stacks: `vertical` reads the rows above, `horizontal` the pixels to the left.

    The output of `vertical` before its gate is added to `horizontal`. With `zero_border`, the output of a convolution
    is shifted instead of its input, so that the border is 0 instead of the bias.
    """

    def __init__(self, inputs: int, maps: int, kernel: int, *, zero_border: bool) -> None:
        super().__init__()
        self.reach, self._zero_border = kernel // 2, zero_border
        self.vertical = nn.Conv2d(inputs, 2 * maps, (self.reach + 1, kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * maps, (1, self.reach + 1))
        self.across = nn.Conv2d(2 * maps, 2 * maps, 1)
        self.leave = nn.Conv2d(maps, maps, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if self._zero_border:
            vertical = functional.pad(self.vertical(above(v, self.reach, 0)), ONE_DOWN)
        else:
            vertical = self.vertical(above(v, self.reach, 1))
        horizontal = self.horizontal(before(h, self.reach, 0)) + self.across(vertical)
        return gate(vertical), h + self.leave(gate(horizontal))

    def enter(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None, shift_z: int) -> tuple[Tensor, Tensor]:
        """Apply the first layer, which excludes the pixel itself from the image.

        If `shift_z` is 1, it also excludes the maps of z at that pixel.
        """
        pixels, reach = pixels_BHW[:, None], self.reach
        samples = 1 if z_maps_RCHW is None else len(z_maps_RCHW) // len(pixels)
        stacks = []
        shift, shift_z = (0, 0) if self._zero_border else (1, shift_z)
        for convolution, padded, by_one in ((self.vertical, above, ONE_DOWN), (self.horizontal, before, ONE_RIGHT)):
            image_weight, z_weight = convolution.weight[:, :1], convolution.weight[:, 1:]
            x = functional.conv2d(padded(pixels, reach, shift), image_weight, convolution.bias)
            x = x.repeat_interleave(samples, 0)
            if z_maps_RCHW is not None:
                x = x + functional.conv2d(padded(z_maps_RCHW, reach, shift_z), z_weight)
            stacks.append(functional.pad(x, by_one) if self._zero_border else x)
        vertical, horizontal = stacks
        return gate(vertical), self.leave(gate(horizontal + self.across(vertical)))


class GatedPixelCnn(PixelDecoder):
    """Gated PixelCNN with stacks for the rows above (vertical) and the same row (horizontal, read by the head).

    Source: van den Oord et al. 2016, connected as in the published code of Kim et al. 2018. In each layer, the vertical
    stack reads only rows above the pixel. Its output before the gate enters the horizontal stack.
    All layers except the first are residual. He et al. 2019, Appendix B.3, describe their decoder as such a network,
    with batch normalisation and ELU before the head (`normalised`). Layers have PyTorch's default initialisation.

    The maps of z are additional input channels. With `masked_z`, as in the code of Kim et al., they are shifted like
    the image, so that the first pixel does not depend on z. Otherwise they are not shifted, because z is known before
    the first pixel.

    Departures from the code of Kim et al.: their code clamps probabilities to [1e-5, 1 - 1e-5]; this code computes the
    likelihood from the logits. Their code shifts the output of a convolution by one row or column and fills the border
    with 0, which is `zero_border`. By default this code shifts the input, so that the border has the bias of the
    convolution. With equal weights the logits differ by up to 0.02, and not at all if these biases are 0.

    Args:
        domain: Image size.
        latent_dim: Number of dimensions of z.
        z_maps: Number of maps made of z.
        maps: Number of maps of the hidden layers.
        kernels: Odd kernel sizes, one per layer.
        stream: Random generator of dropout.
        options: Modifications requested by strategies.
        normalised: Whether batch normalisation and ELU precede the head.
        masked_z: Whether the maps of z are shifted like the image.
        zero_border: Whether shifted maps have 0 at the border; requires `masked_z`.
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
        zero_border: bool = False,
    ) -> None:
        assert masked_z or not zero_border, "an output can be shifted only if image and z are shifted alike"
        first, *rest = kernels
        super().__init__(domain, latent_dim, z_maps, maps, stream, options, len(rest))
        self._shift_z = int(masked_z)
        self.entry = _Layer(1 + self.z_maps, maps, first, zero_border=zero_border)
        self.layers = nn.ModuleList(_Layer(maps, maps, kernel, zero_border=zero_border) for kernel in rest)
        before_head = [nn.BatchNorm2d(maps), nn.ELU()] if normalised else []
        self.head = nn.Sequential(*before_head, nn.Conv2d(maps, 1, 1))

    def logits(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        v, h = self.entry.enter(pixels_BHW, z_maps_RCHW, self._shift_z)
        for number, layer in enumerate(self.layers):
            v, h = layer(v, self.skips_of_z(number, h, z_maps_RCHW))
        return self.head(self.skips_of_z(len(self.layers), h, z_maps_RCHW))[:, 0]  # type: ignore[no-any-return]
