"""Text decoder of dilated causal convolutions (Yang et al. 2017).

Shape suffixes: T predicted tokens, R = B * S sequences, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lagvae_core.data import History
from lagvae_core.models.decoder import DecoderOptions, Skip, TokenDecoder, TokenReader, dropout
from lagvae_core.models.lstm import LstmModel

__all__ = ["CausalConvolution", "DilatedCnn", "ResidualBlock"]


class CausalConvolution(nn.Module):
    """y_t = b + sum_k W_k x_(t - k * dilation), k from 0 to `kernel` - 1; before the first position x counts as 0.

    Positions are the first axis, so that a tap is one matrix product over the positions that it reaches. It starts as
    torch's convolutions do.
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
            late = tap * self._dilation
            if late < steps:
                y_TRC[late:].flatten(0, 1).addmm_(x_TRC[: steps - late].flatten(0, 1), weight_CC)
        return y_TRC


class ResidualBlock(nn.Module):
    """x + dropout(W relu(convolution(relu(V x + v))) + w).

    With `skip`, z comes to V: `concat`, V [x; z]; `add`, V (x + U z). The sum keeps x itself.
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
            read_TRC = self.enter(x_TRC)
        elif self._adds:
            read_TRC = self.enter(x_TRC + self.skip(z_RZ))
        else:
            read_TRC = self.enter(x_TRC) + self.skip(z_RZ)
        branch_TRC = self.leave(self.convolve(read_TRC.relu_()).relu_())
        return x_TRC + dropout(branch_TRC, self._rate, stream)


class DilatedCnn(TokenDecoder):
    """p(x|z) of the last words alone: [embedding; z] -> 1x1 -> one residual block for each dilation -> output layer.

    Position t sees the last 1 + (kernel - 1) * sum(dilations) words. `wiring.skip` as in LstmDecoder; `everywhere`
    brings z to each block. Embeddings start as `model.init_embedding` says, all else as torch's layers do.
    """

    def __init__(
        self,
        setting: LstmModel,
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
        self._setting, skip = setting, options.skip
        latent = setting.latent_dim
        self.reader = TokenReader(setting.embedding, vocabulary, options)
        nn.init.uniform_(self.reader.embedding.weight, -setting.init_embedding, setting.init_embedding)
        self.from_words = nn.Linear(setting.embedding, channels)
        self.from_z = nn.Linear(latent, channels, bias=False)
        inner = skip if skip is not None and skip.everywhere else None
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel, d, rate, inner, latent) for d in dilations)
        self._concatenates = skip is not None and skip.kind == "concat"
        self.skip = nn.Linear(latent, channels, bias=False) if skip is not None and skip.kind == "add" else None
        self.output = nn.Linear(channels + (latent if self._concatenates else 0), vocabulary, bias=False)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        stream, z_RZ = self.active_stream(), z_BSZ.flatten(0, 1)
        words_TBC = self.from_words(self.reader(history, stream))
        x_TRC = (words_TBC[:, :, None] + self.from_z(z_BSZ)).flatten(1, 2)
        for block in self.blocks:
            x_TRC = block(x_TRC, z_RZ, stream)
        x_TRC = dropout(x_TRC, self._setting.dropout_out, stream)
        if self._concatenates:
            return torch.cat([x_TRC, z_RZ.expand(len(x_TRC), -1, -1)], 2)
        return x_TRC if self.skip is None else x_TRC + self.skip(z_RZ)
