"""Sentences out of z: greedy, sampled, or by beam search.

No method emits `<pad>` or `<s>`. Training never shows them as targets, so that what a model gives them is next to
nothing; greedy and beam search leave them out without renormalising, and so rank by the model's own log p(x|z), the one
that the likelihood columns use. Sampling has to renormalise at each step. `<unk>` is a word like others.

Shape suffixes: R sequences, K beams, V vocabulary, T predicted tokens, `</s>` among them, C candidates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar
from typing import Protocol as Interface

import torch
from torch import Tensor

from lagvae_core.data import BOS, EOS, PAD, History
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.randomness import example_noise

__all__ = ["Beam", "Decoded", "DecodingMethod", "Greedy", "Sampling", "decode_all"]

SEQUENCES = 256
"""Sequences that a decoder reads at a time; each beam is one."""


@dataclass(frozen=True)
class Decoded:
    """One generated sentence: its `words` without specials, whether it `ended` with `</s>` or was cut, and `log_p`.

    `log_p` is log p(x|z) in nats, float64, the `</s>` included where there is one.
    """

    words: tuple[int, ...]
    ended: bool
    log_p: float


class DecodingMethod(Interface):
    """A way to make sentences out of z."""

    @property
    def width(self) -> int:
        """Sequences that are read for each sentence."""

    @abstractmethod
    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        """One sentence for each row of z, of which no other depends on it.

        `index_R` holds the numbers of the examples, to which the draws belong where there are any; `context` is what
        the decoder sees beside z (see `TokenDecoder.begin`). The decoder must be in eval mode.
        """


@dataclass(frozen=True)
class Greedy(DecodingMethod):
    """The likeliest word at each step, up to `</s>` or `max_length` tokens."""

    max_length: int
    width: ClassVar[int] = 1

    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        return _walk(decoder, z_RZ, context, self.max_length, lambda step, logits_RV: logits_RV.argmax(1))


@dataclass(frozen=True)
class Sampling(DecodingMethod):
    """Ancestral sampling from softmax(logits / temperature) over the words that may be emitted.

    The draws of a sentence depend on `seed`, `purpose` and its example's number alone: uniform numbers, by which the
    cumulative distribution of each step is inverted.
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

        return _walk(decoder, z_RZ, context, self.max_length, choose)


@torch.no_grad()
def _walk(
    decoder: TokenDecoder,
    z_RZ: Tensor,
    context: History | None,
    max_length: int,
    choose: Callable[[int, Tensor], Tensor],
) -> list[Decoded]:
    """One word after the other, as `choose` says from the step and the logits [R, V] of what may be emitted."""
    assert not decoder.training, "generation wants eval mode"
    reading = decoder.begin(z_RZ, context)
    last_R = torch.full((len(z_RZ),), BOS, device=z_RZ.device)
    ended_R = torch.zeros_like(last_R, dtype=torch.bool)
    log_p_R = torch.zeros(len(z_RZ), dtype=torch.float64, device=z_RZ.device)
    taken = []
    for step in range(max_length):
        logits_RV, reading = decoder.step(reading, last_R)
        normaliser_R = logits_RV.logsumexp(1).double()
        chosen_R = choose(step, _allowed(logits_RV))
        last_R = torch.where(ended_R, EOS, chosen_R)
        gained_R = logits_RV.gather(1, chosen_R[:, None])[:, 0].double() - normaliser_R
        log_p_R += gained_R.masked_fill(ended_R, 0.0)
        ended_R = last_R == EOS
        taken.append(last_R)
        if bool(ended_R.all()):
            break
    return _sentences(torch.stack(taken, 1), log_p_R)


def _allowed(logits_RV: Tensor) -> Tensor:
    """The logits with -inf for what is never emitted."""
    allowed_RV = logits_RV.clone()
    allowed_RV[:, [PAD, BOS]] = -torch.inf
    return allowed_RV


def _sentences(tokens_RT: Tensor, log_p_R: Tensor) -> list[Decoded]:
    found = []
    for tokens, log_p in zip(tokens_RT.tolist(), log_p_R.tolist(), strict=True):
        ended = EOS in tokens
        found.append(Decoded(tuple(tokens[: tokens.index(EOS)] if ended else tokens), ended, log_p))
    return found


