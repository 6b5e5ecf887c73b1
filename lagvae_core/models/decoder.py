"""Base classes of decoders, and the options with which strategies modify them.

Shape suffixes: T predicted tokens, R = B * S sequences, F features, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from lagvae_core.data import UNK, History, Ragged
from lagvae_core.models.projection import token_nll

__all__ = [
    "Decoder",
    "DecoderOptions",
    "DecoderState",
    "InputDropout",
    "Prefix",
    "RowDropout",
    "Skip",
    "TokenDecoder",
    "TokenReader",
    "UnitDropout",
    "dropout",
    "predicting",
    "with_skip",
]

Past = Literal["seen", "unknown", "absent"]


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Return `x` under inverted dropout, or `x` itself if `generator` is None (evaluation).

    The mask is drawn as 31-bit integers, which takes a third of the time of Bernoulli draws.
    """
    if generator is None or rate == 0.0:
        return x
    draws = torch.empty(x.shape, dtype=torch.int32, device=x.device).random_(generator=generator)
    return x * (draws >= int(rate * 2**31)).to(x.dtype).mul_(1.0 / (1.0 - rate))


class InputDropout(Protocol):
    """Dropout on the decoder's input embeddings during training."""

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        """Return the token embeddings [T, B, E] under dropout; nothing is dropped if `stream` is None (evaluation)."""


@dataclass(frozen=True)
class UnitDropout:
    """Dropout on single units of the input embeddings, with one mask per token."""

    rate: float

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        return dropout(embedding(tokens_TB), self.rate, stream)


@dataclass(frozen=True)
class RowDropout:
    """Dropout on whole rows of the embedding matrix: all occurrences of a dropped word in the batch are dropped."""

    rate: float

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        scale_V1 = dropout(embedding.weight.new_ones(embedding.num_embeddings, 1), self.rate, stream)
        words_TBE: Tensor = embedding(tokens_TB)
        return words_TBE * scale_V1[tokens_TB]


@dataclass(frozen=True)
class Skip:
    """Skip connections of z in the decoder: to the output layer and, if `everywhere`, to every hidden layer."""

    kind: Literal["concat", "add"] = "concat"
    everywhere: bool = True


@dataclass(frozen=True)
class DecoderOptions:
    """Modifications of a decoder that strategies can request.

    Args:
        input_dropout: Dropout on the input embeddings.
        past: What the decoder reads at each position. `seen`: the previous token; `unknown`: `<unk>` in place of every
            token; `absent`: one learned vector. `unknown` and `absent` are part of the model and apply in evaluation
            too.
        skip: Skip connections of z; None for none.
    """

    input_dropout: InputDropout = field(default_factory=lambda: UnitDropout(0.0))
    past: Past = "seen"
    skip: Skip | None = None


def with_skip(hidden_TRF: Tensor, z_RZ: Tensor, skip: Skip | None, linear: nn.Module | None) -> Tensor:
    """Return the input of an output layer that reads z: [h; z] for `concat`, h + U z for `add`, or h alone.

    Args:
        hidden_TRF: The h of the decoder.
        z_RZ: One z per sequence.
        skip: Skip connection; None for none.
        linear: The map U of `add`.
    """
    if skip is None:
        return hidden_TRF
    if skip.kind == "concat":
        return torch.cat([hidden_TRF, z_RZ.expand(len(hidden_TRF), -1, -1)], 2)
    assert linear is not None, "an added skip connection has a map of z"
    added_RF: Tensor = linear(z_RZ)
    return hidden_TRF + added_RF


class TokenReader(nn.Module):
    """Map from a history to the decoder's input vectors [T, B, E]: embeddings under dropout."""

    def __init__(self, size: int, vocabulary: int, options: DecoderOptions) -> None:
        super().__init__()
        self._options = options
        self.embedding = nn.Embedding(1 if options.past == "absent" else vocabulary, size)

    def forward(self, history: History, stream: torch.Generator | None) -> Tensor:
        tokens_TB = history.tokens_BT.T
        if self._options.past == "unknown":
            tokens_TB = torch.full_like(tokens_TB, UNK)
        elif self._options.past == "absent":
            tokens_TB = torch.zeros_like(tokens_TB)
        words_TBE = self._options.input_dropout(self.embedding, tokens_TB, stream)
        if history.blank_BT is not None:
            words_TBE = words_TBE.masked_fill(history.blank_BT.T[:, :, None], 0.0)
        return words_TBE


