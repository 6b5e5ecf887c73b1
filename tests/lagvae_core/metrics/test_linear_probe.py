"""Linear probe and mixture accuracy compared with closed forms."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.sparse import csr_matrix

from lagvae_core.metrics.linear_probe import _fitted, fit_probe, labelled_order, mixture_accuracy, subset_sizes

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)


def gaussians(examples, delta, seed, dimensions=8):
    """Return examples of two Gaussian classes with unit covariance and means at distance `delta`, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=examples)
    shift = np.full(dimensions, delta / math.sqrt(dimensions))
    return generator.standard_normal((examples, dimensions)) + labels[:, None] * shift, labels


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@pytest.mark.parametrize("delta", [1.0, 2.0, 3.0])
def test_two_gaussians_are_classified_with_the_bayes_accuracy(delta):
    """The Bayes accuracy is Phi(delta / 2); 0.01 is at least 2 standard errors of 10,000 test examples."""
    fit = fit_probe(gaussians(10_000, delta, 0), gaussians(2_000, delta, 1), gaussians(10_000, delta, 2), GRID)
    assert fit.accuracy == pytest.approx(phi(delta / 2), abs=0.01)


def test_features_unrelated_to_the_labels_give_chance_level():
    (train, valid, test) = (gaussians(n, 0.0, n) for n in (2_000, 1_001, 10_000))
    assert fit_probe(train, valid, test, GRID).accuracy == pytest.approx(0.5, abs=0.02)


def test_the_fit_minimises_the_documented_objective():
    """At the optimum of 0.5 w^2 + C sum_n log(1 + exp(-y_n (w x_n + b))), with x = +-1 and b = 0, w solves
    w = C N sigmoid(-w)."""
    x, y = np.array([[-1.0], [1.0]] * 50), np.array([0, 1] * 50)
    for classifier, c in _fitted((x, y), GRID):
        optimum = brentq(lambda w, c=c: w - c * 100 / (1 + math.exp(w)), 0.0, 100.0)
        assert classifier.coef_[0, 0] == pytest.approx(optimum, rel=1e-2)


def test_validation_selects_the_penalty_and_the_smallest_c_among_ties():
    one, other = gaussians(200, 0.5, 0, 100), gaussians(400, 0.5, 1, 100)
    accuracies = {c: fit_probe(one, other, other, [c]).valid_accuracy for c in GRID}
    assert len(set(accuracies.values())) > 1, "the candidates must differ for this test to fail"
    chosen = fit_probe(one, other, other, GRID[::-1])
    assert chosen.valid_accuracy == max(accuracies.values())
    assert chosen.inverse_penalty == min(c for c in GRID if accuracies[c] == chosen.valid_accuracy)


def test_a_class_without_labels_is_never_predicted():
    generator = np.random.default_rng(0)
    labels = generator.integers(4, size=3_000)
    x = generator.standard_normal((3_000, 2)) + 6.0 * np.array([(-1, -1), (1, 1), (-1, 1), (1, -1)])[labels]
    labelled = labels[:500] < 3
    fit = fit_probe(
        (x[:500][labelled], labels[:500][labelled]), (x[500:1500], labels[500:1500]), (x[1500:], labels[1500:]), GRID
    )
    assert fit.accuracy == pytest.approx(np.mean(labels[1500:] < 3), abs=0.01)


def test_a_single_training_class_is_always_predicted():
    x, y = np.zeros((4, 2)), np.array([1, 1, 1, 1])
    fit = fit_probe((x, y), (x, np.array([0, 1, 0, 0])), (x, np.array([1, 1, 0, 1])), GRID)
    assert (fit.accuracy, fit.valid_accuracy, fit.inverse_penalty) == (0.75, 0.25, None)


def test_sparse_and_dense_features_give_the_same_fit():
    data = [gaussians(300, 2.0, seed) for seed in range(3)]
    counts = [(np.round(np.abs(x)), y) for x, y in data]
    sparse = [(csr_matrix(x), y) for x, y in counts]
    assert fit_probe(*sparse, GRID) == fit_probe(*counts, GRID)


class TestLabels:
    def test_an_order_is_a_permutation_determined_by_seed_and_draw(self):
        labels = np.arange(100) % 3
        order = labelled_order(labels, 0, 0)
        assert sorted(order) == list(range(100))
        assert np.array_equal(order, labelled_order(labels, 0, 0))
        others = [labelled_order(labels, 0, 1), labelled_order(labels, 1, 0)]
        assert not any(np.array_equal(order, other) for other in others)

    def test_balanced_subsets_cycle_through_the_classes_until_they_are_exhausted(self):
        labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
        order = labelled_order(labels, 0, 0, balanced=True)
        assert sorted(order) == list(range(100))
        assert np.bincount(labels[order[:6]]).tolist() == [2, 2, 2]
        assert np.bincount(labels[order[:18]]).tolist() == [8, 8, 2]
        assert not np.array_equal(order, labelled_order(labels, 0, 1, balanced=True))

    def test_subset_sizes_are_sorted_and_limited(self):
        assert subset_sizes((100, 500, 10_000), 600) == [100, 500, 600]
        assert subset_sizes((500, 100), 100) == [100]


class TestMixture:
    def test_distant_components_are_the_classes_in_any_order(self):
        train, _ = gaussians(500, 8.0, 0)
        test, labels = gaussians(500, 8.0, 1)
        assert mixture_accuracy(train, test, labels, 2, 0) == 1.0
        assert mixture_accuracy(train, test, 1 - labels, 2, 0) == 1.0

    def test_no_component_is_matched_twice(self):
        train, _ = gaussians(500, 8.0, 0)
        test, labels = gaussians(500, 8.0, 1)
        assert mixture_accuracy(train, test, np.zeros_like(labels), 2, 0) < 0.6
