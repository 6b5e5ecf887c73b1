"""Differences between the trials of a sweep and the set-up of a paper, computed from the stored rows alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.formatting import format_value
from sweeps.papers import Paper

__all__ = [
    "CONFIGURATION_COLUMNS",
    "SetupDifference",
    "StoredConfiguration",
    "configurations",
    "matching_dataset",
    "published_dataset_of",
    "setup_differences",
]

CONFIGURATION_COLUMNS = ("config", "n", "tokens")
"""Columns of a run by which its data and its set-up are compared with a paper, besides those that identify it."""

SOURCES = {"paper": "in the paper", "code": "in its published code", "inferred": "in the paper (inferred)"}

TOLERANCE = 0.01
"""Relative tolerance for tokens_per_example, because papers print a rounded value."""

SECTIONS = ("data", "test_examples", "tokens_per_example", "model", "training", "evaluation", "seeds")
"""Order in which the sections of a set-up are reported."""


@dataclass(frozen=True)
class StoredConfiguration:
    """One configuration of a sweep: all its fields, and the rows of its finished runs."""

    config: Mapping[str, Any]
    finished: Sequence[Mapping[str, Any]]

    @property
    def stack(self) -> Sequence[Mapping[str, Any]] | None:
        """The strategies with all their fields; None if the row stores no configuration."""
        return self.config.get("strategies")

    def values(self, key: str) -> set[Any]:
        """Return this configuration's values of a key of a `PublishedSetup`; an empty set if the key does not apply."""
        if key == "seeds":
            return {len(self.finished)} if self.finished else set()
        if key == "test_examples":
            return {row["n"] for row in self.finished if row["n"]}
        if key == "tokens_per_example":
            return {float(f"{row['tokens'] / row['n']:.4g}") for row in self.finished if row["n"] and row["tokens"]}
        section, _, name = key.partition(".")
        fields = self.config.get(section, {})
        return {fields[name]} if name in fields else set()


@dataclass(frozen=True)
class SetupDifference:
    """One key of the set-up with the value `here` in `count` of `total` configurations, and `there` in the paper."""

    key: str
    here: Any
    there: Any
    origin: str
    count: int
    total: int

    def text(self) -> str:
        share = f" in {self.count} of {self.total} configurations" if self.count < self.total else ""
        return f"{self.key}: {_value_text(self.here)} stored{share}, {_value_text(self.there)} {SOURCES[self.origin]}"


def _value_text(value: object) -> str:
    return "none" if value is None else format_value(value)


def configurations(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], StoredConfiguration]:
    """Return the stored configurations by arm and config_id, in order of first appearance."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["config_id"]), []).append(row)
    return {
        key: StoredConfiguration(
            json.loads(members[0]["config"] or "{}"), [r for r in members if r["status"] == "finished"]
        )
        for key, members in groups.items()
    }


def setup_differences(paper: Paper, dataset: str, stored: Sequence[StoredConfiguration]) -> list[SetupDifference]:
    """Return every key of the paper's set-up that has a different value in some stored configuration."""
    return [
        SetupDifference(key, value, there, origin, count, len(stored))
        for key, (there, origin) in sorted(paper.setup_of(dataset).items(), key=lambda item: _section_index(item[0]))
        for value, count in Counter(v for configuration in stored for v in configuration.values(key)).items()
        if not _equal(key, value, there)
    ]


def _section_index(key: str) -> int:
    return SECTIONS.index(key.partition(".")[0])


def _equal(key: str, here: Any, there: Any) -> bool:
    if key == "tokens_per_example":
        return math.isclose(here, there, rel_tol=TOLERANCE)
    return bool(here == there)


def published_dataset_of(paper: Paper, stored: Sequence[StoredConfiguration], requested: str | None) -> str:
    """Return the data set of `paper` to compare with.

    Args:
        paper: The paper.
        stored: The configurations of the sweep. If `requested` is None, the data set is inferred from the kind and the
            path of their data.
        requested: Name of a data set of the paper.

    Raises:
        ConfigError: The paper has no data set `requested`, or the data match either no data set or several.
    """
    known = list(paper.datasets)
    if requested is not None:
        if requested not in known:
            message = f"must be one of the data sets of {paper.name} ({', '.join(known)})"
            raise ConfigError([ValidationIssue("--dataset", message, did_you_mean(requested, known), requested)])
        return requested
    dataset = matching_dataset(paper, stored)
    if dataset is not None:
        return dataset
    data = "; ".join(sorted(set(map(_describe_data, stored))))
    message = f"must be given, because the data of the sweep ({data}) do not identify one data set of {paper.name}"
    raise ConfigError([ValidationIssue("--dataset", message, f"Choose one of {', '.join(known)}.")])


def matching_dataset(paper: Paper, stored: Sequence[StoredConfiguration]) -> str | None:
    """Return the data set of `paper` that the kind and the path of the data name in all configurations, or None."""
    matching = {_matching_dataset(paper, description) for description in set(map(_describe_data, stored))}
    return next(iter(matching)) if len(matching) == 1 else None


def _describe_data(configuration: StoredConfiguration) -> str:
    data = configuration.config.get("data", {})
    return " ".join((str(data.get("kind", "unknown")), *PurePath(str(data.get("path", ""))).parts[-2:]))


def _matching_dataset(paper: Paper, description: str) -> str | None:
    """Return the data set with the longest word that occurs in the description, or None if no word occurs in it."""
    candidates = [
        (len(word), name)
        for name, dataset in paper.datasets.items()
        for word in dataset.words
        if word in description.lower()
    ]
    return max(candidates)[1] if candidates else None
