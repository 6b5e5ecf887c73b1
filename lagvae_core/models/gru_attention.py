"""GRU encoder, and GRU decoder with attention over morphological features.

Source: the blog post "Posterior collapse and the strong generator problem".

Shape suffixes: T predicted characters, B examples, S samples of z per example, K features per example, A feature
embedding, H hidden units of the decoder, G = 3 H gates in PyTorch's order (reset, update, new).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from lagvae_core.data import UNK, History, InflectionDomain, InflectionHistory, TokenBatch
from lagvae_core.data.reinflection.arrays import ABSENT
from lagvae_core.models.decoder import DecoderOptions, DecoderState, TokenDecoder, TokenReader, dropout
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.models.model_config import Features, RecurrentModel, TokenEncoder

__all__ = ["GruAttentionDecoder", "GruAttentionModel", "GruDecoderState", "GruEncoder"]


class GruAttentionModel(RecurrentModel):
    """Reinflection model: bidirectional GRU for q(z|source), GRU with attention for p(target|z, features).

    Source: the blog post "Posterior collapse and the strong generator problem". Sizes and attention are those of its
    code. At each step the decoder scores the features that are present by v . tanh(W [h_(t-1); feature]). It reads the
    embedded previous character, the weighted mean c_t of the features, and z. It predicts the character from
    [h_t; c_t]. Its initial state is tanh(U z + b).

    Departures from the code of the post, and options that reproduce the behaviour of that code:

    - Mean and log-variance are linear. In that code both pass through a ReLU, so that means are not negative and
      variances are at least 1. That code also uses the mean in place of a sample, and exp(logvar) as the standard
      deviation.
    - That code also attends to the zero rows of absent features. In this code, absent features have weight 0.
    - The post calls the decoder bidirectional. A decoder that generates from left to right cannot be bidirectional, and
      the decoder in the code is not.
    - `start: encoder`, as in that code, replaces the initial state tanh(U z + b) by the last state of the encoder. This
      path bypasses z and is for ablations only. The measured density is then p(target|source, features), and even a
      high accuracy does not show that z is used. Do not compare `nll_iw` with that of `start: z`.
    - `feed: self`, as in that code, replaces the true previous character in training by the decoder's own prediction
      (argmax, without gradient). Characters that a strategy drops stay dropped, and dropout of whole embeddings draws a
      new mask at each step. In validation and evaluation the decoder reads the true past, as a likelihood requires.
    - Layers have PyTorch's default initialisation: GRUs from U(-1, 1) / sqrt(hidden), other weights and biases from
      U(-1, 1) / sqrt(inputs), embeddings from N(0, 1). By default there is no dropout; `dropout_out` applies only
      to h_t.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"reinflection"})

    kind: Literal["gru_attention"] = "gru_attention"
    latent_dim: Annotated[int, Field(ge=1, le=4096, description="number of dimensions of z")] = 150
    hidden: Annotated[
        int,
        Field(
            ge=2,
            le=65536,
            multiple_of=2,
            description="number of recurrent units of the decoder; the encoder has half as many per direction",
        ),
    ] = 512
    embedding: Annotated[int, Field(ge=1, le=65536, description="size of the character embeddings")] = 300
    tag_embedding: Annotated[int, Field(ge=1, le=65536, description="size of the feature embeddings")] = 200
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's input embeddings")] = 0.0
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's outputs")] = 0.0
    start: Annotated[
        Literal["z", "encoder"],
        Field(description="source of the decoder's initial state: z, or the encoder's last state, which bypasses z"),
    ] = "z"
    feed: Annotated[
        Literal["teacher", "self"],
        Field(
            description="past that the decoder reads in training: the true one (teacher) or its own predictions (self)"
        ),
    ] = "teacher"

    def encoder(self, domain: InflectionDomain, features: Features | None) -> GruEncoder:
        return GruEncoder(self, domain.vocabulary, features)

    def decoder(
        self, domain: InflectionDomain, stream: torch.Generator, options: DecoderOptions
    ) -> GruAttentionDecoder:
        return GruAttentionDecoder(self, domain, stream, options)

    def warnings(self) -> Iterator[str]:
        if self.start == "encoder":
            yield (
                "model.start = encoder lets the decoder read the source directly: nll_iw and ppl measure "
                "p(target|source, features), and accuracy does not show that z is used."
            )
        if self.feed == "self":
            yield (
                "model.feed = self: train_loss and valid_loss are not comparable, because in training the decoder "
                "reads its own predictions."
            )


