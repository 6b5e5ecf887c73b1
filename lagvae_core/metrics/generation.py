"""What generated sentences are like: n-grams known from a text, the entropy of words, distinct n-grams.

Sentences are sequences of non-negative ids, without specials. Arrays and sorting throughout, so that a text of millions
of words needs tens of bytes a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sentences", "distinct", "known_ngrams", "unigram_entropy"]


@dataclass(frozen=True, eq=False)
class Sentences:
    """N sentences laid end to end: `words` int64, and `owner`, the number of each word's sentence."""

    words: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Sentences:
        lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        laid = (word for words in sentences for word in words)
        return cls(np.fromiter(laid, np.int64, int(lengths.sum())), np.repeat(np.arange(len(lengths)), lengths))

    def before(self, others: Sentences) -> Sentences:
        """These, then `others`."""
        first = int(self.owner[-1]) + 1 if len(self.owner) else 0
        return Sentences(np.concatenate([self.words, others.words]), np.concatenate([self.owner, others.owner + first]))

    def ngrams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """An id for each n-gram inside a sentence, equal where the n-grams are, and the place of its first word."""
        size = int(self.words.max()) + 1 if len(self.words) else 1
        ids = self.words
        for length in range(2, n + 1):
            _, dense = np.unique(ids[:-1], return_inverse=True)
            ids = dense.astype(np.int64) * size + self.words[length - 1 :]
        whole = np.flatnonzero(self.owner[: len(ids)] == self.owner[n - 1 :])
        return ids[whole], whole


def known_ngrams(generated: Sentences, reference: Sentences, n: int) -> float | None:
    """Gram-n: 100 times the share of the generated n-grams, every occurrence counted, that the reference has too.

    None where no generated sentence has n words. High both where a model has learned the language and where it repeats
    its training text. Source: Song et al. 2024, Table 5, in the reading of this project: the paper does not say
    whether occurrences or types are counted.
    """
    ids, places = generated.before(reference).ngrams(n)
    own = places < len(generated.words)
    return 100.0 * float(np.isin(ids[own], ids[~own]).mean()) if own.any() else None


def unigram_entropy(generated: Sentences) -> float | None:
    """-sum p ln p of the distribution of all generated words, in nats; None where there are none.

    The estimate from counts, biased down by about (types - 1) / (2 words).
    """
    _, counts = np.unique(generated.words, return_counts=True)
    return math.fsum(-p * math.log(p) for p in counts / counts.sum()) if len(counts) else None


def distinct(generated: Sentences, n: int) -> float | None:
    """Dist-n: different n-grams over all n-grams; None where no sentence has n words.

    It falls with the amount of text, so that only equally many words compare. Source: Li et al. 2016 (as recalled). The
    values that Song et al. 2024 print for n of 2 and 3 lie below those for n of 1, which this definition excludes.
    """
    ids, _ = generated.ngrams(n)
    return len(np.unique(ids)) / len(ids) if len(ids) else None
