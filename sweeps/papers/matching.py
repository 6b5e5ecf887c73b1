"""Matching of arms to published models, by the kinds of the stack and the fields that the paper states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lagvae_core.strategies import CATALOGUE
from sweeps.formatting import format_value
from sweeps.papers import Paper, PublishedModel, PublishedRow

__all__ = ["FieldDifference", "Match", "matches"]

Stack = Sequence[Mapping[str, Any]]

WORD_DISTANCE = 1e6
"""Distance between a number and a word or between two words, larger than that between any two published numbers."""


@dataclass(frozen=True)
class FieldDifference:
    """A strategy that the arm lacks, or a field with the value `here` in the arm and `there` in the paper.

    `source` says where the difference comes from: `published`, a value that the paper states; `default`, the default
    of a field that the paper does not state; `probable`, a whole strategy that the published model probably uses.
    """

    key: str
    here: Any
    there: Any
    source: Literal["published", "default", "probable"]

    def text(self) -> str:
        if self.source == "probable":
            return f"without {self.key}, which the paper probably uses"
        return f"{self.key} {format_value(self.here)}, {self.source} {format_value(self.there)}"


@dataclass(frozen=True)
class Match:
    """A published row that an arm can be compared with, and the differences between the arm and the row."""

    row: PublishedRow
    model: PublishedModel
    differences: tuple[FieldDifference, ...]

    @property
    def exact(self) -> bool:
        """Whether every field that the paper states has the same value in the arm."""
        return not any(difference.source == "published" for difference in self.differences)


def matches(stack: Stack, paper: Paper, rows: Sequence[PublishedRow]) -> list[Match]:
    """Return the rows of one table that an arm can be compared with.

    Args:
        stack: The strategies of the arm, as its stored configuration lists them.
        paper: The paper that printed the table.
        rows: Rows of the table.

    Returns:
        Among the rows whose models use the same kinds of strategies, those whose stated fields are closest to the
        arm's fields. The distance of an exact match is 0.
    """
    candidates = []
    for row in rows:
        model = paper.model_of(row)
        if model is not None and _same_kinds(stack, model):
            candidates.append(Match(row, model, tuple(_differences(stack, model))))
    nearest = min(map(_distance, candidates), default=0.0)
    return [match for match in candidates if _distance(match) == nearest]


def _same_kinds(stack: Stack, model: PublishedModel) -> bool:
    here = {strategy["kind"] for strategy in stack}
    there = {strategy["kind"] for strategy in model.stack}
    return here <= there and there - here <= set(model.optional)


def _differences(stack: Stack, model: PublishedModel) -> Iterator[FieldDifference]:
    here = {strategy["kind"]: strategy for strategy in stack}
    for stated in model.stack:
        kind = stated["kind"]
        if kind not in here:
            yield FieldDifference(kind, None, None, "probable")
            continue
        defaults = {name: field.default for name, field in CATALOGUE[kind].model_fields.items()}
        for name, value in here[kind].items():
            there = stated.get(name, defaults.get(name, value))
            if value != there:
                yield FieldDifference(f"{kind}.{name}", value, there, "published" if name in stated else "default")


def _distance(match: Match) -> float:
    """Return the sum of the distances between the stated fields and the arm's fields."""
    return sum(_field_distance(d.here, d.there) for d in match.differences if d.source == "published")


def _field_distance(here: object, there: object) -> float:
    """Return the absolute log ratio of two positive numbers, the difference of other numbers, or `WORD_DISTANCE`."""
    numbers = isinstance(here, int | float) and isinstance(there, int | float)
    if not numbers or isinstance(here, bool):
        return WORD_DISTANCE
    assert isinstance(here, int | float)
    assert isinstance(there, int | float)
    return abs(math.log(here / there)) if here > 0 and there > 0 else abs(here - there)
