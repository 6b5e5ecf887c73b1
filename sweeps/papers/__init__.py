"""Published results and set-ups of papers, as data.

`numbers.csv` holds every number of the result tables of He et al. 2019 (`he2019`, Tables 1 to 10) and of the slides of
Song et al. 2024 (`song2024`, Tables 1 to 5), one number per line. A script extracted them from the texts, and they were
checked against the tables. A cell that shows a dash has no line. The column `condition` states a condition of a number
that is not a setting of the model: the number of labelled examples of a classifier, or the evaluation seeds.

- The extracted text lacked some model names and values of beta; they are restored from context. Tables 5 to 10 of
  he2019 are numbered by their order. "Ours" in he2019 is aggressive training.
- Numbers in parentheses in Tables 7 and 8 of he2019 are variances over evaluation seeds. Each variance has its own
  line, except where the extracted text lacks it.
- "Previous reports" under NLL in Table 1 of he2019 are -ELBO, as Table 5 shows. Table 8 gives a -ELBO of 329.54 for
  Yahoo, next to an IW of 328.85 and a KL of 0.00. The -ELBO is probably a misprint, because it is the value of Table 7.
- `Scale-VAE*` of song2024 means "no KL annealing"; every other `*` in song2024 marks a quoted row. song2024 quotes the
  MI of SA-VAE on Yahoo as 3.7, whereas he2019 prints 2.7. The caption of its Table 3 names Yahoo and Yelp, but the
  table contains only Yahoo.

Each YAML file of this folder describes one paper as a `Paper`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.settings import FrozenConfig

__all__ = [
    "Metric",
    "Paper",
    "PublishedDataset",
    "PublishedModel",
    "PublishedNumber",
    "PublishedRow",
    "PublishedSetup",
    "find_paper",
    "paper_names",
    "published_rows",
]

FOLDER = resources.files("sweeps") / "papers"

MI_COLUMNS: dict[str, frozenset[str]] = {
    "batch": frozenset({"mi_batch"}),
    "split": frozenset({"mi", "mi_q"}),
    "unknown": frozenset(),
}
"""The columns that a published MI may be compared with, by the examples that its aggregate posterior averages over.

