"""Linear probe of features with few labelled examples, and unsupervised accuracy of a Gaussian mixture.

Shape suffixes: N examples, F features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.randomness import derive_seed

__all__ = ["Features", "Fit", "fit_probe", "labelled_order", "mixture_accuracy", "subset_sizes"]

MAX_ITERATIONS = 1000

Features = Any
"""An array [N, F], or a sparse matrix of that shape with indexable rows."""


@dataclass(frozen=True)
class Fit:
    """Result of a probe.

    Args:
        accuracy: Accuracy on the test examples.
        valid_accuracy: Accuracy on the validation examples.
        inverse_penalty: Inverse penalty chosen on the validation examples; None if no classifier was fitted.
    """

    accuracy: float
    valid_accuracy: float
    inverse_penalty: float | None


def subset_sizes(requested: Sequence[int], available: int) -> list[int]:
    """Return the requested label counts, each limited to `available`, in ascending order without duplicates."""
    return sorted({min(size, available) for size in requested})


def labelled_order(labels_N: NDArray[np.int64], seed: int, draw: int, *, balanced: bool = False) -> NDArray[np.int64]:
    """Return a random order of all examples. The first n examples are the labelled subset of size n.

    The labelled subsets of one draw are therefore nested.

    Args:
        labels_N: Labels.
        seed: Seed of the order.
        draw: Index of the draw.
        balanced: Whether the order cycles through the classes until they are exhausted, instead of being uniform.
    """
    generator = np.random.default_rng(derive_seed(seed, "probe", draw))
    order_N: NDArray[np.int64] = generator.permutation(len(labels_N))
    if not balanced:
        return order_N
    rank_N = np.empty(len(order_N), dtype=np.int64)
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N[order_N] == label)
        rank_N[members] = np.arange(len(members))
    return order_N[np.argsort(rank_N, kind="stable")]


def fit_probe(
    train: tuple[Features, NDArray[np.int64]],
    valid: tuple[Features, NDArray[np.int64]],
    test: tuple[Features, NDArray[np.int64]],
    inverse_penalties: Sequence[float],
) -> Fit:
    """Fit a multinomial logistic regression with an L2 penalty chosen on the validation examples.

    The objective is 0.5 |w|^2 + C sum_n -log p(y_n | x_n), with an unpenalised intercept. Classes that are missing from
    `train` are never predicted. If `train` has a single class, it is always predicted.

    Args:
        train: Features and labels of the labelled training examples.
        valid: Features and labels of the validation examples.
        test: Features and labels of the test examples.
        inverse_penalties: Candidates for C; ties on `valid` are resolved in favour of the smallest.
    """
    classes = np.unique(train[1])
    if len(classes) == 1:
        return Fit(_share(test[1] == classes[0]), _share(valid[1] == classes[0]), None)
    best: Fit | None = None
    for classifier, inverse_penalty in _fitted(train, sorted(inverse_penalties)):
        valid_accuracy = _share(classifier.predict(valid[0]) == valid[1])
        if best is None or valid_accuracy > best.valid_accuracy:
            best = Fit(_share(classifier.predict(test[0]) == test[1]), valid_accuracy, inverse_penalty)
    assert best is not None, "there must be at least one inverse penalty"
    return best


def _fitted(train: tuple[Features, NDArray[np.int64]], grid: Sequence[float]) -> Iterator[tuple[Any, float]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for inverse_penalty in grid:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():  # a fit that has not converged may still be the best on the validation examples
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(*train)
        yield classifier, inverse_penalty


def mixture_accuracy(
    train_NF: NDArray[np.float64],
    test_NF: NDArray[np.float64],
    test_labels_N: NDArray[np.int64],
    components: int,
    seed: int,
) -> float:
    """Return the accuracy of a Gaussian mixture fitted without labels, with components matched one-to-one to classes.

    Covariances are diagonal. The matching maximises the accuracy on the test examples (Hungarian method), so chance
    level is above 1 / C.

    Args:
        train_NF: Features on which the mixture is fitted.
        test_NF: Features of the test examples.
        test_labels_N: Labels of the test examples.
        components: Number of components, at least the number of classes.
        seed: Seed of the fit.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, covariance_type="diag", n_init=3, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        component_N = mixture.fit(train_NF).predict(test_NF)
    counts = np.zeros((components, components), dtype=np.int64)
    np.add.at(counts, (component_N, test_labels_N), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(test_labels_N))


def _share(correct_N: NDArray[np.bool_]) -> float:
    return float(np.mean(correct_N))
