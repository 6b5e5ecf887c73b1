"""How near a generated sentence is to the one that it should repeat, both as sequences of ids without specials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

__all__ = ["bleu", "edit_rate", "exact_match", "token_accuracy"]

Sentence = Sequence[int]


def exact_match(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float:
    """The share of sentences that are repeated word for word."""
    return sum(tuple(one) == tuple(other) for one, other in zip(originals, repeated, strict=True)) / len(originals)


def token_accuracy(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float | None:
    """The share of the originals' words that stand at the same place of the repetition; None without words."""
    pairs = zip(originals, repeated, strict=True)
    hits = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
    words = sum(map(len, originals))
    return hits / words if words else None


def edit_rate(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float:
    """The mean of Levenshtein's distance in words, unit costs, over the length of the original, at least 1."""
    pairs = zip(originals, repeated, strict=True)
    return math.fsum(Levenshtein.distance(one, other) / max(1, len(one)) for one, other in pairs) / len(originals)


def bleu(originals: Sequence[Sentence], repeated: Sequence[Sentence], order: int = 4) -> float:
    """BLEU of the whole corpus in percent: brevity penalty times the geometric mean of clipped n-gram precisions.

    One reference each, no smoothing: 0 as soon as no n-gram of some length up to `order` is right, or none is there.
    Source: Papineni et al. 2002, as multi-bleu.perl counts; words are those of the vocabulary, so that two different
    unknown words are equal.
    """
    right, made = [0] * order, [0] * order
    for one, other in zip(originals, repeated, strict=True):
        for n in range(1, order + 1):
            wanted, found = _counts(one, n), _counts(other, n)
            right[n - 1] += (wanted & found).total()
            made[n - 1] += found.total()
    if not all(right):
        return 0.0
    precision = math.fsum(math.log(r / m) for r, m in zip(right, made, strict=True)) / order
    brevity = min(0.0, 1.0 - sum(map(len, originals)) / made[0])
    return 100.0 * math.exp(precision + brevity)


def _counts(words: Sentence, n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(words[first : first + n]) for first in range(len(words) - n + 1))
