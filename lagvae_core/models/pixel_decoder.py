"""What every decoder of pixels is: z as maps beside the image, the likelihood in pieces, and sampling.

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
"""Numbers in one activation of one piece, at most, where no gradient is computed."""


class Skips(nn.Module):
    """Maps of z, projected and added to what a layer reads: of the output layer or, if `everywhere`, of each block."""

    def __init__(self, skip: Skip | None, z_maps: int, maps: int, blocks: int) -> None:
        super().__init__()
        assert skip is None or skip.kind == "add", "z is added to maps of pixels, not concatenated"
        self.blocks = blocks
        read = [] if skip is None else [*range(blocks), blocks] if skip.everywhere else [blocks]
        self.paths = nn.ModuleDict({str(number): nn.Conv2d(z_maps, maps, 1, bias=False) for number in read})

    def forward(self, number: int, x: Tensor, z_maps_RCHW: Tensor | None) -> Tensor:
        """What block `number` (from 0, the output layer last) reads in the place of x."""
        return x + self.paths[str(number)](z_maps_RCHW) if str(number) in self.paths else x


class PixelDecoder(Decoder):
    """p(x|z) over black and white images, pixel by pixel from left to right and from the top down.

    z becomes `z_maps` maps of the image's size by a linear layer. With `latent_dim` 0 there are none, and it is a
    language model of pixels. A subclass makes `logits`.
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
        """log p(1) - log p(0) of every pixel, [R, H, W]; of a pixel they depend on those before it and on z alone.

        R is a multiple of B: of R / B successive samples of z each image is the same.
        """

    def forward(self, history: Tensor, targets: Tensor, z_BSZ: Tensor) -> Tensor:
        """-log p(x|z) in nats, summed over the pixels, [B, S].

        In eval mode and without gradients the S samples go through in pieces, so that memory does not grow with B or S.
        In train mode batch normalisation wants all of them together.
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
        samples = len(logits_RHW) // len(targets_BHW)  # without z, one pass for all
        targets_RHW = targets_BHW.to(z_BSZ).repeat_interleave(samples, 0)
        nll_RHW = functional.binary_cross_entropy_with_logits(logits_RHW, targets_RHW, reduction="none")
        return nll_RHW.sum((1, 2)).view(-1, samples).expand(z_BSZ.shape[:2])

    def maps_of(self, z_RZ: Tensor) -> Tensor | None:
        """z as maps of the image's size, [R, C, H, W]; None in a model without z."""
        return None if self.to_maps is None else self.to_maps(z_RZ).view(len(z_RZ), self.z_maps, *self.size)

    @torch.no_grad()
    def sample(self, z_NZ: Tensor, draws_NHW: Tensor | None = None) -> Tensor:
        """Images [N, H, W] of zeros and ones from p(x|z), float32; one pass over all of them for each pixel.

        A pixel is 1 where its probability is above `draws_NHW`: uniform draws on [0, 1) make it a sample; without them
        the bound is 0.5. The model must be in eval mode.
        """
        assert not self.training, "sampling wants eval mode"
        z_maps_NCHW = self.maps_of(z_NZ)
        drawn_NHW = z_NZ.new_zeros(len(z_NZ), *self.size)
        for row in range(self.size[0]):
            for column in range(self.size[1]):
                probability_N = self.logits(drawn_NHW, z_maps_NCHW)[:, row, column].sigmoid()
                bound_N = 0.5 if draws_NHW is None else draws_NHW[:, row, column].to(z_NZ)
                drawn_NHW[:, row, column] = (probability_N > bound_N).to(z_NZ.dtype)
        return drawn_NHW.float()
