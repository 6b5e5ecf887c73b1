"""Similarity of generated sentences to the sentences that they should reproduce.

Sentences are sequences of ids without special tokens. All functions need at least one pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

__all__ = ["bleu", "edit_rate", "exact_match", "token_accuracy"]

Sentence = Sequence[int]


def exact_match(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float:
    """Return the fraction of sentences that are reproduced exactly."""
    return sum(tuple(one) == tuple(other) for one, other in zip(originals, repeated, strict=True)) / len(originals)


def token_accuracy(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float | None:
    """Return the fraction of original words that are reproduced at the same position; None if there are no words."""
    pairs = zip(originals, repeated, strict=True)
    hits = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
    words = sum(map(len, originals))
    return hits / words if words else None


def edit_rate(originals: Sequence[Sentence], repeated: Sequence[Sentence]) -> float:
    """Return the mean over sentences of the word-level Levenshtein distance divided by max(1, length of the original).

    Insertions, deletions and substitutions cost 1.
    """
    pairs = zip(originals, repeated, strict=True)
    return math.fsum(Levenshtein.distance(one, other) / max(1, len(one)) for one, other in pairs) / len(originals)


def bleu(originals: Sequence[Sentence], repeated: Sequence[Sentence], order: int = 4) -> float:
    """Return corpus BLEU in percent, computed by sacrebleu.

    BLEU is the brevity penalty times the geometric mean of the clipped precisions of n-grams up to length `order`
    (Papineni et al. 2002). There is one reference per sentence and no smoothing, so the result is 0 if no n-gram of
    some length matches. Words are compared by their ids, so two different unknown words count as equal. The sacrebleu
    signature is `nrefs:1|case:mixed|eff:no|tok:none|smooth:none`; multi-bleu.perl uses the same settings.
    """
    from sacrebleu.metrics.bleu import BLEU  # imported here because the import takes half a second

    metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
    return float(metric.corpus_score(_as_text(repeated), [_as_text(originals)]).score)


def _as_text(sentences: Sequence[Sentence]) -> list[str]:
    return [" ".join(map(str, words)) for words in sentences]
