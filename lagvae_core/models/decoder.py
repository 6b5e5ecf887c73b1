"""What every decoder is, and what strategies may change around its core.

Shape suffixes: T predicted tokens, R = B * S sequences, F features, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from typing import Protocol as Interface

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
]

Past = Literal["seen", "unknown", "absent"]


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Inverted dropout from a stream of its own; without a generator (evaluation) x itself.

    The mask comes from 31-bit integers, a third of the cost of Bernoulli draws.
    """
    if generator is None or rate == 0.0:
        return x
    draws = torch.empty(x.shape, dtype=torch.int32, device=x.device).random_(generator=generator)
    return x * (draws >= int(rate * 2**31)).to(x.dtype).mul_(1.0 / (1.0 - rate))


class InputDropout(Interface):
    """What is dropped of the input embeddings in training."""

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        """The embeddings [T, B, E] of the tokens; without a stream (evaluation) nothing is dropped."""


@dataclass(frozen=True)
class UnitDropout:
    """Dropout on single units of the input embeddings, one mask for each token."""

    rate: float

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        return dropout(embedding(tokens_TB), self.rate, stream)


@dataclass(frozen=True)
class RowDropout:
    """Dropout on whole rows of the embedding matrix: a word is dropped wherever it stands in the batch."""

    rate: float

    def __call__(self, embedding: nn.Embedding, tokens_TB: Tensor, stream: torch.Generator | None) -> Tensor:
        kept_V1 = dropout(embedding.weight.new_ones(embedding.num_embeddings, 1), self.rate, stream)
        words_TBE: Tensor = embedding(tokens_TB)
        return words_TBE * kept_V1[tokens_TB]


@dataclass(frozen=True)
class Skip:
    """Further paths of z through the decoder: to the output layer, and to all layers between if `everywhere`."""

    kind: Literal["concat", "add"] = "concat"
    everywhere: bool = True


@dataclass(frozen=True)
class DecoderOptions:
    """What strategies change around the core of a decoder.

    `past`: `seen`, the decoder reads the tokens before; `unknown`, it reads `<unk>` in the place of each; `absent`, it
    reads one learned vector. The latter two are part of the model and hold in evaluation too.
    """

    input_dropout: InputDropout = field(default_factory=lambda: UnitDropout(0.0))
    past: Past = "seen"
    skip: Skip | None = None


class TokenReader(nn.Module):
    """History -> input vectors [T, B, E] of the decoder: embeddings under their dropout."""

    def __init__(self, size: int, vocabulary: int, options: DecoderOptions) -> None:
        super().__init__()
        self._wiring = options
        self.embedding = nn.Embedding(1 if options.past == "absent" else vocabulary, size)

    def forward(self, history: History, stream: torch.Generator | None) -> Tensor:
        tokens_TB = history.tokens_BT.T
        if self._wiring.past == "unknown":
            tokens_TB = torch.full_like(tokens_TB, UNK)
        elif self._wiring.past == "absent":
            tokens_TB = torch.zeros_like(tokens_TB)
        words_TBE = self._wiring.input_dropout(self.embedding, tokens_TB, stream)
        if history.blank_BT is not None:
            words_TBE = words_TBE.masked_fill(history.blank_BT.T[:, :, None], 0.0)
        return words_TBE


class Decoder(nn.Module, ABC):
    """p(x|z), each unit given those before it. `stream` feeds all its dropout."""

    def __init__(self, stream: torch.Generator) -> None:
        super().__init__()
        self._stream = stream

    def bind(self, encoder: nn.Module) -> None:
        """Called once when the model is built, for a decoder that reads more of the encoder than z."""

    @abstractmethod
    def forward(self, history: Any, targets: Any, z_BSZ: Tensor) -> Tensor:
        """-log p(targets | history, z) in nats, summed over tokens or pixels, [B, S].

        `history` and `targets` are those of a batch, the former perhaps corrupted.
        """

    def active_stream(self) -> torch.Generator | None:
        return self._stream if self.training else None