class Decoder(nn.Module, ABC):
    """p(x|z). In decoders of words and pixels, each of them is conditioned on the previous ones.

    Args:
        stream: Random generator of all dropout in the decoder.
    """

    def __init__(self, stream: torch.Generator) -> None:
        super().__init__()
        self._stream = stream

    def bind(self, encoder: nn.Module) -> None:
        """Attach the encoder, for decoders that read more than z from it; called once, when the model is built."""

    @abstractmethod
    def forward(self, history: Any, targets: Any, z_BSZ: Tensor) -> Tensor:
        """Return -log p(targets | history, z), summed over tokens, pixels or features, [B, S] [nats].

        Args:
            history: The history of a batch, possibly corrupted.
            targets: The targets of the same batch.
            z_BSZ: S samples of z per example.
        """

    def active_stream(self) -> torch.Generator | None:
        """Return the random generator of dropout in train mode, and None in eval mode."""
        return self._stream if self.training else None


class DecoderState(ABC):
    """State of a decoder that reads R sequences token by token."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Return the state of the sequences `index`, in that order; a sequence can occur several times."""


@dataclass(frozen=True, eq=False)
class Prefix(DecoderState):
    """State that consists of z and all tokens read so far. Any decoder can continue from it."""

    z_RZ: Tensor
    history: History

    def select(self, index: Tensor) -> Prefix:
        return Prefix(self.z_RZ[index], self.history.select(index))


class TokenDecoder(Decoder):
    """p(x|z) over token sequences: features of each position, followed by one bias-free output layer.

    A subclass defines `output` (a bias-free linear layer from F to V) and `features`. `begin` and `step` compute the
    same distributions token by token. By default they recompute the features of all tokens read so far, which is exact
    for every decoder but quadratic in T. A subclass with a recurrent state overrides both.
    """

    output: nn.Linear

    @abstractmethod
    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        """Return the input of the output layer, [T, R, F].

        Position t depends only on z and on the history up to t. The S samples of an example share the input embeddings
        and therefore the dropout mask on them.
        """

    def forward(self, history: History, targets: Tensor | Ragged, z_BSZ: Tensor) -> Tensor:
        return self.nll(self.features(history, z_BSZ), targets)

    def begin(self, z_RZ: Tensor, context: History | None = None) -> DecoderState:
        """Return the state of R sequences before any token, including `<s>`, is read.

        Args:
            z_RZ: One z per sequence.
            context: Inputs of the decoder other than z and previous tokens: a history without tokens, such as
                `batch.history.unread()`, with R rows. None for a decoder that has no other input.
        """
        empty_R0 = torch.empty(len(z_RZ), 0, dtype=torch.int64, device=z_RZ.device)
        return Prefix(z_RZ, History(empty_R0) if context is None else context)

    def step(self, state: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        """Read one more token of each sequence.

        Returns:
            The logits [R, V] of the next token, and the new state.
        """
        assert isinstance(state, Prefix), "the state must come from this decoder"
        state = Prefix(state.z_RZ, state.history.then(tokens_R))
        features_TRF = self.features(state.history, state.z_RZ[:, None])
        return self.output(features_TRF[-1]), state

    def nll(self, features_TRF: Tensor, targets: Tensor | Ragged) -> Tensor:
        """Return -log p(targets | features), summed over tokens, [B, S] [nats].

        In padded batches, positions that predict padding are skipped.
        """
        if isinstance(targets, Ragged):
            return self._nll_of_ragged(features_TRF, targets)
        (batch, steps), rows = targets.shape, features_TRF.shape[1]
        samples = rows // batch
        targets_TBS = targets.T[:, :, None].expand(steps, batch, samples)
        nll_N = token_nll(features_TRF.flatten(0, 1), self.output.weight, targets_TBS.flatten())
        return nll_N.view(steps, batch, samples).sum(0)

    def _nll_of_ragged(self, features_TRF: Tensor, targets: Ragged) -> Tensor:
        batch, rows = len(targets.tokens_BT), features_TRF.shape[1]
        samples = rows // batch
        targets_NS = targets.tokens_BT.T.flatten()[targets.kept_N, None].expand(-1, samples)
        nll_N = token_nll(predicting(features_TRF, targets), self.output.weight, targets_NS.flatten())
        total_BS = nll_N.new_zeros(batch, samples)
        return total_BS.index_add(0, targets.kept_N % batch, nll_N.view(-1, samples))


def predicting(features_TRF: Tensor, targets: Tensor | Ragged) -> Tensor:
    """Return the features [N * S, F] of the N positions that predict a token, padding excluded."""
    if not isinstance(targets, Ragged):
        return features_TRF.flatten(0, 1)
    batch, size = len(targets.tokens_BT), features_TRF.shape[2]
    return features_TRF.reshape(-1, features_TRF.shape[1] // batch, size)[targets.kept_N].flatten(0, 1)
