"""LSTM encoder and decoder of a text VAE (He et al. 2019, Appendix B.2). T is the number of predicted tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.data import TokenBatch
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.projection import token_nll
from lagvae_core.settings import Setting

__all__ = ["LstmDecoder", "LstmEncoder", "LstmModel", "dropout"]


class LstmModel(Setting):
    """One-layer LSTM encoder and decoder; nothing is tied between them or to the output layer.

    All parameters start from U(-init_range, init_range), both LSTM biases among them and with no forget-gate offset;
    embeddings from U(-init_embedding, init_embedding).
    """

    kind: Literal["lstm"] = "lstm"
    latent_dim: Annotated[int, Field(ge=1, le=4096, description="dimensions of z")] = 32
    hidden: Annotated[int, Field(ge=1, le=65536, description="LSTM units, in the encoder and in the decoder")] = 1024
    embedding: Annotated[int, Field(ge=1, le=65536, description="size of the word embeddings")] = 512
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's embeddings")] = 0.5
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's LSTM outputs")] = 0.5
    init_range: Annotated[float, Field(gt=0, description="bound of the uniform start of all weights")] = 0.01
    init_embedding: Annotated[float, Field(gt=0, description="bound of the uniform start of embeddings")] = 0.1


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout from a stream of its own; without a generator (evaluation) x itself.

    The mask comes from 31-bit integers, a third of the cost of Bernoulli draws.
    """
    if generator is None or rate == 0.0:
        return x
    draws = torch.empty(x.shape, dtype=torch.int32, device=x.device).random_(generator=generator)
    return x * (draws >= int(rate * 2**31)).to(x.dtype).mul_(1.0 / (1.0 - rate))


def _start(module: nn.Module, setting: LstmModel) -> None:
    for name, parameter in module.named_parameters():
        bound = setting.init_embedding if name.startswith("embedding") else setting.init_range
        nn.init.uniform_(parameter, -bound, bound)


class LstmEncoder(nn.Module):
    """Mean and log-variance from the last hidden state after reading <s> x </s>; no dropout."""

    def __init__(self, setting: LstmModel, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, setting.embedding)
        self.lstm = nn.LSTM(setting.embedding, setting.hidden)
        self.to_latent = nn.Linear(setting.hidden, 2 * setting.latent_dim, bias=False)
        _start(self, setting)

    def forward(self, batch: TokenBatch) -> Gaussian:
        """q(z|x) before the posterior slot: both parameters [B, Z]."""
        _, (last, _) = self.lstm(self.embedding(batch.tokens_BL.T))
        mean, logvar = self.to_latent(last[0]).chunk(2, 1)
        return Gaussian(mean, logvar)


class LstmDecoder(nn.Module):
    """p(x|z): z is concatenated to every input embedding and sets the start state, c0 = W z, h0 = tanh(c0)."""

    def __init__(self, setting: LstmModel, vocabulary: int, dropout_stream: torch.Generator) -> None:
        super().__init__()
        self._setting = setting
        self._dropout_stream = dropout_stream
        self.embedding = nn.Embedding(vocabulary, setting.embedding)
        self.lstm = nn.LSTM(setting.embedding + setting.latent_dim, setting.hidden)
        self.start = nn.Linear(setting.latent_dim, setting.hidden, bias=False)
        self.output = nn.Linear(setting.hidden, vocabulary, bias=False)
        _start(self, setting)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor, z_BSZ: Tensor) -> Tensor:
        """-log p(targets | inputs, z) in nats, summed over the tokens, [B, S].

        The S samples of an example share one dropout mask on their embeddings, as they share the embeddings.
        """
        hidden_TRH = self._hidden(inputs_BT, z_BSZ)
        (batch, samples), steps = z_BSZ.shape[:2], inputs_BT.shape[1]
        hidden_TRH = dropout(hidden_TRH, self._setting.dropout_out, self._active_stream())
        targets_TBS = targets_BT.T[:, :, None].expand(steps, batch, samples)
        nll_N = token_nll(hidden_TRH.flatten(0, 1), self.output.weight, targets_TBS.flatten())
        return nll_N.view(steps, batch, samples).sum(0)

    def _hidden(self, inputs_BT: Tensor, z_BSZ: Tensor) -> Tensor:
        """LSTM outputs [T, R, H] for the R = B * S sequences."""
        steps, (batch, samples) = inputs_BT.shape[1], z_BSZ.shape[:2]
        words_TBE = dropout(self.embedding(inputs_BT.T), self._setting.dropout_in, self._active_stream())
        words_TRE = words_TBE[:, :, None].expand(-1, -1, samples, -1).flatten(1, 2)
        z_RZ = z_BSZ.flatten(0, 1)
        cell_RH = self.start(z_RZ)
        inputs_TRI = torch.cat([words_TRE, z_RZ.expand(steps, -1, -1)], 2)
        hidden_TRH, _ = self.lstm(inputs_TRI, (cell_RH.tanh()[None], cell_RH[None]))
        assert hidden_TRH.shape[1] == batch * samples
        return hidden_TRH  # type: ignore[no-any-return]

    def _active_stream(self) -> torch.Generator | None:
        return self._dropout_stream if self.training else None
