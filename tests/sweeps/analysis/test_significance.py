"""Differences between samples against enumeration, scipy, and simulated samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sweeps.analysis.significance import ALPHA, holm, independent_difference, paired_difference

SIMULATED = 2000
"""Number of simulated pairs of samples."""


def paired_p(values, baseline):
    """Two-sided p-value by enumeration: twice the smaller fraction of sign patterns that are at least as extreme."""
    difference = np.round(np.subtract(values, baseline), 9)
    means = np.array([np.mean(difference * signs) for signs in itertools.product((1, -1), repeat=len(difference))])
    return two_sided(means, difference.mean())


def independent_p(values, baseline):
    """Two-sided p-value by enumeration of all ways to choose the values of the first sample."""
    pooled = np.concatenate([values, baseline])
    means = []
    for chosen in itertools.combinations(range(len(pooled)), len(values)):
        others = np.delete(pooled, chosen)
        means.append(pooled[list(chosen)].mean() - others.mean())
    return two_sided(np.array(means), np.mean(values) - np.mean(baseline))


def two_sided(means, observed):
    below, above = (means <= observed + 1e-12).mean(), (means >= observed - 1e-12).mean()
    return min(1.0, 2 * min(below, above))


class TestPaired:
    @pytest.mark.parametrize("n", [6, 7, 9])
    def test_the_p_value_is_that_of_an_enumeration(self, n):
        rng = np.random.default_rng(n)
        for shift in (0.0, 0.5, 2.0):
            values, baseline = rng.normal(size=n) + shift, rng.normal(size=n)
            assert paired_difference(values, baseline).p == pytest.approx(paired_p(values, baseline))

    def test_ties(self):
        values, baseline = [1, 1, 2, 3, 3, 3], [1, 1, 1, 1, 1, 1]
        assert paired_difference(values, baseline).p == pytest.approx(paired_p(values, baseline))

    def test_equal_samples(self):
        same = paired_difference([2.0] * 6, [2.0] * 6)
        assert (same.mean, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)

    def test_rounding_errors_are_no_difference(self):
        assert paired_difference([0.1 + 0.2] * 6, [0.3] * 6).p == 1.0

    @pytest.mark.parametrize("n", [2, 3, 10])
    def test_the_interval_is_that_of_the_t_test(self, n):
        values, baseline = np.random.default_rng(n).normal(size=(2, n))
        expected = stats.ttest_rel(values, baseline).confidence_interval(0.95)
        assert paired_difference(values, baseline).interval == pytest.approx(tuple(expected), abs=1e-8)

    def test_one_pair_has_a_difference_and_nothing_else(self):
        difference = paired_difference([1.0], [3.0])
        assert (difference.mean, difference.interval, difference.p) == (-2.0, None, None)

    @pytest.mark.parametrize(("comparisons", "required"), [(1, 6), (2, 7), (3, 7), (6, 8)])
    def test_with_fewer_pairs_than_required_no_outcome_is_significant(self, comparisons, required):
        """All differences with one sign are the most extreme outcome. Its p-value is 2 / 2^n."""
        assert comparisons * 2 / 2**required <= ALPHA < comparisons * 2 / 2 ** (required - 1)
        few = paired_difference(np.arange(1.0, required), np.zeros(required - 1), comparisons)
        enough = paired_difference(np.arange(1.0, required + 1), np.zeros(required), comparisons)
        assert (few.p, few.required) == (None, required)
        assert enough.p == pytest.approx(2 / 2**required)

    def test_many_pairs_are_permuted_at_random_but_reproducibly(self):
        values, baseline = np.random.default_rng(0).normal(size=(2, 40))
        first, second = paired_difference(values, baseline), paired_difference(values, baseline)
        assert first == second
        assert first.p == pytest.approx(stats.ttest_rel(values, baseline).pvalue, abs=0.02)

    @pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]], [1.0], [1.0, np.inf]])
    def test_samples_must_be_finite_and_of_the_same_length(self, values):
        with pytest.raises(ValueError, match="values_N"):
            paired_difference(values, [1.0, 2.0])


class TestIndependent:
    @pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 6), (5, 5), (2, 8)])
    def test_the_p_value_is_that_of_an_enumeration(self, n, m):
        rng = np.random.default_rng(n)
        for shift in (0.0, 1.0, 9.0):
            values, baseline = rng.normal(size=n) + shift, rng.normal(size=m)
            assert independent_difference(values, baseline).p == pytest.approx(independent_p(values, baseline))

    def test_ties_and_equal_samples(self):
        values, baseline = [1, 1, 2, 2, 3], [1, 2, 2, 4, 4]
        assert independent_difference(values, baseline).p == pytest.approx(independent_p(values, baseline))
        same = independent_difference([1.0] * 4, [1.0] * 5)
        assert (same.mean, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)

    def test_the_interval_is_that_of_welch(self):
        values, baseline = np.random.default_rng(1).normal(size=5), 3 * np.random.default_rng(2).normal(size=3)
        expected = stats.ttest_ind(values, baseline, equal_var=False).confidence_interval(0.95)
        assert independent_difference(values, baseline).interval == pytest.approx(tuple(expected), abs=1e-8)

    @pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (3, 3), (3, 4)])
    def test_too_few_values_have_no_p_value(self, n, m):
        difference = independent_difference(np.arange(n) + 9.0, np.arange(m))
        assert (difference.p, difference.required) == (None, 4)
        assert (difference.interval is None) == (n == 1)

    @pytest.mark.parametrize("comparisons", [1, 2, 5])
    def test_the_required_size_is_the_smallest_that_can_be_significant(self, comparisons):
        required = independent_difference([1.0], [2.0], comparisons).required
        assert comparisons * 2 / math.comb(2 * required, required) <= ALPHA
        assert comparisons * 2 / math.comb(2 * required - 2, required - 1) > ALPHA


class TestHolm:
    def test_example_computed_by_hand(self):
        """Sorted: 0.01 * 4 = 0.04; 0.02 * 3 = 0.06; 0.025 * 2 = 0.05, raised to 0.06; 0.9 * 1."""
        assert holm([0.02, 0.01, 0.9, 0.025]) == pytest.approx([0.06, 0.04, 0.9, 0.06])

    def test_a_comparison_without_a_p_value_is_counted(self):
        assert holm([None, 0.01]) == [None, 0.02]

    def test_edges(self):
        assert holm([]) == []
        assert holm([0.6, 0.7]) == [1.0, 1.0]
        assert holm([0.03]) == [0.03]

    def test_none_is_rejected_more_often_than_by_bonferroni_allows(self):
        p = np.random.default_rng(0).random((500, 6)) ** 2
        for row in p:
            corrected = np.array(holm(row.tolist()))
            assert (corrected >= row).all()
            assert (corrected <= np.minimum(1.0, 6 * row)).all()


@pytest.mark.slow
class TestSimulated:
    """Rates over simulated samples. The standard error of a rate of 5 % is 0.5 %."""

    @pytest.mark.parametrize("n", [6, 8, 10])
    def test_the_false_positive_rate_of_pairs(self, n):
        """With 6 pairs only one p-value, 1/32, is below 5 %: the test is conservative."""
        attainable = {6: 1 / 32, 8: 6 / 128, 10: 24 / 512}[n]
        rate = self.rate(paired_difference, n, 0.0)
        assert rate == pytest.approx(attainable, abs=0.02)
        assert rate < ALPHA + 0.015

    @pytest.mark.parametrize("n", [4, 5])
    def test_the_false_positive_rate_of_independent_samples(self, n):
        """With 4 values in each sample only one p-value, 1/35, is below 5 %: the test is conservative."""
        rate = self.rate(independent_difference, n, 0.0)
        assert rate == pytest.approx({4: 1 / 35, 5: 12 / 252}[n], abs=0.02)
        assert rate < ALPHA + 0.015

    @pytest.mark.parametrize(("n", "shift", "loss"), [(6, 2.0, 0.1), (8, 1.5, 0.04), (10, 1.2, 0.04)])
    def test_the_power_of_pairs_is_that_of_the_t_test_at_the_same_level(self, n, shift, loss):
        """With 6 pairs, the test sees only that all signs are equal, which costs some power."""
        level = {6: 1 / 32, 8: 6 / 128, 10: 24 / 512}[n]
        rng = np.random.default_rng(n)
        values, baseline = rng.normal(size=(2, SIMULATED, n))
        reference = (stats.ttest_rel(values + shift, baseline, axis=1).pvalue <= level).mean()
        power = np.mean([paired_difference(v + shift, b).p <= ALPHA for v, b in zip(values, baseline, strict=True)])
        assert 0.5 < reference < 0.99
        assert power == pytest.approx(reference, abs=loss)

    @pytest.mark.parametrize(("n", "shift"), [(5, 2.0), (6, 1.8)])
    def test_the_power_of_independent_samples_is_that_of_the_t_test(self, n, shift):
        rng = np.random.default_rng(n)
        values, baseline = rng.normal(size=(2, SIMULATED, n))
        reference = (stats.ttest_ind(values + shift, baseline, axis=1).pvalue <= ALPHA).mean()
        power = np.mean(
            [independent_difference(v + shift, b).p <= ALPHA for v, b in zip(values, baseline, strict=True)]
        )
        assert 0.5 < reference < 0.99
        assert power == pytest.approx(reference, abs=0.04)

    def rate(self, compare, n, shift):
        samples = np.random.default_rng(100 + n).normal(size=(SIMULATED, 2, n))
        return np.mean([compare(values + shift, baseline).p <= ALPHA for values, baseline in samples])
