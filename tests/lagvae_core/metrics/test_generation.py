import math
from collections import Counter

import numpy as np
import pytest

from lagvae_core.metrics.generation import Sentences, distinct, known_ngrams, unigram_entropy

A, B, C = 7, 5, 9
GENERATED = Sentences.of([[A, B, A], [A, C]])
REFERENCE = Sentences.of([[A, B]])
NOTHING = Sentences.of([])


class TestKnownValues:
    def test_known_ngrams(self):
        assert known_ngrams(GENERATED, REFERENCE, 1) == pytest.approx(100 * 4 / 5)
        assert known_ngrams(GENERATED, REFERENCE, 2) == pytest.approx(100 * 1 / 3)
        assert known_ngrams(GENERATED, REFERENCE, 3) == 0.0

    def test_distinct(self):
        assert distinct(GENERATED, 1) == 3 / 5
        assert distinct(GENERATED, 2) == 3 / 3
        assert distinct(Sentences.of([[A, B, A, B]]), 2) == 2 / 3

    def test_entropy(self):
        p = (3 / 5, 1 / 5, 1 / 5)
        assert unigram_entropy(GENERATED) == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-12)
        assert unigram_entropy(GENERATED) == pytest.approx(0.9503, abs=5e-5)

    def test_the_same_text_is_known_and_a_disjoint_text_is_not(self):
        for n in (1, 2, 3):
            assert known_ngrams(GENERATED, GENERATED, n) == 100.0
            assert known_ngrams(GENERATED, Sentences.of([[1, 2, 3, 4]]), n) == 0.0

    def test_ngrams_do_not_cross_sentences(self):
        assert known_ngrams(Sentences.of([[A], [B]]), REFERENCE, 2) is None
        assert known_ngrams(REFERENCE, Sentences.of([[A], [B]]), 2) == 0.0
        assert known_ngrams(Sentences.of([[C, A]]), Sentences.of([[B, A]]), 2) == 0.0

    def test_ngrams_do_not_cross_from_generated_to_reference_sentences(self):
        assert known_ngrams(Sentences.of([[A, B], [A]]), Sentences.of([[B, C]]), 2) == 0.0

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_metrics_without_words_are_none(self, n):
        for empty in (NOTHING, Sentences.of([[], []])):
            assert distinct(empty, n) is None
            assert known_ngrams(empty, REFERENCE, n) is None
            assert unigram_entropy(empty) is None
            assert known_ngrams(GENERATED, empty, n) == 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_results_equal_counting_with_dictionaries(n):
    drawn = np.random.default_rng(n)
    generated, reference = ([drawn.integers(0, 6, drawn.integers(0, 9)).tolist() for _ in range(60)] for _ in range(2))

    def ngrams(sentences):
        return [tuple(words[i : i + n]) for words in sentences for i in range(len(words) - n + 1)]

    made, known = ngrams(generated), set(ngrams(reference))
    one, other = Sentences.of(generated), Sentences.of(reference)
    assert known_ngrams(one, other, n) == pytest.approx(100 * sum(gram in known for gram in made) / len(made))
    assert distinct(one, n) == len(Counter(made)) / len(made)
