"""Search spaces. An arm of a sweep is a stack of strategies, and any of their fields can be searched."""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ValidationIssue, did_you_mean
from lagvae_core.settings import Tunable, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from lagvae_core.strategies.base import DEFAULT
from sweeps.storage.schema import is_integral

if typing.TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Arm", "Dimension", "Value", "parse_arm"]

Value = int | float | str


@dataclass(frozen=True)
class Dimension:
    """One searched field.

    Args:
        name: Name of the field, `kind.field`.
        tunable: Range or choices to search, from the sweep file or, by default, from the strategy.
        integral: Whether the dimension is a range of whole numbers.
    """

    name: str
    tunable: Tunable
    integral: bool

    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution of the dimension."""
        from optuna import distributions

        if self.tunable.choices:
            return distributions.CategoricalDistribution(list(self.tunable.choices))
        low, high = self._bounds()
        if self.integral:
            return distributions.IntDistribution(int(low), int(high), log=self.tunable.log)
        return distributions.FloatDistribution(float(low), float(high), log=self.tunable.log)

    def probes(self) -> tuple[Value, ...]:
        """Return the values at which to validate the dimension: every choice, or both bounds of the range."""
        if self.tunable.choices:
            return self.tunable.choices
        low, high = self._bounds()
        return (int(low), int(high)) if self.integral else (low, high)

    def values(self) -> Sequence[Value] | None:
        """Return all values of the dimension in order; None if it is continuous."""
        if self.tunable.choices:
            return self.tunable.choices
        low, high = self._bounds()
        return range(int(low), int(high) + 1) if self.integral else None

    def contains(self, value: object) -> bool:
        """Return whether `value` is in the range or among the choices."""
        if self.tunable.choices:
            return value in self.tunable.choices
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low, high = self._bounds()
        whole = value == int(value) if self.integral and math.isfinite(value) else not self.integral
        return whole and low <= value <= high

    def _bounds(self) -> tuple[float, float]:
        assert self.tunable.low is not None
        assert self.tunable.high is not None
        return self.tunable.low, self.tunable.high


@dataclass(frozen=True)
class Arm:
    """A named stack of strategies.

    Args:
        name: Name of the arm.
        stack: One mapping per strategy, with its `kind` and its fixed fields.
        dimensions: The searched fields of all strategies.
    """

    name: str
    stack: tuple[dict[str, Any], ...]
    dimensions: tuple[Dimension, ...]

    def strategies(self, parameters: Mapping[str, Value]) -> list[dict[str, Any]]:
        """Return the stack with the searched fields set to `parameters`, which maps each `kind.field` to a value."""
        assert set(parameters) == {d.name for d in self.dimensions}, (
            "`parameters` must have one value for each dimension of the arm, and no other values"
        )
        filled = [dict(item) for item in self.stack]
        for name, value in parameters.items():
            kind, field = name.split(".", 1)
            next(item for item in filled if item["kind"] == kind)[field] = value
        return filled

    def size(self) -> int | None:
        """Return the number of points of the space; None if a dimension is continuous."""
        axes = self._axes()
        # `len` fails on a range of 2^63 values or more.
        return None if axes is None else math.prod(a.stop - a.start if isinstance(a, range) else len(a) for a in axes)

    def point(self, number: int) -> dict[str, Value]:
        """Return point `number` of a finite space, counting from 0. The last dimension varies fastest."""
        axes = self._axes()
        assert axes is not None, "the points of a continuous space cannot be numbered"
        values: dict[str, Value] = {}
        for dimension, axis in zip(reversed(self.dimensions), reversed(axes), strict=True):
            number, position = divmod(number, len(axis))
            values[dimension.name] = axis[position]
        assert number == 0, "the number of the point must be less than the size of the space"
        return {dimension.name: values[dimension.name] for dimension in self.dimensions}

    def probe(self) -> dict[str, Value]:
        """Return one point of the space: the lower bound or the first choice of every dimension."""
        return {dimension.name: dimension.probes()[0] for dimension in self.dimensions}

    def probes(self, limit: int) -> list[dict[str, Value]]:
        """Return the points at which to validate the space.

        They are all combinations of the bounds of its ranges and the values of its choices. If there are more than
        `limit` combinations, each bound or choice is combined only with the first value of every other dimension.
        """
        names, values = [d.name for d in self.dimensions], [d.probes() for d in self.dimensions]
        if math.prod(map(len, values)) <= limit:
            return [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
        first = self.probe()
        return [first, *(first | {d.name: value} for d in self.dimensions for value in d.probes()[1:])]

    def _axes(self) -> list[Sequence[Value]] | None:
        """Return the values of each dimension; None if a dimension is continuous."""
        axes = [values for dimension in self.dimensions if (values := dimension.values()) is not None]
        return axes if len(axes) == len(self.dimensions) else None


def parse_arm(name: str, items: Any, issues: list[ValidationIssue]) -> Arm | None:
    """Parse one arm of a sweep file.

    Each item of the arm is either the kind of a strategy, or a mapping with the key `kind` and any fields of the
    strategy. A field is either fixed to a value, which may be `default`, or searched over a range `{low:, high:}`
    (optionally with `log:`) or over `{choices:}`. A tunable field that the item omits is searched over the range that
    the strategy declares.

    Args:
        name: Name of the arm.
        items: The arm as written in the sweep file.
        issues: List to which every problem of the arm is appended.

    Returns:
        The arm, or None if there is any problem.
    """
    key = f"arms.{name}"
    if not isinstance(items, list | tuple):
        issues.append(ValidationIssue(key, "must be a list of strategies", "Write [] for the plain VAE.", items))
        return None
    if len(items) > len(CATALOGUE):
        message = f"must list each strategy at most once, but has {len(items):,} entries"
        issues.append(ValidationIssue(key, message, f"There are {len(CATALOGUE)} strategies."))
        return None
    issues_before = len(issues)
    stack: list[dict[str, Any]] = []
    dimensions: list[Dimension] = []
    for number, item in enumerate(items):
        where = f"{key}[{number}]"
        item = {"kind": item} if isinstance(item, str) else item
        strategy = _parse_kind(where, item, issues)
        if strategy is not None:
            fixed, searched = _parse_fields(where, strategy, item, issues)
            stack.append(fixed)
            dimensions.extend(searched)
    return Arm(name, tuple(stack), tuple(dimensions)) if len(issues) == issues_before else None


def _parse_kind(where: str, item: Any, issues: list[ValidationIssue]) -> type[Strategy] | None:
    """Return the strategy that an item of an arm names. If it names none, append an issue and return None."""
    known = f"Known kinds: {', '.join(CATALOGUE)}."
    if not isinstance(item, Mapping) or "kind" not in item:
        issues.append(
            ValidationIssue(where, "must be the kind of a strategy, or a mapping with the key `kind`", known, item)
        )
        return None
    kind = item["kind"]
    strategy = CATALOGUE.get(str(kind))
    if strategy is None:
        issues.append(
            ValidationIssue(f"{where}.kind", "must be a known strategy", did_you_mean(kind, CATALOGUE) or known, kind)
        )
    return strategy


def _parse_fields(
    where: str, strategy: type[Strategy], item: Mapping[str, Any], issues: list[ValidationIssue]
) -> tuple[dict[str, Any], list[Dimension]]:
    """Return the fixed fields and the searched fields of one item of an arm."""
    kind = strategy.name()
    integral = {field: is_integral(info.annotation) for field, info in strategy.model_fields.items()}
    fixed: dict[str, Any] = {"kind": kind}
    ranges = {field: tunable for field, _, tunable in tunables(strategy) if field not in item}
    for field, value in item.items():
        if field == "kind":
            continue
        if value == DEFAULT and field in strategy.model_fields:
            continue  # without a value and a range, it has its default
        if not isinstance(value, Mapping):
            fixed[field] = value
        elif field not in integral:
            known = [name for name in strategy.model_fields if name != "kind"]
            hint = f"{did_you_mean(field, known)} Known keys of {kind}: {', '.join(known)}.".lstrip()
            issues.append(ValidationIssue(f"{where}.{field}", "unknown key", hint))
        elif (tunable := _parse_range(f"{where}.{field}", value, integral[field], issues)) is not None:
            if DEFAULT in tunable.choices and (default := strategy.model_fields[field].default) != DEFAULT:
                hint = f"Write the value of the default, {default}."
                where_choices = f"{where}.{field}.choices"
                issues.append(ValidationIssue(where_choices, f"must not contain {DEFAULT}", hint, tunable.choices))
            ranges[field] = tunable
    searched = [
        Dimension(f"{kind}.{field}", tunable, integral[field] and not tunable.choices)
        for field, tunable in ranges.items()
    ]
    return fixed, searched


def _parse_range(where: str, value: Mapping[str, Any], integral: bool, issues: list[ValidationIssue]) -> Tunable | None:
    """Return the range of a searched field. If the range is invalid, append an issue and return None."""
    keys = set(value)
    if keys == {"choices"}:
        return _parse_choices(f"{where}.choices", value["choices"], issues)
    if {"low", "high"} <= keys <= {"low", "high", "log"}:
        low, high, log = value["low"], value["high"], value.get("log", False)
        problem = _problem_of_bounds(low, high, log, integral)
        if problem is None:
            return Tunable(low, high, log)
        issues.append(ValidationIssue(where, *problem, dict(value)))
        return None
    message = "must be a single value, a range {low:, high:} (optionally with log:), or {choices:}"
    hint = "Write, for example, {low: 0.1, high: 1.0} or {choices: [1, 2, 4]}."
    issues.append(ValidationIssue(where, message, hint, dict(value)))
    return None


def _parse_choices(where: str, choices: Any, issues: list[ValidationIssue]) -> Tunable | None:
    plain = isinstance(choices, list | tuple) and all(isinstance(choice, int | float | str) for choice in choices)
    if plain and choices and len(set(choices)) == len(choices):
        return Tunable(choices=tuple(choices))
    hint = "Write, for example, {choices: [1, 2, 4]}."
    issues.append(ValidationIssue(where, "must be a non-empty list of distinct numbers or words", hint, choices))
    return None


def _problem_of_bounds(low: Any, high: Any, log: Any, integral: bool) -> tuple[str, str] | None:
    """Return the message and the hint for the first problem with a range; None if the range is valid."""
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool):
        hint = "Write, for example, {low: 0.1, high: 1.0, log: true}."
        return "must have numbers as `low` and `high`, and true or false as `log`", hint
    if integral and not all(isinstance(end, int) or end.is_integer() for end in (low, high)):
        return "must have whole numbers as `low` and `high`", "Round both bounds."
    if not low < high:
        return "must satisfy low < high", "Swap `low` and `high`, or write a single value in place of the range."
    if log and low <= 0:
        return "must satisfy low > 0 on a logarithmic scale", "Increase `low`, or remove `log`."
    return None
