"""Base class of pixel decoders: z as feature maps, likelihood computed in chunks, and sampling.

Shape suffixes: H rows and W columns of pixels, C maps of z, R = B * S images.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import ImageDomain
from lagvae_core.models.decoder import Decoder, DecoderOptions, Skip

__all__ = ["PixelDecoder", "Skips"]

CPU_VALUES, GPU_VALUES = 2**22, 2**27
"""Maximum number of values in one activation tensor of a chunk, if no gradient is computed."""


class Skips(nn.Module):
    """Skip connections: projections of the maps of z, added to the input of a layer.

    The connections lead to the output layer and, with `skip.everywhere`, to every block.
    """

    def __init__(self, skip: Skip | None, z_maps: int, maps: int, blocks: int) -> None:
        super().__init__()
        assert skip is None or skip.kind == "add", "the skip connections of a pixel decoder must be of kind add"
        self.blocks = blocks
        numbers = [] if skip is None else [*range(blocks), blocks] if skip.everywhere else [blocks]
        self.paths = nn.ModuleDict({str(number): nn.Conv2d(z_maps, maps, 1, bias=False) for number in numbers})

    def forward(self, number: int, x: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        """Return the input of block `number`: `x`, plus the projected maps of z if this block has a skip connection.

        Blocks are numbered from 0; the output layer is last.
        """
        return x + self.paths[str(number)](z_maps_RCHW) if str(number) in self.paths else x


class PixelDecoder(Decoder):
    """Autoregressive p(x|z) over binary images, in raster order: left to right, top to bottom.

    A linear layer turns z into `z_maps` maps of the image's size. With `latent_dim` 0 there are no maps, and the
    decoder is an unconditional model of images. A subclass defines `logits`.

    Args:
        domain: Image size.
        latent_dim: Number of dimensions of z.
        z_maps: Number of maps made of z.
        maps: Number of maps of the hidden layers.
        stream: Random generator of dropout.
        options: Modifications requested by strategies.
        blocks: Number of blocks that skip connections can lead to.
    """

    def __init__(
        self,
        domain: ImageDomain,
        latent_dim: int,
        z_maps: int,
        maps: int,
        stream: torch.Generator,
        options: DecoderOptions,
        blocks: int,
    ) -> None:
        super().__init__(stream)
        self.size = (domain.height, domain.width)
        self.maps, self.z_maps = maps, z_maps if latent_dim else 0
        self.to_maps = nn.Linear(latent_dim, z_maps * domain.height * domain.width) if latent_dim else None
        if self.to_maps is not None:
            nn.init.xavier_uniform_(self.to_maps.weight)
            nn.init.zeros_(self.to_maps.bias)
        self.skips_of_z = Skips(options.skip, z_maps, maps, blocks)

    @abstractmethod
    def logits(self, pixels_BHW: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        """Return log p(1) - log p(0) of every pixel, [R, H, W].

        The logit of a pixel depends only on z and on the previous pixels. R is a multiple of B: R / B successive
        samples of z belong to the same image.
        """

    def forward(self, history: Tensor, targets: Tensor, z_BSZ: Tensor) -> Tensor:
        """Return -log p(x|z), summed over pixels, [B, S] [nats].

        In eval mode without gradients, examples and samples are processed in chunks, so that the memory for activations
        does not grow with B or S. In train mode, batch normalisation needs all examples and samples in one pass.
        """
        if self.training or torch.is_grad_enabled():
            return self._nll(history, targets, z_BSZ)
        values = CPU_VALUES if z_BSZ.device.type == "cpu" else GPU_VALUES
        rows = max(1, values // (self.maps * targets[0].numel()))
        examples, samples = min(rows, len(z_BSZ)), max(1, rows // len(z_BSZ))
        return torch.cat(
            [
                torch.cat([self._nll(x, y, z) for z in torch.split(z_bSZ, samples, 1)], 1)
                for x, y, z_bSZ in zip(*(torch.split(t, examples) for t in (history, targets, z_BSZ)), strict=True)
            ]
        )

    def _nll(self, history_BHW: Tensor, targets_BHW: Tensor, z_BSZ: Tensor) -> Tensor:
        logits_RHW = self.logits(history_BHW.to(z_BSZ), self.maps_of(z_BSZ.flatten(0, 1)))
        samples = len(logits_RHW) // len(targets_BHW)  # 1 in a model without z, for all S samples
        targets_RHW = targets_BHW.to(z_BSZ).repeat_interleave(samples, 0)
        nll_RHW = functional.binary_cross_entropy_with_logits(logits_RHW, targets_RHW, reduction="none")
        return nll_RHW.sum((1, 2)).view(-1, samples).expand(z_BSZ.shape[:2])

    def maps_of(self, z_RZ: Tensor) -> Tensor | None:
        """Return z as maps of the image's size, [R, C, H, W]; None in a model without z."""
        return None if self.to_maps is None else self.to_maps(z_RZ).view(len(z_RZ), self.z_maps, *self.size)

    @torch.no_grad()
    def sample(self, z_NZ: Tensor, draws_NHW: Tensor | None = None) -> Tensor:
        """Return images of zeros and ones from p(x|z), [N, H, W], float32, with one forward pass per pixel.

        The model must be in eval mode.

        Args:
            z_NZ: One z per image.
            draws_NHW: Thresholds: a pixel is 1 if its probability is above its threshold. If they are uniform draws on
                [0, 1), the images are samples. None sets every threshold to 0.5.
        """
        assert not self.training, "the model must be in eval mode"
        z_maps_NCHW = self.maps_of(z_NZ)
        images_NHW = z_NZ.new_zeros(len(z_NZ), *self.size)
        for row in range(self.size[0]):
            for column in range(self.size[1]):
                probability_N = self.logits(images_NHW, z_maps_NCHW)[:, row, column].sigmoid()
                threshold_N = 0.5 if draws_NHW is None else draws_NHW[:, row, column].to(z_NZ)
                images_NHW[:, row, column] = (probability_N > threshold_N).to(z_NZ.dtype)
        return images_NHW.float()
