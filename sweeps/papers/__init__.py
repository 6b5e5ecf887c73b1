"""What the papers print, and what each paper is: its columns, its set-up, the stacks that its models are.

`numbers.csv` holds every number of the result tables of He et al. 2019 (`he2019`, Tables 1 to 10) and of the slides
of Song et al. 2024 (`song2024`, Tables 1 to 5), one a line, made by a script from the texts and checked against the
tables. Cells that are printed as a dash have no line. `condition` is what a number is of, where that is no setting of
the model: the labelled examples of a classifier, or evaluation seeds.

- Names and values of beta that the text had lost are restored from their surroundings; Tables 5 to 10 of he2019 are
  numbered by their order. "Ours" there is aggressive training.
- Parentheses in Tables 7 and 8 of he2019 are variances over evaluation seeds: lines of their own, where not lost.
- "Previous reports" under NLL in its Table 1 are -ELBO, as Table 5 shows. Table 8 gives Yahoo a -ELBO of 329.54, that
  of Table 7, against an IW of 328.85 at KL 0.00: likely a misprint.
- `Scale-VAE*` of song2024 means "no KL annealing"; every other `*` there is a quoted row. It quotes SA-VAE's MI on
  Yahoo as 3.7, where he2019 prints 2.7. Its Table 3 names Yahoo and Yelp and prints Yahoo alone.

Beside it, one YAML file for each paper is a `Paper`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig

__all__ = [
    "Metric",
    "Number",
    "Paper",
    "Published",
    "PublishedDataset",
    "PublishedModel",
    "PublishedSetup",
    "find_paper",
    "paper_names",
    "published",
]

FOLDER = resources.files("sweeps") / "papers"

MIXTURES: dict[str, frozenset[str]] = {
    "batch": frozenset({"mi_batch"}),
    "split": frozenset({"mi", "mi_q"}),
    "unknown": frozenset(),
}
"""The columns that may stand beside a published MI, by what it mixes over. The two kinds never compare."""


class Metric(FrozenConfig):
    """A published quantity: the columns of ours that it stands beside, the like one first, and what it is."""

    columns: tuple[str, ...] = ()
    mixture: Literal["batch", "split", "unknown"] | None = None
    meaning: str

    @model_validator(mode="after")
    def _mixtures_are_kept_apart(self) -> Metric:
        information = set(self.columns) & frozenset().union(*MIXTURES.values())
        allowed = MIXTURES[self.mixture] if self.mixture is not None else frozenset()
        if not information <= allowed:
            raise ValueError(f"{sorted(information)} may not stand beside an MI of mixture {self.mixture}")
        return self


class MetricOverride(FrozenConfig):
    """Models whose numbers, in `tables` or in all, are other quantities than their names say elsewhere."""

    models: tuple[str, ...]
    tables: tuple[str, ...] = ()
    metrics: dict[str, Metric]


class PublishedSetup(FrozenConfig):
    """Values of a trial's configuration by dotted key, by who says so: the paper, its published code, or inference.

    Three keys are not of the configuration: `seeds` (runs of a configuration), `test_examples` (the size of the
    measured split) and `tokens_per_example` (its predicted tokens over its examples).
    """

    paper: dict[str, Any] = Field(default_factory=dict)
    code: dict[str, Any] = Field(default_factory=dict)
    inferred: dict[str, Any] = Field(default_factory=dict)

    def values(self) -> dict[str, tuple[Any, str]]:
        """Key to value and origin."""
        origins = {"paper": self.paper, "code": self.code, "inferred": self.inferred}
        return {key: (value, origin) for origin, values in origins.items() for key, value in values.items()}


class PublishedDataset(FrozenConfig):
    """A data set of the paper: its names there, words that give it away in a folder's name, and its set-up."""

    published: tuple[str, ...] = ()
    words: Annotated[tuple[str, ...], Field(min_length=1)]
    setup: PublishedSetup = PublishedSetup()
    notes: tuple[str, ...] = ()


class PublishedModel(FrozenConfig):
    """A published model as a stack: the kinds, and of their fields those that the paper states.

    `optional` are kinds of which the paper does not say whether this row has them.
    """

    model: str
    hyperparameters: str = ""
    stack: tuple[dict[str, Any], ...]
    optional: tuple[str, ...] = ()
    note: str = ""


class Paper(FrozenConfig):
    """A paper as plain data."""

    name: str
    source: str
    spread: str
    notes: tuple[str, ...] = ()
    metrics: dict[str, Metric]
    exceptions: tuple[MetricOverride, ...] = ()
    tables: dict[str, str] = Field(default_factory=dict)
    setup: PublishedSetup
    datasets: dict[str, PublishedDataset]
    models: tuple[PublishedModel, ...]
    unmatched: dict[str, str] = Field(default_factory=dict)

    def metric(self, row: Published, name: str) -> Metric:
        """What the number called `name` in `row` is."""
        for exception in self.exceptions:
            here = not exception.tables or row.table in exception.tables
            if here and row.model in exception.models and name in exception.metrics:
                return exception.metrics[name]
        return self.metrics[name]

    def counterpart(self, row: Published) -> PublishedModel | None:
        """The stack that `row` is, or None where no strategy is it."""
        named = (m for m in self.models if (m.model, m.hyperparameters) == (row.model, row.hyperparameters))
        return next(named, None)

    def setup_of(self, dataset: str) -> dict[str, tuple[Any, str]]:
        """Key to value and origin on a data set, whose own values win."""
        return self.setup.values() | self.datasets[dataset].setup.values()

    def rows(self, dataset: str) -> list[Published]:
        """The published rows on a data set, in the order of the paper."""
        names = self.datasets[dataset].published
        return [row for row in published(self.name) if row.dataset in names]


@dataclass(frozen=True)
class Number:
    """A published mean, its spread where one is printed, and both as they are printed."""

    mean: float
    std: float | None
    text: str


@dataclass(frozen=True)
class Published:
    """One row of a published table on one data set; the numbers by the metric's name."""

    table: str
    dataset: str
    model: str
    hyperparameters: str
    condition: str
    numbers: Mapping[str, Number]

    @property
    def title(self) -> str:
        details = "; ".join(part for part in (self.hyperparameters.replace(";", ", "), self.condition) if part)
        return f"{self.model} ({details})" if details else self.model


@functools.cache
def published(paper: str) -> tuple[Published, ...]:
    """Every row of `paper`, in the order of numbers.csv."""
    found: dict[tuple[str, str, str, str, str], dict[str, Number]] = {}
    for line in csv.DictReader(FOLDER.joinpath("numbers.csv").read_text("utf-8").splitlines()):
        if line["paper"] == paper:
            key = (line["table"], line["dataset"], line["model"], line["hyperparameters"], line["condition"])
            found.setdefault(key, {})[line["metric"]] = _number(line["mean"], line["std"])
    return tuple(Published(*key, numbers=numbers) for key, numbers in found.items())


def _number(mean: str, std: str) -> Number:
    return Number(float(mean), float(std) if std else None, f"{mean} ({std})" if std else mean)


def paper_names() -> list[str]:
    """The papers that ship, by name."""
    return sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))


def find_paper(name: str) -> Paper:
    """The paper of that name; ConfigError naming those that ship if there is none."""
    known: Sequence[str] = paper_names()
    if name not in known:
        hint = "Its numbers and its set-up are in the folder sweeps/papers."
        raise ConfigError([ValidationIssue("--paper", f"must be one of {', '.join(known)}", hint, name)])
    return Paper.model_validate(yaml.safe_load(FOLDER.joinpath(f"{name}.yaml").read_text("utf-8")))
