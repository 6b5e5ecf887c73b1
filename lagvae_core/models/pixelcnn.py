"""PixelCNN decoder with residual blocks, as in the published code of He et al. 2019.

Shape suffixes: H rows and W columns of pixels, C maps of z, B images, R = B * S images with their samples of z, k
kernel size.
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


def causal_mask(kernel: int, *, include_centre: bool) -> Tensor:
    """Return the mask [k, k] of the kernel positions before the centre in raster order.

    The centre itself is included if `include_centre`.
    """
    position = torch.arange(kernel * kernel).view(kernel, kernel)
    return (position < kernel * kernel // 2 + include_centre).float()


class _Entry(nn.Conv2d):
    """First layer: from the image [B, H, W] and the maps of z [R, C, H, W] to hidden maps [R, maps, H, W].

    The layer is causal in the image. It is not masked in the maps of z, because z is known before the first pixel.
    """

    mask_kk: Tensor

    def __init__(self, z_maps: int, maps: int, kernel: int) -> None:
        super().__init__(1 + z_maps, maps, kernel, padding=kernel // 2, bias=False)
        self.register_buffer("mask_kk", causal_mask(kernel, include_centre=False), persistent=False)

    def forward(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:  # type: ignore[override]
        image_weight, z_weight = self.weight[:, :1] * self.mask_kk, self.weight[:, 1:]
        x = functional.conv2d(pixels_BHW[:, None], image_weight, padding=self.padding)
        if z_maps_RCHW is None:
            return x
        samples = len(z_maps_RCHW) // len(pixels_BHW)
        return x.repeat_interleave(samples, 0) + functional.conv2d(z_maps_RCHW, z_weight, padding=self.padding)


class _Masked(nn.Conv2d):
    """Causal convolution over the previous pixels and the pixel itself; weights at later pixels are masked."""

    mask_kk: Tensor

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__(maps, maps, kernel, padding=kernel // 2, bias=False)
        self.register_buffer("mask_kk", causal_mask(kernel, include_centre=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight * self.mask_kk, padding=self.padding)


class _Block(nn.Module):
    """Bottleneck block ELU(x + f(x)): f is conv1x1, masked conv, conv1x1, each followed by BN, with ELU in between."""

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
    """PixelCNN: a convolution over the image (masked) and the maps of z, then one residual block per remaining kernel.

    Source: second version of the published code of He et al. 2019. It is not gated and differs from their Appendix
    B.3. The output of layer j passes through an additional block with the kernel of layer j + 1 and is added to the
    input of layer j + 3, or in the case of the last additional block to the final output. Convolutions have no bias;
    those of the head have PyTorch's default initialisation.

    Departures from that code:

    - That code computes the log-likelihood as log(p + 1e-12); this code computes it from the logits.
    - In that code, masked weights are set to 0 after each step but still receive a gradient, which counts towards the
      norm in gradient clipping. In this code, the gradient of masked weights is 0.

    In train mode, batch normalisation leaks some information about later pixels into each pixel. In eval mode there is
    no leak.

    Args:
        domain: Image size.
        latent_dim: Number of dimensions of z.
        z_maps: Number of maps made of z.
        maps: Number of maps of the hidden layers.
        kernels: Odd kernel sizes, one per layer.
        stream: Random generator of dropout.
        options: Modifications requested by strategies.
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
        first, *rest = kernels
        super().__init__(domain, latent_dim, z_maps, maps, stream, options, len(rest))
        self.entry = _Entry(self.z_maps, maps, first)
        self.entered = nn.Sequential(nn.BatchNorm2d(maps), nn.ELU())
        self.layers = nn.ModuleList(_Block(maps, kernel) for kernel in rest)
        self.around = nn.ModuleList(_Block(maps, kernel) for kernel in rest[:-1])
        for part in (self.entry, self.layers, self.around):
            start_normally(part)
        self.head = nn.Sequential(
            nn.Conv2d(maps, maps, 1, bias=False), nn.BatchNorm2d(maps), nn.ELU(), nn.Conv2d(maps, 1, 1, bias=False)
        )

    def logits(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        x = self.entered(self.entry(pixels_BHW, z_maps_RCHW))
        pending: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number < len(self.around):
                pending.append(self.around[number](x))
            if number >= 2:
                x = x + pending.pop(0)
            x = layer(self.skips_of_z(number, x, z_maps_RCHW))
        if pending:
            x = x + pending.pop(0)
        assert not pending, "every additional block must be added to a later input"
        x = self.skips_of_z(len(self.layers), x, z_maps_RCHW)
        return self.head(x)[:, 0]  # type: ignore[no-any-return]
