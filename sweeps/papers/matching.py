"""Which arm is which published model: by the kinds of its stack and the fields that the paper states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lagvae_core.strategies import CATALOGUE
from sweeps.formatting import format_value
from sweeps.papers import Paper, Published, PublishedModel

__all__ = ["Match", "SettingDifference", "matches"]

Stack = Sequence[Mapping[str, Any]]

APART = 1e6
"""The distance between a number and a word, or two words: beyond any two numbers of a paper."""


@dataclass(frozen=True)
class SettingDifference:
    """A field of a strategy that is `here` in an arm and `there` in the paper, or a strategy that the arm is without.

    `source` says whose word `there` is: the paper's (`published`), the field's default where the paper states nothing
    (`default`), or nobody's, of a whole strategy that the row probably has (`probable`).
    """

    key: str
    here: Any
    there: Any
    source: Literal["published", "default", "probable"]

    def text(self) -> str:
        if self.source == "probable":
            return f"without {self.key}, which the paper probably has"
        return f"{self.key} {format_value(self.here)}, {self.source} {format_value(self.there)}"


@dataclass(frozen=True)
class Match:
    """A published row that an arm may stand beside, and in what the two differ all the same."""

    row: Published
    counterpart: PublishedModel
    differences: tuple[SettingDifference, ...]

    @property
    def exact(self) -> bool:
        """Whether every field that the paper states is the same here."""
        return not any(difference.source == "published" for difference in self.differences)


def matches(stack: Stack, paper: Paper, rows: Sequence[Published]) -> list[Match]:
    """The rows of one table that the arm of `stack`, as its stored configuration has it, stands beside.

    Of the rows of the same kinds those whose stated fields are nearest, exact ones at distance 0, with the difference.
    """
    found = []
    for row in rows:
        counterpart = paper.counterpart(row)
        if counterpart is not None and _same_kinds(stack, counterpart):
            found.append(Match(row, counterpart, tuple(_differences(stack, counterpart))))
    nearest = min(map(_distance, found), default=0.0)
    return [match for match in found if _distance(match) == nearest]


def _same_kinds(stack: Stack, counterpart: PublishedModel) -> bool:
    here = {strategy["kind"] for strategy in stack}
    there = {strategy["kind"] for strategy in counterpart.stack}
    return here <= there and there - here <= set(counterpart.optional)


def _differences(stack: Stack, counterpart: PublishedModel) -> Iterator[SettingDifference]:
    here = {strategy["kind"]: strategy for strategy in stack}
    for stated in counterpart.stack:
        kind = stated["kind"]
        if kind not in here:
            yield SettingDifference(kind, None, None, "probable")
            continue
        defaults = {name: field.default for name, field in CATALOGUE[kind].model_fields.items()}
        for name, value in here[kind].items():
            there = stated.get(name, defaults.get(name, value))
            if value != there:
                yield SettingDifference(f"{kind}.{name}", value, there, "published" if name in stated else "default")


def _distance(match: Match) -> float:
    """Sum over the stated fields that differ: of numbers the ratio's logarithm, for any else APART."""
    return sum(_apart(d.here, d.there) for d in match.differences if d.source == "published")


def _apart(here: object, there: object) -> float:
    numbers = isinstance(here, int | float) and isinstance(there, int | float)
    if not numbers or isinstance(here, bool):
        return APART
    assert isinstance(here, int | float)
    assert isinstance(there, int | float)
    return abs(math.log(here / there)) if here > 0 and there > 0 else abs(here - there)
