import math

import pytest

from lagvae_core.metrics.reconstruction import bleu, edit_rate, exact_match, token_accuracy

ORIGINALS = [[1, 2, 3, 4, 5], [6, 7]]
REPEATED = [[1, 2, 3, 4, 6], [6, 7]]


def test_a_copy_is_perfect():
    assert exact_match(ORIGINALS, ORIGINALS) == 1.0
    assert token_accuracy(ORIGINALS, ORIGINALS) == 1.0
    assert edit_rate(ORIGINALS, ORIGINALS) == 0.0
    assert bleu(ORIGINALS, ORIGINALS) == pytest.approx(100.0)


def test_lists_and_tuples_are_equal():
    assert exact_match(ORIGINALS, [tuple(words) for words in ORIGINALS]) == 1.0


def test_one_wrong_word():
    assert exact_match(ORIGINALS, REPEATED) == 1 / 2
    assert token_accuracy(ORIGINALS, REPEATED) == 6 / 7
    assert edit_rate(ORIGINALS, REPEATED) == pytest.approx((1 / 5 + 0) / 2)
    # matching n-grams: 6 of 7, 4 of 5, 2 of 3, 1 of 2
    assert bleu(ORIGINALS, REPEATED) == pytest.approx(100 * (6 / 7 * 4 / 5 * 2 / 3 * 1 / 2) ** 0.25)


def test_token_accuracy_depends_on_positions_and_the_edit_rate_does_not():
    shifted = [[9, 1, 2, 3, 4, 5]]
    assert token_accuracy(ORIGINALS[:1], shifted) == 0.0
    assert edit_rate(ORIGINALS[:1], shifted) == 1 / 5


@pytest.mark.parametrize(
    ("one", "other", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "", 3), ("ab", "ba", 2)]
)
def test_edit_distances(one, other, distance):
    assert edit_rate([list(map(ord, one))], [list(map(ord, other))]) == distance / max(1, len(one))


class TestBleu:
    def test_a_short_sentence_has_a_brevity_penalty(self):
        assert bleu([[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4]]) == pytest.approx(100 * math.exp(1 - 6 / 4))

    def test_a_long_sentence_has_none(self):
        # matching n-grams: 4 of 6, 3 of 5, 2 of 4, 1 of 3
        assert bleu([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6]]) == pytest.approx(
            100 * (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
        )

    def test_matches_are_clipped_to_the_count_in_the_reference(self):
        # the example of the paper: "the" seven times, twice in the reference
        assert bleu([[1, 2, 3, 4, 1, 5]], [[1] * 7], order=1) == pytest.approx(100 * 2 / 7)

    def test_precisions_and_brevity_are_computed_over_the_whole_corpus(self):
        originals, repeated = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 3, 4, 9, 9], [5, 6]]
        # matching n-grams: 6 of 8, 4 of 6, 2 of 4, 1 of 3; the total lengths are equal
        assert bleu(originals, repeated) == pytest.approx(100 * (6 / 8 * 4 / 6 * 2 / 4 * 1 / 3) ** 0.25)

    @pytest.mark.parametrize("repeated", [[[1, 2, 3]], [[]], [[4, 3, 2, 1]]])
    def test_without_a_matching_4_gram_it_is_0(self, repeated):
        assert bleu([[1, 2, 3, 4]], repeated) == 0.0


def test_sentences_without_words():
    assert token_accuracy([[]], [[1]]) is None
    assert exact_match([[]], [[]]) == 1.0
    assert edit_rate([[]], [[1, 2]]) == 2.0