class DecoderState(ABC):
    """What a decoder keeps of R sequences that it reads token by token."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """The sequences `index`, in that order; one may be there several times."""


@dataclass(frozen=True, eq=False)
class Prefix(DecoderState):
    """All that was read, from which any decoder can go on."""

    z_RZ: Tensor
    history: History

    def select(self, index: Tensor) -> Prefix:
        return Prefix(self.z_RZ[index], self.history.select(index))


class TokenDecoder(Decoder):
    """p(x|z) over sequences of tokens: features of each position, then one bias-free output layer.

    A subclass makes `output` (a bias-free linear layer, F to V) and `features`. `begin` and `step` give the same
    distributions token by token; they recompute the features of all that was read, which is exact for every decoder
    and quadratic in T. A subclass that can carry a state of its own overrides both.
    """

    output: nn.Linear

    @abstractmethod
    def features(self, history: History, z_BSZ: Tensor) -> Tensor:
        """What the output layer reads, [T, R, F]; position t depends on the history up to t, on z and on nothing else.

        The S samples of an example share one dropout mask on their embeddings, as they share the embeddings.
        """

    def forward(self, history: History, targets: Tensor | Ragged, z_BSZ: Tensor) -> Tensor:
        return self.nll(self.features(history, z_BSZ), targets)

    def begin(self, z_RZ: Tensor, context: History | None = None) -> DecoderState:
        """R sequences of which nothing is read yet, not even `<s>`.

        `context` is what the decoder sees beside z and its own past: a history without tokens, such as
        `batch.history.unread()`, with R rows. None where the past is all.
        """
        nothing_R0 = torch.empty(len(z_RZ), 0, dtype=torch.int64, device=z_RZ.device)
        return Prefix(z_RZ, History(nothing_R0) if context is None else context)

    def step(self, reading: DecoderState, tokens_R: Tensor) -> tuple[Tensor, DecoderState]:
        """Read one token more of each sequence: the logits [R, V] of the next, and what is kept now."""
        assert isinstance(reading, Prefix), "a reading that this decoder began"
        reading = Prefix(reading.z_RZ, reading.history.then(tokens_R))
        features_TRF = self.features(reading.history, reading.z_RZ[:, None])
        return self.output(features_TRF[-1]), reading

    def nll(self, features_TRF: Tensor, targets: Tensor | Ragged) -> Tensor:
        """The same from `features`; of padded sentences no feature meets the output layer that predicts nothing."""
        if isinstance(targets, Ragged):
            return self._nll_of_kept(features_TRF, targets)
        (batch, steps), rows = targets.shape, features_TRF.shape[1]
        samples = rows // batch
        targets_TBS = targets.T[:, :, None].expand(steps, batch, samples)
        nll_N = token_nll(features_TRF.flatten(0, 1), self.output.weight, targets_TBS.flatten())
        return nll_N.view(steps, batch, samples).sum(0)

    def _nll_of_kept(self, features_TRF: Tensor, targets: Ragged) -> Tensor:
        batch, rows = len(targets.tokens_BT), features_TRF.shape[1]
        samples = rows // batch
        targets_NS = targets.tokens_BT.T.flatten()[targets.kept_N, None].expand(-1, samples)
        nll_N = token_nll(predicting(features_TRF, targets), self.output.weight, targets_NS.flatten())
        total_BS = nll_N.new_zeros(batch, samples)
        return total_BS.index_add(0, targets.kept_N % batch, nll_N.view(-1, samples))


def predicting(features_TRF: Tensor, targets: Tensor | Ragged) -> Tensor:
    """The features [N * S, F] of the positions that predict something."""
    if not isinstance(targets, Ragged):
        return features_TRF.flatten(0, 1)
    batch, size = len(targets.tokens_BT), features_TRF.shape[2]
    return features_TRF.reshape(-1, features_TRF.shape[1] // batch, size)[targets.kept_N].flatten(0, 1)
