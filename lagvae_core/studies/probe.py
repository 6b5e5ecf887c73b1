"""How well a linear classifier tells the labels from posterior means, with few labels and with many."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from lagvae_core.studies.base import Findings, Study
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["Probe"]

Progress = Callable[[str, int, int], None]
SPLITS = ("train", "valid", "test")
_ENCODE_BATCH = 500
MEANS, RAW, RANDOM, BAG = "means", "raw_means", "random_encoder", "bag_of_words"


@dataclass(frozen=True)
class _Representation:
    """One way to see the examples: features of each split, and whether a probe sees them standardised."""

    standardised: bool
    train: Features
    valid: Features
    test: Features

    def seen(self, chosen: NDArray[np.int64]) -> tuple[Features, Features, Features]:
        """Features of the labelled examples, of valid and of test; their scale is that of the labelled ones."""
        train = self.train[chosen]
        if not self.standardised:
            return train, self.valid, self.test
        mean_F, deviation_F = train.mean(0), train.std(0)
        deviation_F[deviation_F == 0.0] = 1.0
        return tuple((part - mean_F) / deviation_F for part in (train, self.valid, self.test))


class Probe(Study):
    """Linear probe: accuracy on the test split of an L2 logistic regression on posterior means, the encoder frozen.

    The features are E_q[z|x], what the decoder is given on average. Labelled examples are drawn from the training
    split, the smaller sets of a draw inside its larger ones; the strength of the penalty is chosen on the validation
    split.

    A probe rescales what it reads, and so finds some accuracy even in a collapsed encoder. So means are probed twice,
    as they are (`raw_means`: there the penalty bears on a small scale) and standardised by the labelled examples
    (`means`), and beside them stand the share of the largest class of the training split, the same encoder before its
    training (standardised), and, of texts, the counts of the words (as they are). Accuracy near that of the random
    encoder is no merit of the training.

    Source: He et al. 2019 and Song et al. 2024, who train a linear layer by SGD under a decaying rate; a penalised
    logistic regression is solved to its optimum instead and needs no rate. Numbers of labels as in Song et al. 2024.

    Fewer training examples than labels wished: all of them are taken. A model without z has the baselines alone.
    """

    columns: ClassVar = (
        Column("probe_accuracy", "float", "test accuracy on standardised means, most labels, mean over draws", "max"),
        Column("probe_accuracy_sd", "float", "its standard deviation over draws; null for one draw"),
        Column("probe_accuracy_raw", "float", "the same on the means as they are", "max"),
        Column("probe_majority", "float", "test accuracy of always naming the training split's largest class"),
        Column("probe_random", "float", "probe_accuracy of the encoder before training"),
        Column("probe_bow", "float", "test accuracy on word counts; null where examples have no words"),
        Column("probe_mixture", "float", "accuracy without labels of a Gaussian mixture; null unless asked for", "max"),
        Column("probe_labels", "int", "labelled examples behind these accuracies"),
        Column("probe_classes", "int", "classes of the training split"),
    )
    tables: ClassVar = {
        "accuracy": (
            "one row for each representation (`features`), number of `labels` and `draw`: accuracy on test and valid, "
            "and the inverse penalty that valid chose"
        ),
    }

    kind: Literal["probe"] = "probe"
    labels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (100, 500, 1_000, 2_000, 10_000), min_length=1, description="numbers of labelled training examples"
    )
    draws: int = Field(5, ge=1, le=1_000, description="draws of the labelled examples")
    balanced: bool = Field(False, description="draw as many of each class, as far as they last")
    inverse_penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.1, 1.0, 10.0, 100.0), min_length=1, description="C of the logistic regression, to choose from"
    )
    mixture: bool = Field(False, description="also fit a Gaussian mixture without labels")
    seed: int = Field(0, ge=0, description="of the draws")

    def issues(self, config: TrialConfig, dataset: Dataset) -> Iterator[ValidationIssue]:
        without = [split for split in SPLITS if getattr(dataset, split).labels is None]
        if without:
            hint = "The probe needs a label for every example of train, valid and test."
            yield ValidationIssue("probe", "must have labels in every split", hint, " ".join(without))

    def measure(self, trained: TrainedModel, progress: Progress) -> Findings:
        truth = _Truth.of(trained.dataset)
        representations = self._representations(trained, progress)
        rows: list[dict[str, Any]] = [truth.majority()]
        fits = len(representations) * self.draws * len(subset_sizes(self.labels, len(truth.train)))
        for features, representation in representations.items():
            for row in self._probed(representation, truth):
                rows.append({"features": features, **row})
                progress("probe", len(rows) - 1, fits)
        table = {name: [row[name] for row in rows] for name in rows[0]}
        mixture = self._mixture(representations[MEANS], truth) if self.mixture and MEANS in representations else None
        return Findings(self._values(rows, truth) | {"probe_mixture": mixture}, {"accuracy": table})

    def _probed(self, representation: _Representation, truth: _Truth) -> Iterator[dict[str, Any]]:
        """One row for each draw and number of labels."""
        for draw in range(self.draws):
            order = labelled_order(truth.train, self.seed, draw, balanced=self.balanced)
            for size in subset_sizes(self.labels, len(order)):
                train, valid, test = representation.seen(order[:size])
                fit = fit_probe(
                    (train, truth.train[order[:size]]),
                    (valid, truth.valid),
                    (test, truth.test),
                    self.inverse_penalties,
                )
                yield {"labels": size, "draw": draw, **asdict(fit)}

    def _values(self, rows: Sequence[Mapping[str, Any]], truth: _Truth) -> dict[str, Any]:
        """The columns, those of a representation by its fits on the most labels."""
        most = subset_sizes(self.labels, len(truth.train))[-1]

        def reached(features: str) -> list[float]:
            return [r["accuracy"] for r in rows if (r["features"], r["labels"]) == (features, most)]

        means = reached(MEANS)
        return {
            "probe_accuracy": _mean(means),
            "probe_accuracy_sd": statistics.stdev(means) if len(means) > 1 else None,
            "probe_accuracy_raw": _mean(reached(RAW)),
            "probe_majority": rows[0]["accuracy"],
            "probe_random": _mean(reached(RANDOM)),
            "probe_bow": _mean(reached(BAG)),
            "probe_labels": most,
            "probe_classes": len(np.unique(truth.train)),
        }

    def _representations(self, trained: TrainedModel, progress: Progress) -> dict[str, _Representation]:
        found: dict[str, _Representation] = {}
        means = _means(trained, "encode", progress)
        if means[0].shape[1]:
            untrained = TrainedModel.untrained(trained.config, trained.dataset, trained.device)
            found[MEANS] = _Representation(True, *means)
            found[RAW] = _Representation(False, *means)
            found[RANDOM] = _Representation(True, *_means(untrained, "encode untrained", progress))
        domain = trained.dataset.domain
        if isinstance(domain, TextDomain):
            bags = [_bag_of_words(getattr(trained.dataset, split), domain.vocabulary) for split in SPLITS]
            found[BAG] = _Representation(False, *bags)
        return found

    def _mixture(self, representation: _Representation, truth: _Truth) -> float | None:
        train, _, test = representation.seen(np.arange(len(truth.train)))
        if len(train) < truth.classes:
            return None
        return mixture_accuracy(train, test, truth.test, truth.classes, derive_seed(self.seed, "mixture"))


@dataclass(frozen=True)
class _Truth:
    """The labels of each split as numbers below `classes`, those of all splits together."""

    classes: int
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset) -> _Truth:
        labels = [_labels(getattr(dataset, split)) for split in SPLITS]
        numbers = {label: number for number, label in enumerate(sorted({label for part in labels for label in part}))}
        components = (np.array([numbers[label] for label in part], dtype=np.int64) for part in labels)
        return cls(len(numbers), *components)

    def majority(self) -> dict[str, Any]:
        """The row of who always names the largest class of the training split."""
        named = int(np.bincount(self.train).argmax())
        accuracy, valid_accuracy = (float(np.mean(part == named)) for part in (self.test, self.valid))
        return {
            "features": "majority",
            "labels": len(self.train),
            "draw": None,
            "accuracy": accuracy,
            "valid_accuracy": valid_accuracy,
            "inverse_penalty": None,
        }


def _labels(split: Split) -> Sequence[str]:
    assert split.labels is not None, "`mistakes` is asked first"
    return split.labels


def _means(trained: TrainedModel, phase: str, progress: Progress) -> list[NDArray[np.float64]]:
    splits = [getattr(trained.dataset, split) for split in SPLITS]
    total = sum(map(len, splits))
    before, found = 0, []
    for split in splits:
        done = partial(_further, phase, before, total, progress)
        found.append(trained.means(split, done).numpy())
        before += len(split)
    return found


def _further(phase: str, before: int, total: int, progress: Progress, examples: int) -> None:
    progress(phase, before + examples, total)


def _bag_of_words(split: Split, vocabulary: int) -> Any:
    """How often each word stands in each example, a sparse matrix [N, W]."""
    from scipy.sparse import csr_matrix, vstack

    batches = split.batches(_ENCODE_BATCH)
    index = np.concatenate([batch.index_B.numpy() for batch in batches])
    counts = vstack([csr_matrix(word_counts(batch, vocabulary).double().numpy()) for batch in batches]).tocsr()
    return counts[np.argsort(index)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
