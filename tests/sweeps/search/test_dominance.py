"""Domination beyond the error between seeds, with hand-computed margins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sweeps.search.dominance import Sample, find_dominating

T3, T4 = 1.6377443536962102, 1.5332062737131438
"""The 0.9 quantiles of Student's distribution with 3 and 4 degrees of freedom."""


def sample(name, *rows):
    return Sample(name, np.array(rows, dtype=float))


BETTER = sample("better", (100, -4), (102, -4), (104, -4))


def test_the_margin_is_the_quantile_times_the_error_of_the_difference():
    own = sample("own", (110, -4), (112, -4), (114, -4))
    found = find_dominating(own, [BETTER], 0.9)
    # Variance (8 + 8) / 4 = 4, error 2 * sqrt(2 / 3).
    assert found.config_id == "better"
    assert found.margin_D == pytest.approx([T4 * 2 * math.sqrt(2 / 3), 0])


def test_a_configuration_within_the_margin_is_not_dominated():
    margin = T4 * 2 * math.sqrt(2 / 3)
    for gap, dominated in ((margin + 1e-6, True), (margin - 1e-6, False), (margin, False)):
        own = sample("own", *((nll + gap, -4) for nll in (100, 102, 104)))
        assert (find_dominating(own, [BETTER], 0.9) is not None) == dominated, gap


def test_both_numbers_of_seeds_enter_the_error():
    found = find_dominating(sample("own", (110, -4), (112, -4)), [BETTER], 0.9)
    variance = (8 + 2) / 3
    assert found.margin_D[0] == pytest.approx(T3 * math.sqrt(variance * (1 / 2 + 1 / 3)))


def test_the_variance_is_pooled_over_every_configuration_with_two_seeds():
    own, worst = sample("own", (110, -4)), sample("worst", (300, 0), (300, 0))
    assert find_dominating(own, [BETTER], 0.9) is None, "2 degrees of freedom"
    found = find_dominating(own, [worst, BETTER], 0.9)
    assert found.config_id == "better"
    assert found.margin_D[0] == pytest.approx(T3 * math.sqrt(8 / 3 * (1 + 1 / 3)))


def test_it_must_be_no_worse_in_every_objective():
    traded = sample("own", (210, -5), (212, -5), (214, -5))
    assert find_dominating(traded, [BETTER], 0.9) is None


def test_a_duplicate_is_not_dominated_even_without_any_variance():
    one, other = sample("one", *[(0.1, 0.7)] * 3), sample("other", *[(0.1, 0.7)] * 7)
    assert find_dominating(one, [other], 0.9) is None
    assert find_dominating(other, [one], 0.9) is None


def test_one_better_objective_is_enough_if_the_others_are_equal():
    one, other = sample("one", *[(1, 1)] * 3), sample("other", *[(1, 2)] * 3)
    assert find_dominating(other, [one], 0.9).config_id == "one"
    assert find_dominating(one, [other], 0.9) is None


def test_more_confidence_dominates_less():
    own = sample("own", (104, -4), (106, -4), (108, -4))
    decisions = [find_dominating(own, [BETTER], confidence) is not None for confidence in (0.5, 0.9, 0.99, 0.999)]
    assert decisions == [True, True, False, False]


def test_a_single_configuration_has_nothing_to_compare_with():
    assert find_dominating(BETTER, [], 0.9) is None
    assert find_dominating(sample("own", *[(1, 1)] * 9), [], 0.9) is None