class GruEncoder(TokenEncoder):
    """Bidirectional GRU encoder: mean and log-variance from the last states of both directions, without dropout.

    Its input is the source enclosed in `<s>` and `</s>`.

    Args:
        config: Sizes.
        vocabulary: Number of tokens.
        features: Additional features, concatenated to the last states.
    """

    def __init__(self, config: GruAttentionModel, vocabulary: int, features: Features | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, config.embedding)
        self.gru = nn.GRU(config.embedding, config.hidden // 2, bidirectional=True)
        state = config.hidden + (features.size if features is not None else 0)
        self.to_latent = nn.Linear(state, 2 * config.latent_dim)
        self.features = features

    def forward(self, batch: TokenBatch) -> Gaussian:
        """Return the encoder's Gaussian, the input of the posterior slot: both parameters [B, Z]."""
        features_BF = None if self.features is None else self.features(batch)
        return self._latent(self.state(batch.read), features_BF)

    def state(self, words: TokenBatch) -> Tensor:
        """Return [last forward state; last backward state] of each sentence, [B, H]; padding is skipped."""
        return self._last(self.embedding(words.tokens_BL.T), words.lengths_B)

    def read(self, words_LBE: Tensor) -> Gaussian:
        assert self.features is None, "additional features can be computed only from words, not from embeddings"
        return self._latent(self._last(words_LBE, None), None)

    def _last(self, words_LBE: Tensor, lengths_B: Tensor | None) -> Tensor:
        packed = words_LBE if lengths_B is None else pack_padded_sequence(words_LBE, lengths_B, enforce_sorted=False)
        last_2BH: Tensor = self.gru(packed)[1]
        return torch.cat([last_2BH[0], last_2BH[1]], 1)

    def _latent(self, state_BH: Tensor, features_BF: Tensor | None) -> Gaussian:
        state_BH = state_BH if features_BF is None else torch.cat([state_BH, features_BF], 1)
        mean, logvar = self.to_latent(state_BH).chunk(2, 1)
        return Gaussian(mean, logvar)


@dataclass(frozen=True)
class GruDecoderState(DecoderState):
    """State of the decoder. Only `hidden_BSH` changes from step to step; everything else is computed once.

    Args:
        hidden_BSH: Hidden state of the GRU.
        z_BSZ: Samples of z.
        fixed_BSG: Contribution of z to the gates.
        keys_BKH: Contribution of each feature to W [h; feature].
        gates_BKG: Contribution of each feature to the gates.
        tags_BKA: Feature embeddings.
        absent_BK: True where an example has fewer than K features.
    """

    hidden_BSH: Tensor
    z_BSZ: Tensor
    fixed_BSG: Tensor
    keys_BKH: Tensor
    gates_BKG: Tensor
    tags_BKA: Tensor
    absent_BK: Tensor

    def select(self, index: Tensor) -> GruDecoderState:
        """Return the state of the examples `index`, in that order; an example can occur several times."""
        return GruDecoderState(**{item.name: getattr(self, item.name)[index] for item in fields(self)})


class GruAttentionDecoder(TokenDecoder):
    """Decoder p(target|z, features) of `GruAttentionModel`.

    The output layer reads [h_t; c_t; 1]; its weights for the 1 are the bias. With `options.skip`, z also enters the
    output layer: `concat` extends its input to [h_t; c_t; 1; z], and `add` replaces [h_t; c_t] by [h_t; c_t] + U z.
    There is no hidden layer between the GRU and the output layer, so `everywhere` changes nothing.
    """

    def __init__(
        self, config: GruAttentionModel, domain: InflectionDomain, stream: torch.Generator, options: DecoderOptions
    ) -> None:
        super().__init__(stream)
        size, tag, latent = config.hidden, config.tag_embedding, config.latent_dim
        self._config, self._skip = config, options.skip
        self._encoder: tuple[GruEncoder, ...] = ()
        self.reader = TokenReader(config.embedding, domain.vocabulary, options)
        self.tag_embedding = nn.Embedding(domain.features, tag)
        self.attention = nn.Linear(size + tag, size)
        self.score = nn.Linear(size, 1, bias=False)
        self.cell = nn.GRUCell(config.embedding + tag + latent, size)
        self.start = nn.Linear(latent, size) if config.start == "z" else None
        concatenated = latent if self._skip is not None and self._skip.kind == "concat" else 0
        self.output = nn.Linear(size + tag + 1 + concatenated, domain.vocabulary, bias=False)
        if self._skip is not None and self._skip.kind == "add":
            self.skip = nn.Linear(latent, size + tag, bias=False)

    def bind(self, encoder: nn.Module) -> None:
        """Keep a reference to the encoder if its last state is the decoder's initial state.

        The tuple prevents PyTorch from registering the encoder as a submodule.
        """
        if self.start is None:
            assert isinstance(encoder, GruEncoder), "the initial state must come from a GRU encoder"
            self._encoder = (encoder,)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        state = self._begin(z_BSZ, history)
        if self.training and self._config.feed == "self":
            return self._features_from_predictions(state, history)
        words_TBG = self._words(history)
        hidden, weights = [], []
        for words_BG in words_TBG:
            state, weights_BSK = self._advance(state, words_BG[:, None])
            hidden.append(state.hidden_BSH)
            weights.append(weights_BSK)
        return self._read_out(state, torch.stack(hidden), torch.stack(weights), self.active_stream())

    def _features_from_predictions(self, state: GruDecoderState, history: History) -> Tensor:
        """Return `features`, but with the argmax of the previous step as input of each step.

        `<unk>` and blanks in the history are kept.
        """
        batch, samples = state.hidden_BSH.shape[:2]
        tokens_BS = history.tokens_BT[:, :1].expand(batch, samples)
        hidden, weights = [], []
        for step in range(history.tokens_BT.shape[1]):
            true_BS = history.tokens_BT[:, step, None].expand(batch, samples)
            read_BS = torch.where(true_BS == UNK, UNK, tokens_BS)
            blank_BS = None if history.blank_BT is None else history.blank_BT[:, step, None].expand(batch, samples)
            state, weights_BSK = self._step(state, read_BS, blank_BS)
            hidden.append(state.hidden_BSH)
            weights.append(weights_BSK)
            tokens_BS = self._logits(state, weights_BSK).argmax(2)
        return self._read_out(state, torch.stack(hidden), torch.stack(weights), self.active_stream())

    # --- step by step -----------------------------------------------------------------------------------------------

    def begin(self, z_RZ: Tensor, context: History | None = None) -> GruDecoderState:
        assert context is not None, "the decoder needs the features as context"
        return self._begin(z_RZ[:, None], context)

    def step(self, state: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        assert isinstance(state, GruDecoderState), "the state must come from this decoder"
        state, weights_RSK = self._step(state, tokens_R[:, None], None)
        return self._logits(state, weights_RSK)[:, 0], state

    def _begin(self, z_BSZ: Tensor, history: History) -> GruDecoderState:
        """Return the state before the first step, for S samples of each of the B examples of `history`."""
        assert isinstance(history, InflectionHistory), "the history must have features"
        size, tag = self._config.hidden, self._config.tag_embedding
        absent_BK = history.tags_BK == ABSENT
        tags_BKA = self.tag_embedding(history.tags_BK.clamp(min=0))
        _, weight_GA, weight_GZ = self._input_weights()
        if self.start is not None:
            hidden_BSH = self.start(z_BSZ).tanh()
        else:
            hidden_BSH = self._encoder[0].state(history.source)[:, None].expand(-1, z_BSZ.shape[1], size)
        return GruDecoderState(
            hidden_BSH,
            z_BSZ,
            functional.linear(z_BSZ, weight_GZ, self.cell.bias_ih),
            functional.linear(tags_BKA, self.attention.weight[:, -tag:], self.attention.bias),
            functional.linear(tags_BKA, weight_GA),
            tags_BKA,
            absent_BK,
        )

    def _step(
        self, state: GruDecoderState, tokens_BS: Tensor, blank_BS: Tensor | None
    ) -> tuple[GruDecoderState, Tensor]:
        blank_R1 = None if blank_BS is None else blank_BS.flatten()[:, None]
        words_1RG = self._words(History(tokens_BS.flatten()[:, None], blank_R1))
        return self._advance(state, words_1RG.view(*tokens_BS.shape, -1))

    def _logits(self, state: GruDecoderState, weights_BSK: Tensor) -> Tensor:
        features_1RF = self._read_out(state, state.hidden_BSH[None], weights_BSK[None], None)
        logits_BSV: Tensor = self.output(features_1RF).view(*weights_BSK.shape[:2], -1)
        return logits_BSV

    def _input_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input weights of the gates for the character, for the features and for z."""
        config = self._config
        sizes = [config.embedding, config.tag_embedding, config.latent_dim]
        weight_GE, weight_GA, weight_GZ = torch.split(self.cell.weight_ih, sizes, 1)
        return weight_GE, weight_GA, weight_GZ

    def _words(self, history: History) -> Tensor:
        """Return the contribution of the characters to the gates, [T, B, G], in one matrix product for all steps."""
        return functional.linear(self.reader(history, self.active_stream()), self._input_weights()[0])

    def _advance(self, state: GruDecoderState, words_BSG: Tensor) -> tuple[GruDecoderState, Tensor]:
        """Return the state after one step of the GRU, and the attention weights [B, S, K] of the features."""
        size, cell, hidden_BSH = self._config.hidden, self.cell, state.hidden_BSH
        query_BSH = functional.linear(hidden_BSH, self.attention.weight[:, :size])
        score_BSK = self.score((query_BSH[:, :, None] + state.keys_BKH[:, None]).tanh())[..., 0]
        weights_BSK = score_BSK.masked_fill(state.absent_BK[:, None], -torch.inf).softmax(2)
        inputs_BSG = words_BSG + state.fixed_BSG + weights_BSK @ state.gates_BKG
        recurrent_BSG = functional.linear(hidden_BSH, cell.weight_hh, cell.bias_hh)
        both = 2 * size
        reset, update = (inputs_BSG[..., :both] + recurrent_BSG[..., :both]).sigmoid().chunk(2, 2)
        new = (inputs_BSG[..., both:] + reset * recurrent_BSG[..., both:]).tanh()
        return replace(state, hidden_BSH=new + update * (hidden_BSH - new)), weights_BSK

    def _read_out(
        self, state: GruDecoderState, hidden_TBSH: Tensor, weights_TBSK: Tensor, stream: torch.Generator | None
    ) -> Tensor:
        """Return the input of the output layer, [T, R, F]."""
        tags_TBSA = weights_TBSK @ state.tags_BKA
        read_TBSF = torch.cat([dropout(hidden_TBSH, self._config.dropout_out, stream), tags_TBSA], 3)
        if self._skip is not None and self._skip.kind == "add":
            read_TBSF = read_TBSF + self.skip(state.z_BSZ)
        pieces = [read_TBSF, read_TBSF.new_ones(*read_TBSF.shape[:3], 1)]
        if self._skip is not None and self._skip.kind == "concat":
            pieces.append(state.z_BSZ.expand(len(read_TBSF), *state.z_BSZ.shape))
        return torch.cat(pieces, 3).flatten(1, 2)
