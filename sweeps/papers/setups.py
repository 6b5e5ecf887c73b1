"""What differs between the trials of a sweep and the set-up of a paper, from the stored rows alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.formatting import format_value
from sweeps.papers import Paper

__all__ = ["SetupDifference", "StoredConfiguration", "configurations", "published_dataset_of", "setup_differences"]

ORIGINS = {"paper": "in the paper", "code": "in its published code", "inferred": "in the paper, as inferred"}

TOLERANCE = 0.01
"""Relative; of tokens_per_example, which papers tell rounded."""


@dataclass(frozen=True)
class StoredConfiguration:
    """One configuration of a sweep: its full configuration and its finished rows."""

    config: Mapping[str, Any]
    finished: Sequence[Mapping[str, Any]]

    @property
    def stack(self) -> Sequence[Mapping[str, Any]] | None:
        """The strategies in full; None where the row holds no configuration."""
        return self.config.get("strategies")

    def values(self, key: str) -> set[Any]:
        """What `key` of a `Setup` is here; empty where it does not apply."""
        if key == "seeds":
            return {len(self.finished)} if self.finished else set()
        if key == "test_examples":
            return {row["n"] for row in self.finished if row["n"]}
        if key == "tokens_per_example":
            return {float(f"{row['tokens'] / row['n']:.4g}") for row in self.finished if row["n"] and row["tokens"]}
        section, _, name = key.partition(".")
        inner = self.config.get(section, {})
        return {inner[name]} if name in inner else set()


@dataclass(frozen=True)
class SetupDifference:
    """One key of the set-up that is `here` in `count` of `total` configurations and `there` in the paper."""

    key: str
    here: Any
    there: Any
    origin: str
    count: int
    total: int

    def text(self) -> str:
        where = f" in {self.count} of {self.total} configurations" if self.count < self.total else ""
        return f"{self.key}: {_word(self.here)} here{where}, {_word(self.there)} {ORIGINS[self.origin]}"


def _word(value: object) -> str:
    return "none" if value is None else format_value(value)


def configurations(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], StoredConfiguration]:
    """Arm and config_id to its configuration, in order of first appearance."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["config_id"]), []).append(row)
    return {
        key: StoredConfiguration(
            json.loads(members[0]["config"] or "{}"), [r for r in members if r["status"] == "finished"]
        )
        for key, members in groups.items()
    }


def setup_differences(paper: Paper, dataset: str, found: Sequence[StoredConfiguration]) -> list[SetupDifference]:
    """Every key that the paper's set-up names and that is another value here, in the order of the set-up."""
    return [
        SetupDifference(key, value, there, origin, count, len(found))
        for key, (there, origin) in sorted(paper.setup_of(dataset).items(), key=lambda item: _section(item[0]))
        for value, count in Counter(v for one in found for v in one.values(key)).items()
        if not _same(key, value, there)
    ]


SECTIONS = ("data", "test_examples", "tokens_per_example", "model", "training", "evaluation", "seeds")


def _section(key: str) -> int:
    return SECTIONS.index(key.partition(".")[0])


def _same(key: str, here: Any, there: Any) -> bool:
    if key == "tokens_per_example":
        return math.isclose(here, there, rel_tol=TOLERANCE)
    return bool(here == there)


def published_dataset_of(paper: Paper, found: Sequence[StoredConfiguration], chosen: str | None) -> str:
    """The data set of `paper` to compare with: `chosen`, or what kind and folder of the sweep's data tell.

    Raises:
        ConfigError: `chosen` is none of the paper's, or the data tell none or more than one.
    """
    known = ", ".join(paper.datasets)
    if chosen is not None:
        if chosen not in paper.datasets:
            raise ConfigError(
                [ValidationIssue("--dataset", f"must be a data set of {paper.name}", f"One of: {known}.", chosen)]
            )
        return chosen
    told = {description: _guess(paper, description) for description in map(_description, found)}
    if len(set(told.values())) == 1 and (guess := next(iter(told.values()))) is not None:
        return guess
    message = f"must be given, because the data ({'; '.join(sorted(told))}) tell no single data set of {paper.name}"
    raise ConfigError([ValidationIssue("--dataset", message, f"One of: {known}.", None)])


def _description(one: StoredConfiguration) -> str:
    data = one.config.get("data", {})
    return " ".join((str(data.get("kind", "unknown")), *PurePath(str(data.get("path", ""))).parts[-2:]))


def _guess(paper: Paper, description: str) -> str | None:
    """The data set whose longest word stands in the description; None if there is none."""
    told: Iterator[tuple[int, str]] = (
        (len(word), name)
        for name, dataset in paper.datasets.items()
        for word in dataset.words
        if word in description.lower()
    )
    return max(told, default=(0, None))[1]
