"""Accuracy of a linear classifier of posterior means, for several numbers of labels."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import Dataset, Split, TextDomain
from lagvae_core.errors import ValidationIssue
from lagvae_core.metrics.linear_probe import (
    Features,
    fit_probe,
    labelled_order,
    mixture_accuracy,
    subset_sizes,
)
from lagvae_core.models.bag import word_counts
from lagvae_core.randomness import derive_seed
from lagvae_core.studies.base import Findings, Study, StudyProgress
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Probe"]

SPLITS = ("train", "valid", "test")
_ENCODE_BATCH = 500
MEANS, RAW, RANDOM, BAG = "means", "raw_means", "random_encoder", "bag_of_words"


@dataclass(frozen=True)
class _Representation:
    """Features of the examples of each split, and whether they are standardised for the probe."""

    standardised: bool
    train: Features
    valid: Features
    test: Features

    def probe_inputs(self, labelled: NDArray[np.int64]) -> tuple[Features, Features, Features]:
        """Return the features of labelled, valid and test examples, standardised with the labelled examples."""
        train = self.train[labelled]
        if not self.standardised:
            return train, self.valid, self.test
        mean_F, sd_F = train.mean(0), train.std(0)
        sd_F[sd_F == 0.0] = 1.0
        return tuple((part - mean_F) / sd_F for part in (train, self.valid, self.test))


class Probe(Study):
    """Linear probe: test accuracy of an L2-penalised logistic regression on posterior means of the frozen encoder.

    The features are E_q[z|x], the mean of the decoder's input. The labelled examples are drawn from the training split;
    within a draw, a smaller set is a subset of every larger one. The strength of the penalty is chosen on the
    validation split.

    A probe rescales its features, so it can reach some accuracy even with a collapsed encoder. Therefore the means are
    probed twice: standardised with the mean and standard deviation of the labelled examples (`means`), and without
    standardisation (`raw_means`), so that the penalty suppresses features of small scale. There are three baselines:
    predicting the largest class of the training split, the standardised means of the same encoder before training, and
    for text the word counts, not standardised. Training has gained nothing if the accuracy is close to the accuracy
    with the untrained encoder.

    Source: He et al. 2019 and Song et al. 2024, who train a linear layer by SGD with a decaying learning rate. In
    this study a penalised logistic regression is solved to its optimum, which needs no learning rate. The default label
    counts are those of Song et al. 2024.

    If there are fewer training examples than a label count, all training examples are used. For a model without z, only
    the largest class and the word counts are measured.
    """

    columns: ClassVar = (
        Column(
            "probe_accuracy",
            "float",
            "test accuracy on standardised means with the largest number of labels, averaged over draws",
            "max",
        ),
        Column(
            "probe_accuracy_sd", "float", "standard deviation of probe_accuracy over draws; null if there is one draw"
        ),
        Column("probe_accuracy_raw", "float", "probe_accuracy on means that are not standardised", "max"),
        Column("probe_majority", "float", "test accuracy of predicting the largest class of the training split"),
        Column("probe_random", "float", "probe_accuracy of the encoder before training"),
        Column("probe_bow", "float", "test accuracy on word counts; null for data without words"),
        Column(
            "probe_mixture",
            "float",
            "test accuracy of a Gaussian mixture fitted without labels; null unless requested",
            "max",
        ),
        Column("probe_labels", "int", "number of labelled examples with which the accuracies are measured"),
        Column("probe_classes", "int", "number of classes in the training split"),
    )
    tables: ClassVar = {
        "accuracy": (
            "one row for each representation (`features`), number of `labels` and `draw`: accuracy on test and valid, "
            "and the inverse penalty with the best accuracy on valid"
        ),
    }

    kind: Literal["probe"] = "probe"
    labels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (100, 500, 1_000, 2_000, 10_000), min_length=1, description="numbers of labelled training examples"
    )
    draws: int = Field(5, ge=1, le=1_000, description="number of draws of the labelled examples")
    balanced: bool = Field(False, description="draw equally many examples of each class that has examples left")
    inverse_penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.1, 1.0, 10.0, 100.0),
        min_length=1,
        description="candidates for the inverse penalty C of the logistic regression",
    )
    mixture: bool = Field(False, description="also fit a Gaussian mixture without labels")
    seed: int = Field(0, ge=0, description="seed of the draws")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        without = [split for split in SPLITS if getattr(dataset, split).labels is None]
        if without:
            message = f"needs labels in every split, but there are none in {', '.join(without)}"
            yield ValidationIssue("probe", message, "Label all examples of train, valid and test.")

    def measure(self, trained: TrainedModel, progress: StudyProgress) -> Findings:
        truth = _Truth.of(trained.dataset)
        representations = self._representations(trained, progress)
        rows: list[dict[str, Any]] = [truth.majority()]
        fits = len(representations) * self.draws * len(subset_sizes(self.labels, len(truth.train)))
        for features, representation in representations.items():
            for row in self._fit_rows(representation, truth):
                rows.append({"features": features, **row})
                progress("probe", len(rows) - 1, fits)
        table = {name: [row[name] for row in rows] for name in rows[0]}
        mixture = self._mixture(representations[MEANS], truth) if self.mixture and MEANS in representations else None
        return Findings(self._values(rows, truth) | {"probe_mixture": mixture}, {"accuracy": table})

    def _fit_rows(self, representation: _Representation, truth: _Truth) -> Iterator[dict[str, Any]]:
        """Yield one row for each draw and number of labels."""
        for draw in range(self.draws):
            order = labelled_order(truth.train, self.seed, draw, balanced=self.balanced)
            for size in subset_sizes(self.labels, len(order)):
                train, valid, test = representation.probe_inputs(order[:size])
                fit = fit_probe(
                    (train, truth.train[order[:size]]),
                    (valid, truth.valid),
                    (test, truth.test),
                    self.inverse_penalties,
                )
                yield {"labels": size, "draw": draw, **asdict(fit)}

    def _values(self, rows: Sequence[Mapping[str, Any]], truth: _Truth) -> dict[str, Any]:
        """Return the columns. The accuracies are those with the largest number of labels."""
        most = subset_sizes(self.labels, len(truth.train))[-1]

        def accuracies(features: str) -> list[float]:
            return [r["accuracy"] for r in rows if (r["features"], r["labels"]) == (features, most)]

        means = accuracies(MEANS)
        return {
            "probe_accuracy": _mean(means),
            "probe_accuracy_sd": statistics.stdev(means) if len(means) > 1 else None,
            "probe_accuracy_raw": _mean(accuracies(RAW)),
            "probe_majority": rows[0]["accuracy"],
            "probe_random": _mean(accuracies(RANDOM)),
            "probe_bow": _mean(accuracies(BAG)),
            "probe_labels": most,
            "probe_classes": len(np.unique(truth.train)),
        }

    def _representations(self, trained: TrainedModel, progress: StudyProgress) -> dict[str, _Representation]:
        representations: dict[str, _Representation] = {}
        means = _means(trained, "encode", progress)
        if means[0].shape[1]:
            untrained = TrainedModel.untrained(trained.config, trained.dataset, trained.device)
            representations[MEANS] = _Representation(True, *means)
            representations[RAW] = _Representation(False, *means)
            representations[RANDOM] = _Representation(True, *_means(untrained, "encode untrained", progress))
        domain = trained.dataset.domain
        if isinstance(domain, TextDomain):
            bags = [_bag_of_words(getattr(trained.dataset, split), domain.vocabulary) for split in SPLITS]
            representations[BAG] = _Representation(False, *bags)
        return representations

    def _mixture(self, representation: _Representation, truth: _Truth) -> float | None:
        train, _, test = representation.probe_inputs(np.arange(len(truth.train)))
        if len(train) < truth.classes:
            return None
        return mixture_accuracy(train, test, truth.test, truth.classes, derive_seed(self.seed, "mixture"))


@dataclass(frozen=True)
class _Truth:
    """The labels of each split as integers below `classes`, the number of distinct labels over all splits."""

    classes: int
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset) -> _Truth:
        labels = [_labels(getattr(dataset, split)) for split in SPLITS]
        numbers = {label: number for number, label in enumerate(sorted({label for part in labels for label in part}))}
        train, valid, test = (np.array([numbers[label] for label in part], dtype=np.int64) for part in labels)
        return cls(classes=len(numbers), train=train, valid=valid, test=test)

    def majority(self) -> dict[str, Any]:
        """Return the row of the baseline that always predicts the largest class of the training split."""
        largest = int(np.bincount(self.train).argmax())
        accuracy, valid_accuracy = (float(np.mean(part == largest)) for part in (self.test, self.valid))
        return {
            "features": "majority",
            "labels": len(self.train),
            "draw": None,
            "accuracy": accuracy,
            "valid_accuracy": valid_accuracy,
            "inverse_penalty": None,
        }


def _labels(split: Split) -> Sequence[str]:
    assert split.labels is not None, "`issues` excludes data without labels"
    return split.labels


def _means(trained: TrainedModel, phase: str, progress: StudyProgress) -> list[NDArray[np.float64]]:
    splits = [getattr(trained.dataset, split) for split in SPLITS]
    total = sum(map(len, splits))
    before, means = 0, []
    for split in splits:
        done = partial(_report_total, phase, before, total, progress)
        means.append(trained.means(split, done).numpy())
        before += len(split)
    return means


def _report_total(phase: str, before: int, total: int, progress: StudyProgress, examples: int) -> None:
    progress(phase, before + examples, total)


def _bag_of_words(split: Split, vocabulary: int) -> Any:
    """Return the count of each word in each example as a sparse matrix [N, W]."""
    from scipy.sparse import csr_matrix, vstack

    batches = split.batches(_ENCODE_BATCH)
    index = np.concatenate([batch.index_B.numpy() for batch in batches])
    counts = vstack([csr_matrix(word_counts(batch, vocabulary).double().numpy()) for batch in batches]).tocsr()
    return counts[np.argsort(index)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
