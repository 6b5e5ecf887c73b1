"""PixelCNN decoder of residual blocks, as the published code of He et al. (2019) has it.

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
from lagvae_core.models.resnet import start_normally

__all__ = ["ResidualPixelCnn"]


def seen(kernel: int, *, itself: bool) -> Tensor:
    """The places [k, k] of a convolution that are before its centre in reading order, and the centre if `itself`."""
    place = torch.arange(kernel * kernel).view(kernel, kernel)
    return (place < kernel * kernel // 2 + itself).float()


class _Entry(nn.Conv2d):
    """From the image and the maps of z, [B, H, W] and [R, C, H, W], to maps [R, ., H, W].

    Of the image it sees the pixels before, of the maps of z, which are known from the start, all around.
    """

    seen_kk: Tensor

    def __init__(self, z_maps: int, maps: int, kernel: int) -> None:
        super().__init__(1 + z_maps, maps, kernel, padding=kernel // 2, bias=False)
        self.register_buffer("seen_kk", seen(kernel, itself=False), persistent=False)

    def forward(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:  # type: ignore[override]
        of_image, of_z = self.weight[:, :1] * self.seen_kk, self.weight[:, 1:]
        x = functional.conv2d(pixels_BHW[:, None], of_image, padding=self.padding)
        if z_maps_RCHW is None:
            return x
        samples = len(z_maps_RCHW) // len(pixels_BHW)
        return x.repeat_interleave(samples, 0) + functional.conv2d(z_maps_RCHW, of_z, padding=self.padding)


class _Masked(nn.Conv2d):
    """A convolution that sees the pixels before and itself; its other weights are multiplied by 0 and never learn."""

    seen_kk: Tensor

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__(maps, maps, kernel, padding=kernel // 2, bias=False)
        self.register_buffer("seen_kk", seen(kernel, itself=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight * self.seen_kk, padding=self.padding)


class _Block(nn.Module):
    """ELU(x + narrow, convolve, widen), each a convolution and BN, with ELU between them."""

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__()
        half = maps // 2
        self.main = nn.Sequential(
            nn.Conv2d(maps, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ELU(),
            _Masked(half, kernel),
            nn.BatchNorm2d(half),
            nn.ELU(),
            nn.Conv2d(half, maps, 1, bias=False),
            nn.BatchNorm2d(maps),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(x + self.main(x))


class ResidualPixelCnn(PixelDecoder):
    """A masked convolution of image and z, then residual blocks, one for each further kernel, with paths around them.

    Source: the published code of He et al. 2019 (its second version), which is neither gated nor as their Appendix B.3
    words it. The output of layer j, through a block of its own with the kernel of layer j + 1, is added to the input of
    layer j + 3, the last such block to the last output. No convolution has a bias; those of the head start as torch's.

    - There the likelihood is log(p + 1e-12); here it is that of the logits.
    - There masked weights are set to 0 after each step and still get a gradient, which clipping sees; here none.
    - In train mode batch normalisation tells each pixel a little of those that follow. In eval mode nothing does.
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
    ) -> None:
        first, *further = kernels
        super().__init__(domain, latent_dim, z_maps, maps, stream, options, len(further))
        self.entry = _Entry(self.z_maps, maps, first)
        self.entered = nn.Sequential(nn.BatchNorm2d(maps), nn.ELU())
        self.layers = nn.ModuleList(_Block(maps, kernel) for kernel in further)
        self.around = nn.ModuleList(_Block(maps, kernel) for kernel in further[:-1])
        for part in (self.entry, self.layers, self.around):
            start_normally(part)
        self.head = nn.Sequential(
            nn.Conv2d(maps, maps, 1, bias=False), nn.BatchNorm2d(maps), nn.ELU(), nn.Conv2d(maps, 1, 1, bias=False)
        )

    def logits(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        x = self.entered(self.entry(pixels_BHW, z_maps_RCHW))
        waiting: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number < len(self.around):
                waiting.append(self.around[number](x))
            if number >= 2:
                x = x + waiting.pop(0)
            x = layer(self.skips_of_z(number, x, z_maps_RCHW))
        if waiting:
            x = x + waiting.pop(0)
        assert not waiting, "every path around arrives"
        x = self.skips_of_z(len(self.layers), x, z_maps_RCHW)
        return self.head(x)[:, 0]  # type: ignore[no-any-return]