An MI within batches and an MI over a split are different quantities and are never compared.
"""


class Metric(FrozenConfig):
    """A published quantity: its meaning, and the columns of a sweep to compare it with, the closest one first."""

    columns: tuple[str, ...] = ()
    mixture: Literal["batch", "split", "unknown"] | None = None
    meaning: str

    @model_validator(mode="after")
    def _check_mixture(self) -> Metric:
        mi_columns = set(self.columns) & frozenset().union(*MI_COLUMNS.values())
        allowed = MI_COLUMNS[self.mixture] if self.mixture is not None else frozenset()
        if not mi_columns <= allowed:
            raise ValueError(f"mixture {self.mixture!r} does not allow the columns {', '.join(sorted(mi_columns))}")
        return self


class MetricOverride(FrozenConfig):
    """Models for which the numbers of some tables (all tables if `tables` is empty) have a different meaning."""

    models: tuple[str, ...]
    tables: tuple[str, ...] = ()
    metrics: dict[str, Metric]


class PublishedSetup(FrozenConfig):
    """Values of a trial's configuration by dotted key, grouped by source: the paper, its published code, or inference.

    Three keys do not occur in a configuration: `seeds` (runs per configuration), `test_examples` (number of examples
    of the measured split) and `tokens_per_example` (predicted tokens per example of that split).
    """

    paper: dict[str, Any] = Field(default_factory=dict)
    code: dict[str, Any] = Field(default_factory=dict)
    inferred: dict[str, Any] = Field(default_factory=dict)

    def values(self) -> dict[str, tuple[Any, str]]:
        """Return the value and its source ("paper", "code" or "inferred") for each key."""
        sources = {"paper": self.paper, "code": self.code, "inferred": self.inferred}
        return {key: (value, source) for source, values in sources.items() for key, value in values.items()}


class PublishedDataset(FrozenConfig):
    """A data set of a paper: its published names, words that identify it in a path, and the set-up used for it."""

    published: tuple[str, ...] = ()
    words: Annotated[tuple[str, ...], Field(min_length=1)]
    setup: PublishedSetup = PublishedSetup()
    notes: tuple[str, ...] = ()


class PublishedModel(FrozenConfig):
    """A published model as a stack of strategies, with the fields that the paper states.

    `optional` lists kinds for which the paper does not say whether this model uses them.
    """

    model: str
    hyperparameters: str = ""
    stack: tuple[dict[str, Any], ...]
    optional: tuple[str, ...] = ()
    note: str = ""


class Paper(FrozenConfig):
    """The content of the YAML file of a paper."""

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

    def metric(self, row: PublishedRow, name: str) -> Metric:
        """Return the meaning of the number called `name` in `row`."""
        for exception in self.exceptions:
            applies_to_table = not exception.tables or row.table in exception.tables
            if applies_to_table and row.model in exception.models and name in exception.metrics:
                return exception.metrics[name]
        return self.metrics[name]

    def model_of(self, row: PublishedRow) -> PublishedModel | None:
        """Return the published model of `row` as a stack, or None if no strategy implements it."""
        matching = (m for m in self.models if (m.model, m.hyperparameters) == (row.model, row.hyperparameters))
        return next(matching, None)

    def setup_of(self, dataset: str) -> dict[str, tuple[Any, str]]:
        """Return the value and its source for each key; values of the data set override values of the whole paper."""
        return self.setup.values() | self.datasets[dataset].setup.values()

    def rows(self, dataset: str) -> list[PublishedRow]:
        """Return the published rows on a data set, in the order of the paper."""
        names = self.datasets[dataset].published
        return [row for row in published_rows(self.name) if row.dataset in names]


@dataclass(frozen=True)
class PublishedNumber:
    """A published mean, its spread (None if the paper gives no spread), and the text that the paper prints."""

    mean: float
    std: float | None
    text: str


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table for one data set, with its numbers keyed by metric."""

    table: str
    dataset: str
    model: str
    hyperparameters: str
    condition: str
    numbers: Mapping[str, PublishedNumber]

    @property
    def title(self) -> str:
        details = "; ".join(part for part in (self.hyperparameters.replace(";", ", "), self.condition) if part)
        return f"{self.model} ({details})" if details else self.model


@functools.cache
def published_rows(paper: str) -> tuple[PublishedRow, ...]:
    """Return every row of `paper` in the order of numbers.csv."""
    numbers_of_row: dict[tuple[str, str, str, str, str], dict[str, PublishedNumber]] = {}
    for line in csv.DictReader(FOLDER.joinpath("numbers.csv").read_text("utf-8").splitlines()):
        if line["paper"] == paper:
            key = (line["table"], line["dataset"], line["model"], line["hyperparameters"], line["condition"])
            numbers_of_row.setdefault(key, {})[line["metric"]] = _number(line["mean"], line["std"])
    return tuple(PublishedRow(*key, numbers=numbers) for key, numbers in numbers_of_row.items())


def _number(mean: str, std: str) -> PublishedNumber:
    return PublishedNumber(float(mean), float(std) if std else None, f"{mean} ({std})" if std else mean)


def paper_names() -> list[str]:
    """Return the names of the papers that ship with lagvae."""
    return sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))


def find_paper(name: str) -> Paper:
    """Return the paper with this name.

    Raises:
        ConfigError: No such paper ships with lagvae; the message lists the available papers.
    """
    known = paper_names()
    if name not in known:
        message = f"must be one of {', '.join(known)}"
        raise ConfigError([ValidationIssue("--paper", message, did_you_mean(name, known), name)])
    return Paper.model_validate(yaml.safe_load(FOLDER.joinpath(f"{name}.yaml").read_text("utf-8")))
