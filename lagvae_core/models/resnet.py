"""ResNet encoder of an image VAE (He et al. 2019, Appendix B.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import ImageBatch, ImageDomain
from lagvae_core.models.gaussian import Gaussian

__all__ = ["ResNetEncoder", "running_statistics", "start_normally"]

BLOCKS = 3


def start_normally(module: nn.Module) -> None:
    """Initialise every convolution in `module` from N(0, 2 / (height * width * output channels)).

    Height and width are those of the kernel. Other layers are left unchanged.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            outputs = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / outputs))


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Context manager within which batch normalisation in `module` uses its running averages without updating them."""
    layers = [
        layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.training
    ]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


class _Block(nn.Module):
    """Residual block ELU(f(x) + g(x)) that halves height and width.

    f is conv3x3, BN, ELU, conv3x3, BN; g is conv1x1, BN.
    """

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, maps, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(maps),
            nn.ELU(),
            nn.Conv2d(maps, maps, 3, padding=1, bias=False),
            nn.BatchNorm2d(maps),
        )
        self.short = nn.Sequential(nn.Conv2d(inputs, maps, 1, stride=2, bias=False), nn.BatchNorm2d(maps))

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.main(x) + self.short(x))


class ResNetEncoder(nn.Module):
    """ResNet encoder: three residual blocks, one convolution over the whole remaining map, and a linear layer.

    Source: second version of the published code of He et al. 2019. The blocks shrink images of 28 x 28 to 4 x 4; for
    other sizes, the kernel of the last convolution is adapted. Batch normalisation follows every convolution, so q(z|x)
    depends on the batch in train mode and on x alone in eval mode. As in the published code, inner encoder steps also
    update the running averages.

    Args:
        domain: Image size.
        latent_dim: Number of dimensions of z.
        maps: Number of maps of the blocks.
        hidden: Number of units after the last convolution.
    """

    def __init__(self, domain: ImageDomain, latent_dim: int, maps: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(maps if number else 1, maps) for number in range(BLOCKS)))
        size = (math.ceil(domain.height / 2**BLOCKS), math.ceil(domain.width / 2**BLOCKS))
        self.whole = nn.Sequential(nn.Conv2d(maps, hidden, size, bias=False), nn.BatchNorm2d(hidden), nn.ELU())
        self.to_latent = nn.Linear(hidden, 2 * latent_dim)
        start_normally(self)
        nn.init.xavier_uniform_(self.to_latent.weight)
        nn.init.zeros_(self.to_latent.bias)

    def forward(self, batch: ImageBatch) -> Gaussian:
        """Return the encoder's Gaussian, the input of the posterior slot: both parameters [B, Z]."""
        return self.read(batch.pixels_BHW)

    def read(self, pixels_BHW: Tensor) -> Gaussian:
        """Return the encoder's Gaussian for binary or grey pixels."""
        x = self.blocks(pixels_BHW[:, None].to(self.to_latent.weight))
        mean, logvar = self.to_latent(self.whole(x).flatten(1)).chunk(2, 1)
        return Gaussian(mean, logvar)
