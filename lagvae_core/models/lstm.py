"""LSTM encoder and decoder of a text VAE (He et al. 2019, Appendix B.2). T is the number of predicted tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.data import History, TextDomain, TokenBatch
from lagvae_core.models.decoder import DecoderOptions, DecoderState, TokenDecoder, TokenReader, dropout
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, TokenEncoder, TokenModel
from lagvae_core.models.recurrence import read_beside

__all__ = ["LstmDecoder", "LstmEncoder", "LstmModel", "start_between", "start_uniformly"]


class LstmModel(TokenModel):
    """One-layer LSTM encoder and decoder; nothing is tied between them or to the output layer.

    All parameters start from U(-init_range, init_range), both LSTM biases among them and with no forget-gate offset;
    embeddings from U(-init_embedding, init_embedding).
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["lstm"] = "lstm"
    init_range: Annotated[float, Field(gt=0, description="bound of the uniform start of all weights")] = 0.01
    init_embedding: Annotated[float, Field(gt=0, description="bound of the uniform start of embeddings")] = 0.1

    def encoder(self, domain: TextDomain, features: Features | None) -> LstmEncoder:
        return LstmEncoder(self, domain.vocabulary, features)

    def decoder(self, domain: TextDomain, stream: torch.Generator, options: DecoderOptions) -> LstmDecoder:
        return LstmDecoder(self, domain.vocabulary, stream, options)


def start_uniformly(module: nn.Module, setting: LstmModel) -> None:
    """Every parameter from U(-init_range, init_range), embeddings from U(-init_embedding, init_embedding)."""
    weights, embeddings = setting.init_range, setting.init_embedding
    start_between(module, (-weights, weights), (-embeddings, embeddings))


def start_between(module: nn.Module, weights: tuple[float, float], embeddings: tuple[float, float]) -> None:
    """Every parameter uniformly between the two of `weights`, embeddings between those of `embeddings`."""
    for name, parameter in module.named_parameters():
        low, high = embeddings if "embedding" in name else weights
        nn.init.uniform_(parameter, low, high)


class LstmEncoder(TokenEncoder):
    """Mean and log-variance from the last hidden state after reading <s> x </s>; no dropout.

    `features`, if there are any, are concatenated to that state.
    """

    def __init__(self, setting: LstmModel, vocabulary: int, features: Features | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, setting.embedding)
        self.lstm = nn.LSTM(setting.embedding, setting.hidden)
        state = setting.hidden + (features.size if features is not None else 0)
        self.to_latent = nn.Linear(state, 2 * setting.latent_dim, bias=False)
        self.features = features
        start_uniformly(self, setting)

    def forward(self, batch: TokenBatch) -> Gaussian:
        """q(z|x) before the posterior slot: both parameters [B, Z]."""
        further = None if self.features is None else self.features(batch)
        return self.read(self.embedding(batch.tokens_BL.T), further, batch.last_B)

    def read(self, words_LBE: Tensor, further_BF: Tensor | None = None, last_B: Tensor | None = None) -> Gaussian:
        """The same from embedded sentences, each of which ends at `last_B`, or all with the last word."""
        every_LBH, (last_1BH, _) = self.lstm(words_LBE)
        state = last_1BH[0] if last_B is None else every_LBH[last_B, torch.arange(len(last_B), device=last_B.device)]
        if further_BF is not None:
            state = torch.cat([state, further_BF], 1)
        mean, logvar = self.to_latent(state).chunk(2, 1)
        return Gaussian(mean, logvar)


@dataclass(frozen=True, eq=False)
class _State(DecoderState):
    z_RZ: Tensor
    hidden_RH: Tensor
    cell_RH: Tensor

    def select(self, index: Tensor) -> _State:
        return _State(self.z_RZ[index], self.hidden_RH[index], self.cell_RH[index])


class LstmDecoder(TokenDecoder):
    """p(x|z): z is concatenated to every input embedding and sets the start state, c0 = W z, h0 = tanh(c0).

    With `wiring.skip`, z also reaches the output layer: `concat`, logits = W [h; z]; `add`, logits = W (h + U z). There
    is no layer between the one LSTM and the output, so that `everywhere` adds nothing here. With `latent_dim` 0 it is a
    language model: z has no entries, and the start state is 0.
    """

    def __init__(self, setting: LstmModel, vocabulary: int, stream: torch.Generator, options: DecoderOptions) -> None:
        super().__init__(stream)
        self._setting, self._skip = setting, options.skip
        self.reader = TokenReader(setting.embedding, vocabulary, options)
        self.lstm = nn.LSTM(setting.embedding + setting.latent_dim, setting.hidden)
        self.start = nn.Linear(setting.latent_dim, setting.hidden, bias=False) if setting.latent_dim else None
        concatenated = setting.latent_dim if self._skip is not None and self._skip.kind == "concat" else 0
        self.output = nn.Linear(setting.hidden + concatenated, vocabulary, bias=False)
        if self._skip is not None and self._skip.kind == "add":
            self.skip = nn.Linear(setting.latent_dim, setting.hidden, bias=False)
        start_uniformly(self, setting)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        samples = z_BSZ.shape[1]
        words_TBE = self.reader(history, self.active_stream())
        words_TRE = words_TBE[:, :, None].expand(-1, -1, samples, -1).flatten(1, 2)
        z_RZ = z_BSZ.flatten(0, 1)
        cell_RH = self._start(z_RZ)
        hidden_TRH = read_beside(self.lstm, words_TRE, z_RZ, cell_RH.tanh(), cell_RH)
        return self._beside_skip(dropout(hidden_TRH, self._setting.dropout_out, self.active_stream()), z_RZ)

    def begin(self, z_RZ: Tensor, context: History | None = None) -> DecoderState:
        cell_RH = self._start(z_RZ)
        return _State(z_RZ, cell_RH.tanh(), cell_RH)

    def step(self, reading: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        assert isinstance(reading, _State), "a reading that this decoder began"
        stream, z_RZ = self.active_stream(), reading.z_RZ
        inputs_1RI = torch.cat([self.reader(History(tokens_R[:, None]), stream), z_RZ[None]], 2)
        outputs_1RH, (hidden, cell) = self.lstm(inputs_1RI, (reading.hidden_RH[None], reading.cell_RH[None]))
        outputs_1RH = dropout(outputs_1RH, self._setting.dropout_out, stream)
        logits_RV = self.output(self._beside_skip(outputs_1RH, z_RZ)[0])
        return logits_RV, _State(z_RZ, hidden[0], cell[0])

    def _start(self, z_RZ: Tensor) -> Tensor:
        """The cells [R, H] before the first token; the hidden state is their tanh."""
        if self.start is None:
            return z_RZ.new_zeros(len(z_RZ), self._setting.hidden)
        cell_RH: Tensor = self.start(z_RZ)
        return cell_RH

    def _beside_skip(self, hidden_TRH: Tensor, z_RZ: Tensor) -> Tensor:
        """What the output layer reads."""
        if self._skip is None:
            return hidden_TRH
        if self._skip.kind == "add":
            added_RH: Tensor = self.skip(z_RZ)
            return hidden_TRH + added_RH
        return torch.cat([hidden_TRH, z_RZ.expand(len(hidden_TRH), -1, -1)], 2)
