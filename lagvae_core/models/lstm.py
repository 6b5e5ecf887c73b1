"""LSTM encoder and decoder of a text VAE (He et al. 2019, Appendix B.2).

Shape suffixes: T predicted tokens, L tokens with `<s>` and `</s>`, R = B * S sequences, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.data import History, TextDomain, TokenBatch
from lagvae_core.models.decoder import DecoderOptions, DecoderState, TokenDecoder, TokenReader, dropout, with_skip
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, RecurrentModel, TokenEncoder
from lagvae_core.models.recurrence import lstm_with_constant_input

__all__ = ["LstmDecoder", "LstmEncoder", "LstmModel", "start_between", "start_uniformly"]


class LstmModel(RecurrentModel):
    """One-layer LSTM encoder and decoder.

    Encoder, decoder and output layer share no weights. Embeddings are initialised from
    U(-init_embedding, init_embedding). All other parameters, including both LSTM biases, are initialised from
    U(-init_range, init_range); the forget gate has no bias offset.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"synthetic", "text"})

    kind: Literal["lstm"] = "lstm"
    init_range: Annotated[
        float, Field(gt=0, description="bound of the uniform initialisation of all parameters except embeddings")
    ] = 0.01
    init_embedding: Annotated[
        float, Field(gt=0, description="bound of the uniform initialisation of the word embeddings")
    ] = 0.1

    def encoder(self, domain: TextDomain, features: Features | None) -> LstmEncoder:
        return LstmEncoder(self, domain.vocabulary, features)

    def decoder(self, domain: TextDomain, stream: torch.Generator, options: DecoderOptions) -> LstmDecoder:
        return LstmDecoder(self, domain.vocabulary, stream, options)


def start_uniformly(module: nn.Module, config: LstmModel) -> None:
    """Initialise embeddings from U(-init_embedding, init_embedding) and the rest from U(-init_range, init_range)."""
    weights, embeddings = config.init_range, config.init_embedding
    start_between(module, (-weights, weights), (-embeddings, embeddings))


def start_between(module: nn.Module, weights: tuple[float, float], embeddings: tuple[float, float]) -> None:
    """Initialise embeddings uniformly within the bounds `embeddings` and all other parameters within `weights`."""
    for name, parameter in module.named_parameters():
        low, high = embeddings if "embedding" in name else weights
        nn.init.uniform_(parameter, low, high)


class LstmEncoder(TokenEncoder):
    """LSTM encoder: mean and log-variance from the last hidden state, without dropout.

    The input is the sentence enclosed in `<s>` and `</s>`.

    Args:
        config: Sizes and initialisation.
        vocabulary: Number of tokens.
        features: Additional features, concatenated to the hidden state.
    """

    def __init__(self, config: LstmModel, vocabulary: int, features: Features | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.lstm = nn.LSTM(config.embedding, config.hidden)
        state = config.hidden + (features.size if features is not None else 0)
        self.to_latent = nn.Linear(state, 2 * config.latent_dim, bias=False)
        self.features = features
        start_uniformly(self, config)

    def forward(self, batch: TokenBatch) -> Gaussian:
        """Return the encoder's Gaussian, the input of the posterior slot: both parameters [B, Z]."""
        features_BF = None if self.features is None else self.features(batch)
        return self.read(self.embedding(batch.tokens_BL.T), features_BF, batch.last_B)

    def read(self, words_LBE: Tensor, features_BF: Tensor | None = None, last_B: Tensor | None = None) -> Gaussian:
        """Return the encoder's Gaussian for embedded sentences.

        Args:
            words_LBE: Embedded sentences.
            features_BF: Additional features, if the encoder has any.
            last_B: Index of each sentence's last token; None if no sentence is padded.
        """
        every_LBH, (last_1BH, _) = self.lstm(words_LBE)
        state = last_1BH[0] if last_B is None else every_LBH[last_B, torch.arange(len(last_B), device=last_B.device)]
        if features_BF is not None:
            state = torch.cat([state, features_BF], 1)
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
    """LSTM decoder of p(x|z). z is concatenated to every input embedding and sets the initial state.

    The initial state is c0 = W z, h0 = tanh(c0). With `options.skip`, z also enters the output layer: logits = W [h; z]
    for `concat`, and logits = W (h + U z) for `add`. There is no layer between the LSTM and the output layer, so
    `everywhere` changes nothing. With `latent_dim` 0 the decoder is a language model: z is empty and the initial state
    is 0.
    """

    def __init__(self, config: LstmModel, vocabulary: int, stream: torch.Generator, options: DecoderOptions) -> None:
        super().__init__(stream)
        self._config, self._skip = config, options.skip
        self.reader = TokenReader(config.embedding, vocabulary, options)
        self.lstm = nn.LSTM(config.embedding + config.latent_dim, config.hidden)
        self.start = nn.Linear(config.latent_dim, config.hidden, bias=False) if config.latent_dim else None
        concatenated = config.latent_dim if self._skip is not None and self._skip.kind == "concat" else 0
        self.output = nn.Linear(config.hidden + concatenated, vocabulary, bias=False)
        adds = self._skip is not None and self._skip.kind == "add"
        self.skip = nn.Linear(config.latent_dim, config.hidden, bias=False) if adds else None
        start_uniformly(self, config)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        samples = z_BSZ.shape[1]
        words_TBE = self.reader(history, self.active_stream())
        words_TRE = words_TBE[:, :, None].expand(-1, -1, samples, -1).flatten(1, 2)
        z_RZ = z_BSZ.flatten(0, 1)
        cell_RH = self._start(z_RZ)
        hidden_TRH = lstm_with_constant_input(self.lstm, words_TRE, z_RZ, cell_RH.tanh(), cell_RH)
        hidden_TRH = dropout(hidden_TRH, self._config.dropout_out, self.active_stream())
        return with_skip(hidden_TRH, z_RZ, self._skip, self.skip)

    def begin(self, z_RZ: Tensor, context: History | None = None) -> DecoderState:
        cell_RH = self._start(z_RZ)
        return _State(z_RZ, cell_RH.tanh(), cell_RH)

    def step(self, state: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        assert isinstance(state, _State), "the state must come from this decoder"
        stream, z_RZ = self.active_stream(), state.z_RZ
        inputs_1RI = torch.cat([self.reader(History(tokens_R[:, None]), stream), z_RZ[None]], 2)
        outputs_1RH, (hidden, cell) = self.lstm(inputs_1RI, (state.hidden_RH[None], state.cell_RH[None]))
        outputs_1RH = dropout(outputs_1RH, self._config.dropout_out, stream)
        logits_RV = self.output(with_skip(outputs_1RH, z_RZ, self._skip, self.skip)[0])
        return logits_RV, _State(z_RZ, hidden[0], cell[0])

    def _start(self, z_RZ: Tensor) -> Tensor:
        """Return the cell state [R, H] before the first token; the hidden state is its tanh."""
        if self.start is None:
            return z_RZ.new_zeros(len(z_RZ), self._config.hidden)
        cell_RH: Tensor = self.start(z_RZ)
        return cell_RH
