"""GRU encoder, and GRU decoder with attention over morphological features (the blog post on the strong generator).

Shape suffixes: T predicted characters, S samples of each of B examples, K features of an example, A feature embedding,
H hidden units of the decoder, G = 3 H gates in torch's order (reset, update, new).
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
from lagvae_core.models.model_config import Features, TokenEncoder, TokenModel

__all__ = ["GruAttentionDecoder", "GruAttentionModel", "GruDecoderState", "GruEncoder"]


class GruAttentionModel(TokenModel):
    """Reinflection: q(z|source) by a bidirectional GRU, p(target|z, features) by a GRU that attends to the features.

    Source: the blog post "Posterior collapse and the strong generator problem"; sizes and attention are those of its
    code. At each step the decoder scores the features that are on, v . tanh(W [h_(t-1); feature]), reads the embedded
    character before, their weighted mean c_t and z, and predicts from [h_t; c_t]. Its start state is tanh(U z + b).

    - Mean and log-variance are linear. In that code both pass a ReLU, so that no mean is negative and no variance below
      1; it also takes the mean in the place of a sample, and exp(logvar) for the deviation.
    - That code attends to the rows of absent features too, which are zero; here they get no weight.
    - The post calls the decoder bidirectional. One that writes from left to right cannot be, and the code's is not.
    - `start` `encoder`, as in that code, gives the decoder the encoder's last state in the place of tanh(U z + b): a
      path around z, for ablation alone. What is measured then is p(target|source, features), and z may be idle at any
      accuracy: never compare its `nll_iw` with that of `start` `z`.
    - `feed` `self`, as in that code, lets the decoder read in training what it would write (its argmax, without
      gradient) in the place of the true past. Characters that a strategy drops stay dropped. Validation and
      measurement read the true past, as a likelihood must. Dropout of whole embeddings then draws at each step.
    - Layers start as torch's do: those of a GRU from U(-1, 1) / sqrt(hidden), other weights and biases from U(-1, 1) /
      sqrt(inputs), embeddings from N(0, 1). No dropout by default; `dropout_out` falls on h_t alone.
    """

    data_kinds: ClassVar[frozenset[str]] = frozenset({"reinflection"})

    kind: Literal["gru_attention"] = "gru_attention"
    latent_dim: Annotated[int, Field(ge=1, le=4096, description="dimensions of z")] = 150
    hidden: Annotated[
        int,
        Field(ge=2, le=65536, multiple_of=2, description="units of the decoder; the encoder has half of them each way"),
    ] = 512
    embedding: Annotated[int, Field(ge=1, le=65536, description="size of the character embeddings")] = 300
    tag_embedding: Annotated[int, Field(ge=1, le=65536, description="size of the feature embeddings")] = 200
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's embeddings")] = 0.0
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's outputs")] = 0.0
    start: Annotated[
        Literal["z", "encoder"], Field(description="what the decoder starts from; encoder: a path around z")
    ] = "z"
    feed: Annotated[
        Literal["teacher", "self"], Field(description="the past that the decoder reads in training: true, or its own")
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
                "model.start = encoder gives the decoder the source beside z: nll_iw and ppl are of p(target|source, "
                "features), and accuracy does not show use of z."
            )
        if self.feed == "self":
            yield "model.feed = self: train_loss is of a decoder that reads its own characters, valid_loss is not."


class GruEncoder(TokenEncoder):
    """Mean and log-variance from the last states of both directions after reading <s> source </s>; no dropout.

    `features`, if there are any, are concatenated to these.
    """

    def __init__(self, setting: GruAttentionModel, vocabulary: int, features: Features | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, setting.embedding)
        self.gru = nn.GRU(setting.embedding, setting.hidden // 2, bidirectional=True)
        state = setting.hidden + (features.size if features is not None else 0)
        self.to_latent = nn.Linear(state, 2 * setting.latent_dim)
        self.features = features

    def forward(self, batch: TokenBatch) -> Gaussian:
        """q(z|source) before the posterior slot: both parameters [B, Z]."""
        further = None if self.features is None else self.features(batch)
        return self._latent(self.state(batch.read), further)

    def state(self, words: TokenBatch) -> Tensor:
        """[last state forward; last state backward] of each sentence, [B, H]; padding is not read."""
        return self._last(self.embedding(words.tokens_BL.T), words.lengths_B)

    def read(self, words_LBE: Tensor) -> Gaussian:
        assert self.features is None, "embedded sentences have no words that features could be of"
        return self._latent(self._last(words_LBE, None), None)

    def _last(self, words_LBE: Tensor, lengths_B: Tensor | None) -> Tensor:
        packed = words_LBE if lengths_B is None else pack_padded_sequence(words_LBE, lengths_B, enforce_sorted=False)
        last_2BH: Tensor = self.gru(packed)[1]
        return torch.cat([last_2BH[0], last_2BH[1]], 1)

    def _latent(self, state_BH: Tensor, further_BF: Tensor | None) -> Gaussian:
        state_BH = state_BH if further_BF is None else torch.cat([state_BH, further_BF], 1)
        mean, logvar = self.to_latent(state_BH).chunk(2, 1)
        return Gaussian(mean, logvar)


@dataclass(frozen=True)
class GruDecoderState(DecoderState):
    """Where decoding stands: `hidden_BSH` changes with each step; the rest is what no step changes.

    `fixed_BSG`: what z adds to the gates. `keys_BKH`: the features in W [h; feature], `gates_BKG`: in the gates,
    `tags_BKA`: as they are; where `absent_BK`, there is none.
    """

    hidden_BSH: Tensor
    z_BSZ: Tensor
    fixed_BSG: Tensor
    keys_BKH: Tensor
    gates_BKG: Tensor
    tags_BKA: Tensor
    absent_BK: Tensor

    def select(self, index: Tensor) -> GruDecoderState:
        """The examples `index`, in that order; one may be there several times."""
        return GruDecoderState(**{entry.name: getattr(self, entry.name)[index] for entry in fields(self)})


class GruAttentionDecoder(TokenDecoder):
    """p(target|z, features): see `GruAttentionModel`.

    The output layer reads [h_t; c_t; 1]: its last column is the bias. With `wiring.skip`, z also reaches the output
    layer: `concat`, [h_t; c_t; 1; z]; `add`, [h_t; c_t] + U z. There is no layer between, so that `everywhere` adds
    nothing here.
    """

    def __init__(
        self, setting: GruAttentionModel, domain: InflectionDomain, stream: torch.Generator, options: DecoderOptions
    ) -> None:
        super().__init__(stream)
        size, tag, latent = setting.hidden, setting.tag_embedding, setting.latent_dim
        self._setting, self._skip = setting, options.skip
        self._encoder: tuple[GruEncoder, ...] = ()
        self.reader = TokenReader(setting.embedding, domain.vocabulary, options)
        self.tag_embedding = nn.Embedding(domain.features, tag)
        self.attention = nn.Linear(size + tag, size)
        self.score = nn.Linear(size, 1, bias=False)
        self.cell = nn.GRUCell(setting.embedding + tag + latent, size)
        self.start = nn.Linear(latent, size) if setting.start == "z" else None
        concatenated = latent if self._skip is not None and self._skip.kind == "concat" else 0
        self.output = nn.Linear(size + tag + 1 + concatenated, domain.vocabulary, bias=False)
        if self._skip is not None and self._skip.kind == "add":
            self.skip = nn.Linear(latent, size + tag, bias=False)

    def bind(self, encoder: nn.Module) -> None:
        """Know the encoder, without owning its parameters, where its last state is the decoder's first."""
        if self.start is None:
            assert isinstance(encoder, GruEncoder), "the start state is that of a GRU"
            self._encoder = (encoder,)

    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        state = self._begin(z_BSZ, history)
        if self.training and self._setting.feed == "self":
            return self._features_of_own(state, history)
        words_TBG = self._words(history)
        hidden, weights = [], []
        for words_BG in words_TBG:
            state, weights_BSK = self._advance(state, words_BG[:, None])
            hidden.append(state.hidden_BSH)
            weights.append(weights_BSK)
        return self._read_out(state, torch.stack(hidden), torch.stack(weights), self.active_stream())

    def _features_of_own(self, state: GruDecoderState, history: History) -> Tensor:
        """The same where what is read at a step is the argmax of the step before; `<unk>` and blanks stay."""
        batch, samples = state.hidden_BSH.shape[:2]
        tokens_BS = history.tokens_BT[:, :1].expand(batch, samples)
        hidden, weights = [], []
        for step in range(history.tokens_BT.shape[1]):
            given_BS = history.tokens_BT[:, step, None].expand(batch, samples)
            read_BS = torch.where(given_BS == UNK, UNK, tokens_BS)
            blank_BS = None if history.blank_BT is None else history.blank_BT[:, step, None].expand(batch, samples)
            state, weights_BSK = self._step(state, read_BS, blank_BS)
            hidden.append(state.hidden_BSH)
            weights.append(weights_BSK)
            tokens_BS = self._logits(state, weights_BSK).argmax(2)
        return self._read_out(state, torch.stack(hidden), torch.stack(weights), self.active_stream())

    # --- step by step -----------------------------------------------------------------------------------------------

    def begin(self, z_RZ: Tensor, context: History | None = None) -> GruDecoderState:
        assert context is not None, "nothing can be inflected without features"
        return self._begin(z_RZ[:, None], context)

    def step(self, reading: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        assert isinstance(reading, GruDecoderState), "a reading that this decoder began"
        state, weights_RSK = self._step(reading, tokens_R[:, None], None)
        return self._logits(state, weights_RSK)[:, 0], state

    def _begin(self, z_BSZ: Tensor, history: History) -> GruDecoderState:
        """Before the first step, for S samples of each of the B examples of `history`."""
        assert isinstance(history, InflectionHistory), "a history with features"
        size, tag = self._setting.hidden, self._setting.tag_embedding
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
        """The parts of the gates' input weights that meet the character, the features and z."""
        setting = self._setting
        sizes = [setting.embedding, setting.tag_embedding, setting.latent_dim]
        weight_GE, weight_GA, weight_GZ = torch.split(self.cell.weight_ih, sizes, 1)
        return weight_GE, weight_GA, weight_GZ

    def _words(self, history: History) -> Tensor:
        """What the characters add to the gates, [T, B, G]: one product over all steps."""
        return functional.linear(self.reader(history, self.active_stream()), self._input_weights()[0])

    def _advance(self, state: GruDecoderState, words_BSG: Tensor) -> tuple[GruDecoderState, Tensor]:
        """One step of the GRU, and the weights [B, S, K] of the features in it."""
        size, cell, hidden_BSH = self._setting.hidden, self.cell, state.hidden_BSH
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
        """What the output layer reads, [T, R, F]."""
        tags_TBSA = weights_TBSK @ state.tags_BKA
        read_TBSF = torch.cat([dropout(hidden_TBSH, self._setting.dropout_out, stream), tags_TBSA], 3)
        if self._skip is not None and self._skip.kind == "add":
            read_TBSF = read_TBSF + self.skip(state.z_BSZ)
        pieces = [read_TBSF, read_TBSF.new_ones(*read_TBSF.shape[:3], 1)]
        if self._skip is not None and self._skip.kind == "concat":
            pieces.append(state.z_BSZ.expand(len(read_TBSF), *state.z_BSZ.shape))
        return torch.cat(pieces, 3).flatten(1, 2)
