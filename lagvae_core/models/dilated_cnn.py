"""Text decoder with dilated causal convolutions (Yang et al. 2017).

Shape suffixes: T predicted tokens, R = B * S sequences, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lagvae_core.data import History
from lagvae_core.models.decoder import DecoderOptions, Skip, TokenDecoder, TokenReader, dropout, with_skip
from lagvae_core.models.lstm import LstmModel

__all__ = ["CausalConvolution", "DilatedCnn", "ResidualBlock"]


class CausalConvolution(nn.Module):
    """Causal convolution y_t = b + sum_k W_k x_(t - k * dilation), k from 0 to `kernel` - 1.

    x is 0 before the first position. Positions are the first axis, so that each tap of the kernel is one matrix
    product. The initialisation is that of PyTorch's convolutions.
    """

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self._dilation = dilation
        bound = (kernel * channels) ** -0.5
        self.weight = nn.Parameter(torch.empty(kernel, channels, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x_TRC: Tensor) -> Tensor:
        steps = len(x_TRC)
        y_TRC = torch.addmm(self.bias, x_TRC.flatten(0, 1), self.weight[0]).view_as(x_TRC)
        for tap, weight_CC in enumerate(self.weight[1:], start=1):
            delay = tap * self._dilation
            if delay < steps:
                y_TRC[delay:].flatten(0, 1).addmm_(x_TRC[: steps - delay].flatten(0, 1), weight_CC)
        return y_TRC


class ResidualBlock(nn.Module):
    """Residual block x + dropout(W relu(convolution(relu(V x + v))) + w).

    With `skip`, z also enters V: for `concat` as V [x; z], for `add` as V (x + U z). The residual connection carries x
    alone.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, rate: float, skip: Skip | None, latent: int) -> None:
        super().__init__()
        self._rate, self._adds = rate, skip is not None and skip.kind == "add"
        self.enter = nn.Linear(channels, channels)
        self.convolve = CausalConvolution(channels, kernel, dilation)
        self.leave = nn.Linear(channels, channels)
        self.skip = nn.Linear(latent, channels, bias=False) if skip is not None else None

    def forward(self, x_TRC: Tensor, z_RZ: Tensor, stream: torch.Generator | None) -> Tensor:
        if self.skip is None:
            hidden_TRC = self.enter(x_TRC)
        elif self._adds:
            hidden_TRC = self.enter(x_TRC + self.skip(z_RZ))
        else:
            hidden_TRC = self.enter(x_TRC) + self.skip(z_RZ)
        branch_TRC = self.leave(self.convolve(hidden_TRC.relu_()).relu_())
        return x_TRC + dropout(branch_TRC, self._rate, stream)


class DilatedCnn(TokenDecoder):
    """Decoder p(x|z) with a limited context: [embedding; z], conv1x1, one residual block per dilation, output layer.

    Position t depends on z and on the last 1 + (kernel - 1) * sum(dilations) words. `options.skip` works as in
    `LstmDecoder`; with `everywhere`, z also enters each block. Embeddings are initialised from
    U(-init_embedding, init_embedding), all other layers by PyTorch's default.

    Args:
        config: Sizes and dropout rates of the model to which the decoder belongs.
        vocabulary: Number of tokens.
        stream: Random generator of dropout.
        options: Modifications requested by strategies.
        dilations: Dilation of each block.
        kernel: Kernel size.
        channels: Number of channels.
        rate: Dropout rate of the blocks.
    """

    def __init__(
        self,
        config: LstmModel,
        vocabulary: int,
        stream: torch.Generator,
        options: DecoderOptions,
        *,
        dilations: tuple[int, ...],
        kernel: int,
        channels: int,
        rate: float,
    ) -> None:
        super().__init__(stream)
        self._config, skip = config, options.skip
        latent = config.latent_dim
        self.reader = TokenReader(config.embedding, vocabulary, options)
        nn.init.uniform_(self.reader.embedding.weight, -config.init_embedding, config.init_embedding)
        self.from_words = nn.Linear(config.embedding, channels)
        self.from_z = nn.Linear(latent, channels, bias=False)
        inner = skip if skip is not None and skip.everywhere else None
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel, d, rate, inner, latent) for d in dilations)
        self._skip = skip
        concatenated = latent if skip is not None and skip.kind == "concat" else 0
        self.skip = nn.Linear(latent, channels, bias=False) if skip is not None and skip.kind == "add" else None
        self.output = nn.Linear(channels + concatenated, vocabulary, bias=False)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        stream, z_RZ = self.active_stream(), z_BSZ.flatten(0, 1)
        words_TBC = self.from_words(self.reader(history, stream))
        x_TRC = (words_TBC[:, :, None] + self.from_z(z_BSZ)).flatten(1, 2)
        for block in self.blocks:
            x_TRC = block(x_TRC, z_RZ, stream)
        x_TRC = dropout(x_TRC, self._config.dropout_out, stream)
        return with_skip(x_TRC, z_RZ, self._skip, self.skip)
