"""Metrics of generated sentences: percentage of known n-grams, entropy of words, fraction of distinct n-grams.

Sentences are sequences of non-negative ids without special tokens. All computations use arrays and sorting, so even a
text of millions of words needs only tens of bytes per word.
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
    """Concatenation of N sentences.

    Args:
        words: All words.
        owner: Index of the sentence of each word.
    """

    words: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Sentences:
        """Return the concatenation of `sentences`."""
        lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        words = (word for sentence in sentences for word in sentence)
        return cls(np.fromiter(words, np.int64, int(lengths.sum())), np.repeat(np.arange(len(lengths)), lengths))

    def followed_by(self, others: Sentences) -> Sentences:
        """Return these sentences followed by `others`."""
        first = int(self.owner[-1]) + 1 if len(self.owner) else 0
        return Sentences(np.concatenate([self.words, others.words]), np.concatenate([self.owner, others.owner + first]))

    def ngrams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Return, for each n-gram, an id and the position of its first word.

        Equal n-grams have equal ids. N-grams do not cross sentence boundaries.
        """
        size = int(self.words.max()) + 1 if len(self.words) else 1
        ids = self.words
        for length in range(2, n + 1):
            _, dense = np.unique(ids[:-1], return_inverse=True)
            ids = dense.astype(np.int64) * size + self.words[length - 1 :]
        whole = np.flatnonzero(self.owner[: len(ids)] == self.owner[n - 1 :])
        return ids[whole], whole


def known_ngrams(generated: Sentences, reference: Sentences, n: int) -> float | None:
    """Return Gram-n: the percentage of generated n-grams, repetitions included, that occur in the reference.

    The value is high if the model has learned the language, but also if it repeats its training text. Source: Song et
    al. 2024, Table 5. The paper does not specify whether occurrences or distinct n-grams are counted; this function
    counts occurrences.

    Returns:
        The percentage, or None if no generated sentence has n words.
    """
    ids, positions = generated.followed_by(reference).ngrams(n)
    is_generated = positions < len(generated.words)
    return 100.0 * float(np.isin(ids[is_generated], ids[~is_generated]).mean()) if is_generated.any() else None


def unigram_entropy(generated: Sentences) -> float | None:
    """Return the entropy -sum p ln p of the generated words [nats]; None if there are none.

    The entropy is estimated from word counts, which biases it downwards by about (types - 1) / (2 words), where types
    is the number of distinct words and words is the number of all words.
    """
    _, counts = np.unique(generated.words, return_counts=True)
    return math.fsum(-p * math.log(p) for p in counts / counts.sum()) if len(counts) else None


def distinct(generated: Sentences, n: int) -> float | None:
    """Return Dist-n: the number of distinct n-grams divided by the number of n-grams.

    The value decreases with the amount of text, so only texts of equal length are comparable. Source: Li et al. 2016
    (not checked against the paper). Song et al. 2024 report values for n = 2 and 3 that are below their value for
    n = 1, which is impossible under this definition.

    Returns:
        The ratio, or None if no sentence has n words.
    """
    ids, _ = generated.ngrams(n)
    return len(np.unique(ids)) / len(ids) if len(ids) else None
