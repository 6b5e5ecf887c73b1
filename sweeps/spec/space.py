"""An arm of a sweep: a stack of strategies, some of whose fields are searched."""

from __future__ import annotations

import difflib
import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ValidationIssue
from lagvae_core.settings import Tunable, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from sweeps.storage.schema import is_integral

if typing.TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Arm", "Dimension", "Value", "parse_arm"]

Value = int | float | str

MOST_PROBES = 4096


@dataclass(frozen=True)
class Dimension:
    """One searched field: its name `kind.field`, and the range as the user or the strategy gives it."""

    name: str
    tunable: Tunable
    integral: bool

    def distribution(self) -> BaseDistribution:
        """The same as an Optuna distribution."""
        from optuna import distributions

        tunable = self.tunable
        if tunable.choices:
            return distributions.CategoricalDistribution(list(tunable.choices))
        assert tunable.low is not None
        assert tunable.high is not None
        if self.integral:
            return distributions.IntDistribution(int(tunable.low), int(tunable.high), log=tunable.log)
        return distributions.FloatDistribution(float(tunable.low), float(tunable.high), log=tunable.log)

    def probes(self) -> tuple[Value, ...]:
        """Values that between them show whether the whole range is lawful: every choice, or both ends."""
        if self.tunable.choices:
            return self.tunable.choices
        assert self.tunable.low is not None
        assert self.tunable.high is not None
        ends = (self.tunable.low, self.tunable.high)
        return tuple(int(end) for end in ends) if self.integral else ends

    def holds(self, value: object) -> bool:
        if self.tunable.choices:
            return value in self.tunable.choices
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        assert self.tunable.low is not None
        assert self.tunable.high is not None
        whole = value == int(value) if self.integral and math.isfinite(value) else not self.integral
        return whole and self.tunable.low <= value <= self.tunable.high


@dataclass(frozen=True)
class Arm:
    """A named stack: the fixed fields of each strategy, and the dimensions that a search turns."""

    name: str
    stack: tuple[dict[str, Any], ...]
    dimensions: tuple[Dimension, ...]

    def strategies(self, parameters: Mapping[str, Value]) -> list[dict[str, Any]]:
        """The stack with `parameters` (`kind.field` to value) filled in."""
        assert set(parameters) == {d.name for d in self.dimensions}, "an arm wants a value for each dimension"
        filled = [dict(item) for item in self.stack]
        for name, value in parameters.items():
            kind, field = name.split(".", 1)
            next(item for item in filled if item["kind"] == kind)[field] = value
        return filled

    def size(self) -> int | None:
        """How many points the space holds; None where a dimension is continuous."""
        axes = self._axes()
        # The length of a range of more than 2^63 has no `len`.
        return None if axes is None else math.prod(a.stop - a.start if isinstance(a, range) else len(a) for a in axes)

    def point(self, number: int) -> dict[str, Value]:
        """Point `number` of a finite space, in a fixed order in which the last dimension turns fastest."""
        axes = self._axes()
        assert axes is not None, "a continuous space has no numbered points"
        found: dict[str, Value] = {}
        for dimension, axis in zip(reversed(self.dimensions), reversed(axes), strict=True):
            number, place = divmod(number, len(axis))
            found[dimension.name] = axis[place]
        assert number == 0, "the space holds fewer points"
        return {dimension.name: found[dimension.name] for dimension in self.dimensions}

    def _axes(self) -> list[Sequence[Value]] | None:
        axes: list[Sequence[Value]] = []
        for dimension in self.dimensions:
            tunable = dimension.tunable
            if tunable.choices:
                axes.append(tunable.choices)
            elif dimension.integral:
                assert tunable.low is not None
                assert tunable.high is not None
                axes.append(range(int(tunable.low), int(tunable.high) + 1))
            else:
                return None
        return axes

    def probe(self) -> dict[str, Value]:
        """One lawful point, to check the stack as a whole."""
        return {dimension.name: dimension.probes()[0] for dimension in self.dimensions}

    def probes(self) -> list[dict[str, Value]]:
        """Points that show whether the space is lawful: every combination of ends and choices.

        Where those are more than a few thousand, each end and choice once, the other dimensions at their first.
        """
        names, values = [d.name for d in self.dimensions], [d.probes() for d in self.dimensions]
        if math.prod(map(len, values)) <= MOST_PROBES:
            return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
        first = self.probe()
        return [first, *(first | {d.name: value} for d in self.dimensions for value in d.probes()[1:])]


