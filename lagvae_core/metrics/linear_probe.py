"""What a linear classifier reads out of features of few labelled examples; what a mixture finds without labels.

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
"""An array [N, F], or a sparse matrix of that shape; rows can be taken by number."""


@dataclass(frozen=True)
class Fit:
    """The shares of test and validation examples named rightly, and the inverse penalty that validation chose."""

    accuracy: float
    valid_accuracy: float
    inverse_penalty: float | None


def subset_sizes(wished: Sequence[int], available: int) -> list[int]:
    """The numbers of labels that can be had, ascending; a wish beyond `available` becomes all there are."""
    return sorted({min(size, available) for size in wished})


def labelled_order(labels_N: NDArray[np.int64], seed: int, draw: int, *, balanced: bool = False) -> NDArray[np.int64]:
    """An order of all examples, of which the first n are the n labelled ones: so the subsets of a draw are nested.

    Uniformly at random, or, if `balanced`, with the classes in turn for as long as they last.
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
    """A multinomial logistic regression with an L2 penalty, the inverse penalty chosen on `valid`.

    The objective is 0.5 |w|^2 + C sum_n -log p(y_n | x_n), the intercept free, C from `inverse_penalties`; of equals on
    `valid` the smallest C wins. A class that `train` lacks is never named, and where `train` has one class, that is the
    answer.
    """
    classes = np.unique(train[1])
    if len(classes) == 1:
        return Fit(_share(test[1] == classes[0]), _share(valid[1] == classes[0]), None)
    best: Fit | None = None
    for classifier, inverse_penalty in _fitted(train, sorted(inverse_penalties)):
        valid_accuracy = _share(classifier.predict(valid[0]) == valid[1])
        if best is None or valid_accuracy > best.valid_accuracy:
            best = Fit(_share(classifier.predict(test[0]) == test[1]), valid_accuracy, inverse_penalty)
    assert best is not None, "a grid without a point"
    return best


def _fitted(train: tuple[Features, NDArray[np.int64]], grid: Sequence[float]) -> Iterator[tuple[Any, float]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for inverse_penalty in grid:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS)
        with warnings.catch_warnings():  # validation judges the fit, converged or not
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
    """Accuracy without labels: a Gaussian mixture is fitted, its components are matched one to one with classes.

    The matching is the best one on the test examples themselves (Hungarian method), so that chance is above 1 / C.
    `components` is at least the number of classes. Covariances are diagonal.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, covariance_type="diag", n_init=3, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found_N = mixture.fit(train_NF).predict(test_NF)
    counts = np.zeros((components, components), dtype=np.int64)
    np.add.at(counts, (found_N, test_labels_N), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(test_labels_N))


def _share(right_N: NDArray[np.bool_]) -> float:
    return float(np.mean(right_N))