@dataclass(frozen=True)
class Beam(DecodingMethod):
    """Beam search: of all continuations of the `width` best prefixes, the `width` best go on.

    Source: as the reference code of He et al. 2019, ranked by log p(x|z), which favours short sentences; with
    `length_normalised` by log p(x|z) over the number of tokens, `</s>` included. Unlike there, where a finished
    sentence leaves the beam and narrows it, it stays as its own only continuation and can be pushed out. So width 1 is
    greedy search, and a beam that holds every prefix finds the likeliest sentence of at most `max_length` tokens.
    """

    max_length: int
    width: int = 5
    length_normalised: bool = False

    @torch.no_grad()
    def __call__(
        self, decoder: TokenDecoder, z_RZ: Tensor, index_R: Tensor, context: History | None = None
    ) -> list[Decoded]:
        assert not decoder.training, "generation wants eval mode"
        rows, width = len(z_RZ), self.width
        first_R1 = width * torch.arange(rows, device=z_RZ.device)[:, None]
        reading = decoder.begin(z_RZ, context).select((first_R1 // width).expand(rows, width).flatten())
        front = _Front.of(rows, width, z_RZ.device)
        for _ in range(self.max_length):
            logits_NV, reading = decoder.step(reading, front.last_RK.flatten())
            front, parent_RK = front.next(logits_NV, self.length_normalised)
            if front.decided(self.length_normalised):
                break
            reading = reading.select((first_R1 + parent_RK).flatten())
        return front.best()


@dataclass(frozen=True, eq=False)
class _Front:
    """The K best prefixes of each sentence, best first.

    `log_p_RK` is float64, -inf where there are fewer; `length_RK` counts tokens, `</s>` included.
    """

    tokens_RKT: Tensor
    log_p_RK: Tensor
    ended_RK: Tensor
    length_RK: Tensor

    @classmethod
    def of(cls, rows: int, width: int, device: torch.device) -> _Front:
        log_p_RK = torch.full((rows, width), -torch.inf, dtype=torch.float64, device=device)
        log_p_RK[:, 0] = 0.0
        length_RK = torch.zeros(rows, width, dtype=torch.int64, device=device)
        return cls(length_RK[:, :, None][:, :, :0], log_p_RK, length_RK.bool(), length_RK)

    @property
    def last_RK(self) -> Tensor:
        """What the decoder reads next."""
        if not self.tokens_RKT.shape[2]:
            return torch.full_like(self.length_RK, BOS)
        return self.tokens_RKT[:, :, -1]

    def next(self, logits_NV: Tensor, length_normalised: bool) -> tuple[_Front, Tensor]:
        """The front one token later, and the place [R, K] in this one of the prefix that each goes on."""
        rows, width = self.log_p_RK.shape
        logit_NC, token_NC = _allowed(logits_NV).topk(min(width, logits_NV.shape[1]), 1)
        gained_RKC = (logit_NC.double() - logits_NV.logsumexp(1, keepdim=True).double()).view(rows, width, -1)
        token_RKC = token_NC.view(rows, width, -1)
        # A finished sentence has one continuation, itself.
        gained_RKC = gained_RKC.masked_fill(self.ended_RK[:, :, None], -torch.inf)
        gained_RKC[:, :, 0].masked_fill_(self.ended_RK, 0.0)
        token_RKC = token_RKC.masked_fill(self.ended_RK[:, :, None], EOS)
        log_p_RKC = self.log_p_RK[:, :, None] + gained_RKC
        length_RK = self.length_RK + ~self.ended_RK
        worth_RKC = log_p_RKC / length_RK[:, :, None] if length_normalised else log_p_RKC
        best_RK = worth_RKC.flatten(1).topk(width, 1).indices
        parent_RK = best_RK // token_RKC.shape[2]
        last_RK = token_RKC.flatten(1).gather(1, best_RK)
        before_RKT = self.tokens_RKT.gather(1, parent_RK[:, :, None].expand(-1, -1, self.tokens_RKT.shape[2]))
        tokens_RKT = torch.cat([before_RKT, last_RK[:, :, None]], 2)
        log_p_RK = log_p_RKC.flatten(1).gather(1, best_RK)
        return _Front(tokens_RKT, log_p_RK, last_RK == EOS, length_RK.gather(1, parent_RK)), parent_RK

    def decided(self, length_normalised: bool) -> bool:
        """Whether no later step can change the best: log p only falls, but log p over the length may rise."""
        over_RK = self.ended_RK | self.log_p_RK.isneginf()
        return bool((over_RK if length_normalised else over_RK[:, :1]).all())

    def best(self) -> list[Decoded]:
        return _sentences(self.tokens_RKT[:, 0], self.log_p_RK[:, 0])


def decode_all(
    decoding: DecodingMethod,
    decoder: TokenDecoder,
    z_NZ: Tensor,
    index_N: Tensor,
    context: History | None = None,
    *,
    progress: Callable[[int], None] = lambda sentences: None,
) -> list[Decoded]:
    """The same for any number of sentences, in blocks that bound the memory. `progress` hears the sentences done."""
    found: list[Decoded] = []
    block = max(1, SEQUENCES // decoding.width)
    for first in range(0, len(z_NZ), block):
        place = torch.arange(first, min(first + block, len(z_NZ)))
        seen = None if context is None else context.select(place.to(z_NZ.device))
        found += decoding(decoder, z_NZ[first : first + block], index_N[place], seen)
        progress(len(found))
    return found