def parse_arm(name: str, items: Any, issues: list[ValidationIssue]) -> Arm | None:
    """The arm that a sweep file describes; appends every mistake to `mistakes` and then returns None.

    An item is a kind, or a mapping with `kind`. A field's value is fixed, `{low:, high:}` (and `log:`) or
    `{choices:}`; a tunable field that is not named is searched over the strategy's own range.
    """
    key = f"arms.{name}"
    if not isinstance(items, list | tuple):
        issues.append(ValidationIssue(key, "must be a list of strategies", "Write [] for the plain VAE.", items))
        return None
    found = len(issues)
    stack: list[dict[str, Any]] = []
    dimensions: list[Dimension] = []
    for number, item in enumerate(items):
        where = f"{key}[{number}]"
        item = {"kind": item} if isinstance(item, str) else item
        if not isinstance(item, Mapping) or "kind" not in item:
            message = "must be a strategy's kind, or a mapping with `kind`"
            issues.append(ValidationIssue(where, message, f"Known kinds: {', '.join(CATALOGUE)}.", item))
            continue
        strategy = CATALOGUE.get(str(item["kind"]))
        if strategy is None:
            near = difflib.get_close_matches(str(item["kind"]), CATALOGUE, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known kinds: {', '.join(CATALOGUE)}."
            message = "must be a strategy of `lagvae strategies`"
            issues.append(ValidationIssue(f"{where}.kind", message, hint, item["kind"]))
            continue
        fixed, searched = _split(where, strategy, item, issues)
        stack.append(fixed)
        dimensions.extend(searched)
    return Arm(name, tuple(stack), tuple(dimensions)) if len(issues) == found else None


def _split(
    where: str, strategy: type[Strategy], item: Mapping[str, Any], issues: list[ValidationIssue]
) -> tuple[dict[str, Any], list[Dimension]]:
    """The fixed fields of one item of an arm, and its searched ones."""
    own = {field: tunable for field, _, tunable in tunables(strategy)}
    fixed: dict[str, Any] = {"kind": strategy.name()}
    ranges = {field: tunable for field, tunable in own.items() if field not in item}
    for field, value in item.items():
        if field == "kind":
            continue
        if not isinstance(value, Mapping):
            fixed[field] = value
        elif field not in strategy.model_fields:
            message = f"must be a field of {strategy.name()}"
            issues.append(
                ValidationIssue(f"{where}.{field}", message, f"Known: {', '.join(_fields(strategy))}.", dict(value))
            )
        else:
            integral = is_integral(strategy.model_fields[field].annotation)
            tunable = _range(f"{where}.{field}", value, integral, issues)
            if tunable is not None:
                ranges[field] = tunable
    searched = []
    for field, tunable in ranges.items():
        integral = is_integral(strategy.model_fields[field].annotation)
        dimension = Dimension(f"{strategy.name()}.{field}", tunable, integral and not tunable.choices)
        searched.append(dimension)
    return fixed, searched


def _fields(strategy: type[Strategy]) -> list[str]:
    return [field for field in strategy.model_fields if field != "kind"]


def _range(where: str, value: Mapping[str, Any], integral: bool, issues: list[ValidationIssue]) -> Tunable | None:
    keys = set(value)
    if keys == {"choices"}:
        choices = value["choices"]
        plain = isinstance(choices, list | tuple) and all(isinstance(c, int | float | str) for c in choices)
        if not plain or not choices or len(set(choices)) != len(choices):
            message = "must be a list of different numbers or words"
            issues.append(
                ValidationIssue(f"{where}.choices", message, "Write for example {choices: [1, 2, 4]}.", choices)
            )
            return None
        return Tunable(choices=tuple(choices))
    if {"low", "high"} <= keys <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], value.get("log", False)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
        if not numbers or not isinstance(log, bool):
            message = "must have numbers as low and high, and true or false as log"
            issues.append(
                ValidationIssue(where, message, "Write for example {low: 0.1, high: 1.0, log: true}.", dict(value))
            )
            return None
        if integral and not all(isinstance(end, int) or end.is_integer() for end in (low, high)):
            issues.append(ValidationIssue(where, "must have whole numbers as low and high", "Round them.", dict(value)))
            return None
        if not low < high:
            issues.append(
                ValidationIssue(where, "must satisfy low < high", "Exchange the two, or fix the value.", dict(value))
            )
            return None
        if log and low <= 0:
            issues.append(ValidationIssue(where, "must have low > 0 on a logarithmic scale", "Raise low.", dict(value)))
            return None
        return Tunable(low, high, log)
    message = "must be a value, {low:, high:} (and log:) or {choices:}"
    issues.append(ValidationIssue(where, message, "Remove the other keys.", dict(value)))
    return None
