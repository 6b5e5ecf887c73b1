"""Generation of sentences from z: greedy search, ancestral sampling and beam search.

No method emits `<pad>` or `<s>`. They are never targets in training, so their probability under a trained model is
negligible. Greedy search and beam search exclude them without renormalising, and therefore rank sentences by the same
log p(x|z) as the likelihood columns. Sampling renormalises at each step. `<unk>` is an ordinary word.

Shape suffixes: R sequences, K beams, V vocabulary, T predicted tokens including `</s>`, C candidates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lagvae_core.data import BOS, EOS, PAD, History
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.randomness import example_noise

__all__ = ["Beam", "Decoded", "DecodingMethod", "Greedy", "Sampling", "decode_all"]

SEQUENCES = 256
"""Largest number of sequences per decoder pass; each beam is a sequence."""


@dataclass(frozen=True)
class Decoded:
    """One generated sentence.

    Args:
        words: Word ids without special tokens.
        ended: Whether the sentence ended with `</s>`; otherwise it was truncated.
        log_p: log p(x|z), including `</s>` if there is one [nats, float64].
    """

    words: tuple[int, ...]
    ended: bool
    log_p: float


class DecodingMethod(Protocol):
    """A method of generating sentences from z."""

    @property
    def width(self) -> int:
        """Number of decoder sequences per sentence."""

    @abstractmethod
    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        """Return one sentence per row of z; rows do not affect each other.

        Args:
            decoder: A decoder in eval mode.
            z_RZ: One z per sentence.
            index_R: Indices of the examples, which determine the random draws.
            context: Additional inputs of the decoder; see `TokenDecoder.begin`.
        """


@dataclass(frozen=True)
class Greedy(DecodingMethod):
    """Greedy search: the most likely word at each step, until `</s>` or `max_length` tokens."""

    max_length: int
    width: ClassVar[int] = 1

    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        return _generate(decoder, z_RZ, context, self.max_length, lambda step, logits_RV: logits_RV.argmax(1))


@dataclass(frozen=True)
class Sampling(DecodingMethod):
    """Ancestral sampling from softmax(logits / temperature) over the words that can be emitted.

    Each step inverts the cumulative distribution at a uniform random number. The random numbers of a sentence depend
    only on `seed`, `purpose` and the index of its example.
    """

    max_length: int
    seed: int
    temperature: float = 1.0
    purpose: str = "decoding"
    width: ClassVar[int] = 1

    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        noise_RT = example_noise(self.seed, self.purpose, index_R, 1, self.max_length)[:, 0]
        uniform_RT = torch.special.ndtr(noise_RT.double()).to(z_RZ.device)

        def choose(step: int, logits_RV: Tensor) -> Tensor:
            total_RV = (logits_RV.double() / self.temperature).softmax(1).cumsum(1)
            return torch.searchsorted(total_RV, uniform_RT[:, step, None] * total_RV[:, -1:], right=True)[:, 0]

        return _generate(decoder, z_RZ, context, self.max_length, choose)


@torch.no_grad()
def _generate(
    decoder: TokenDecoder,
    z_RZ: Tensor,
    context: History | None,
    max_length: int,
    choose: Callable[[int, Tensor], Tensor],
) -> list[Decoded]:
    """Generate word by word; `choose` maps the step and the masked logits [R, V] to the next words [R]."""
    assert not decoder.training, "the decoder must be in eval mode"
    state = decoder.begin(z_RZ, context)
    last_R = torch.full((len(z_RZ),), BOS, device=z_RZ.device)
    ended_R = torch.zeros_like(last_R, dtype=torch.bool)
    log_p_R = torch.zeros(len(z_RZ), dtype=torch.float64, device=z_RZ.device)
    tokens = []
    for step in range(max_length):
        logits_RV, state = decoder.step(state, last_R)
        normaliser_R = logits_RV.logsumexp(1).double()
        chosen_R = choose(step, _allowed(logits_RV))
        last_R = torch.where(ended_R, EOS, chosen_R)
        step_log_p_R = logits_RV.gather(1, chosen_R[:, None])[:, 0].double() - normaliser_R
        log_p_R += step_log_p_R.masked_fill(ended_R, 0.0)
        ended_R = last_R == EOS
        tokens.append(last_R)
        if bool(ended_R.all()):
            break
    return _sentences(torch.stack(tokens, 1), log_p_R)


def _allowed(logits_RV: Tensor) -> Tensor:
    """Return the logits with -inf for tokens that are never emitted."""
    allowed_RV = logits_RV.clone()
    allowed_RV[:, [PAD, BOS]] = -torch.inf
    return allowed_RV


def _sentences(tokens_RT: Tensor, log_p_R: Tensor) -> list[Decoded]:
    sentences = []
    for tokens, log_p in zip(tokens_RT.tolist(), log_p_R.tolist(), strict=True):
        ended = EOS in tokens
        sentences.append(Decoded(tuple(tokens[: tokens.index(EOS)] if ended else tokens), ended, log_p))
    return sentences


@dataclass(frozen=True)
class Beam(DecodingMethod):
    """Beam search: each step keeps the `width` best continuations of the `width` best prefixes.

    Sentences are ranked by log p(x|z), as in the reference code of He et al. 2019. This ranking favours short
    sentences. With `length_normalised` they are ranked by log p(x|z) divided by the number of tokens, including `</s>`.

    Departure from the code of He et al.: in their code a finished sentence leaves the beam, which becomes narrower. In
    this code a finished sentence stays in the beam, with itself as its only continuation, and can be displaced by
    better prefixes. Width 1 is therefore greedy search, and a beam wide enough for all prefixes finds the most likely
    sentence of at most `max_length` tokens.
    """

    max_length: int
    width: int = 5
    length_normalised: bool = False

    @torch.no_grad()
    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        assert not decoder.training, "the decoder must be in eval mode"
        rows, width = len(z_RZ), self.width
        first_R1 = width * torch.arange(rows, device=z_RZ.device)[:, None]
        state = decoder.begin(z_RZ, context).select((first_R1 // width).expand(rows, width).flatten())
        prefixes = _Prefixes.empty(rows, width, z_RZ.device)
        for _ in range(self.max_length):
            logits_NV, state = decoder.step(state, prefixes.last_RK.flatten())
            prefixes, parent_RK = prefixes.extend(logits_NV, self.length_normalised)
            if prefixes.is_final(self.length_normalised):
                break
            state = state.select((first_R1 + parent_RK).flatten())
        return prefixes.best()


@dataclass(frozen=True, eq=False)
class _Prefixes:
    """The K best prefixes of each sentence, best first.

    Args:
        tokens_RKT: Tokens so far.
        log_p_RK: Log-probability, float64; -inf if a sentence has fewer than K prefixes.
        ended_RK: Whether the prefix has ended with `</s>`.
        length_RK: Number of tokens, including `</s>`.
    """

    tokens_RKT: Tensor
    log_p_RK: Tensor
    ended_RK: Tensor
    length_RK: Tensor

    @classmethod
    def empty(cls, rows: int, width: int, device: torch.device) -> _Prefixes:
        """Return one empty prefix per sentence."""
        log_p_RK = torch.full((rows, width), -torch.inf, dtype=torch.float64, device=device)
        log_p_RK[:, 0] = 0.0
        length_RK = torch.zeros(rows, width, dtype=torch.int64, device=device)
        return cls(length_RK[:, :, None][:, :, :0], log_p_RK, length_RK.bool(), length_RK)

    @property
    def last_RK(self) -> Tensor:
        """The next inputs of the decoder."""
        if not self.tokens_RKT.shape[2]:
            return torch.full_like(self.length_RK, BOS)
        return self.tokens_RKT[:, :, -1]

    def extend(self, logits_NV: Tensor, length_normalised: bool) -> tuple[_Prefixes, Tensor]:
        """Return the best prefixes with one more token, and the indices [R, K] of the prefixes that they extend."""
        rows, width = self.log_p_RK.shape
        logit_NC, token_NC = _allowed(logits_NV).topk(min(width, logits_NV.shape[1]), 1)
        step_log_p_RKC = (logit_NC.double() - logits_NV.logsumexp(1, keepdim=True).double()).view(rows, width, -1)
        token_RKC = token_NC.view(rows, width, -1)
        # A finished sentence has one continuation, itself.
        step_log_p_RKC = step_log_p_RKC.masked_fill(self.ended_RK[:, :, None], -torch.inf)
        step_log_p_RKC[:, :, 0].masked_fill_(self.ended_RK, 0.0)
        token_RKC = token_RKC.masked_fill(self.ended_RK[:, :, None], EOS)
        log_p_RKC = self.log_p_RK[:, :, None] + step_log_p_RKC
        length_RK = self.length_RK + ~self.ended_RK
        score_RKC = log_p_RKC / length_RK[:, :, None] if length_normalised else log_p_RKC
        best_RK = score_RKC.flatten(1).topk(width, 1).indices
        parent_RK = best_RK // token_RKC.shape[2]
        last_RK = token_RKC.flatten(1).gather(1, best_RK)
        parent_RKT = self.tokens_RKT.gather(1, parent_RK[:, :, None].expand(-1, -1, self.tokens_RKT.shape[2]))
        tokens_RKT = torch.cat([parent_RKT, last_RK[:, :, None]], 2)
        log_p_RK = log_p_RKC.flatten(1).gather(1, best_RK)
        return _Prefixes(tokens_RKT, log_p_RK, last_RK == EOS, length_RK.gather(1, parent_RK)), parent_RK

    def is_final(self, length_normalised: bool) -> bool:
        """Return whether no later step can change the best sentence of any row.

        log p can only decrease, so the best prefix must have ended. log p divided by the length can increase, so all
        prefixes must have ended.
        """
        over_RK = self.ended_RK | self.log_p_RK.isneginf()
        return bool((over_RK if length_normalised else over_RK[:, :1]).all())

    def best(self) -> list[Decoded]:
        return _sentences(self.tokens_RKT[:, 0], self.log_p_RK[:, 0])


def decode_all(
    method: DecodingMethod,
    decoder: TokenDecoder,
    z_NZ: Tensor,
    index_N: Tensor,
    context: History | None = None,
    *,
    progress: Callable[[int], None] = lambda sentences: None,
) -> list[Decoded]:
    """Return one sentence per row of z, generated in blocks to limit memory use.

    Args:
        method: The decoding method.
        decoder: A decoder in eval mode.
        z_NZ: One z per sentence.
        index_N: Indices of the examples, which determine the random draws.
        context: Additional inputs of the decoder; see `TokenDecoder.begin`.
        progress: Called with the number of finished sentences.
    """
    sentences: list[Decoded] = []
    size = max(1, SEQUENCES // method.width)
    for first in range(0, len(z_NZ), size):
        rows = torch.arange(first, min(first + size, len(z_NZ)))
        block_context = None if context is None else context.select(rows.to(z_NZ.device))
        sentences += method(decoder, z_NZ[first : first + size], index_N[rows], block_context)
        progress(len(sentences))
    return sentences
