"""Search spaces: the searched fields of an arm, and the points that they span."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.config.recipe import recipe_of
from lagvae_core.config.trial import TrialConfig
from lagvae_core.settings import Tunable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["SECTIONS", "Arm", "Dimension", "Value", "value_of"]

Value = int | float | str

SECTIONS = ("training", "model", "data")
"""Sections of a trial whose fields can be searched, besides the fields of strategies."""

STEP_TOLERANCE = 1e-8
"""Largest distance of a value from the nearest step, in units of the step, that counts as rounding."""


@dataclass(frozen=True)
class Dimension:
    """One searched field.

    Args:
        name: Name of the field: `kind.field` for a strategy, `section.field` for the model, the training or the data.
        tunable: Range or choices to search, from the sweep file or, by default, from the strategy.
        integral: Whether the dimension is a range of whole numbers.
        when: Condition under which the field is searched: the names of other dimensions with choices, each with the
            values at which this dimension exists. Where it does not hold, the field keeps its fixed value.
        shared: Whether the range comes from `space` of the whole sweep.
    """

    name: str
    tunable: Tunable
    integral: bool
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    shared: bool = False

    @property
    def section(self) -> str:
        """Kind of the strategy, or section of the trial, that has the field."""
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """Name of the field within its strategy or section."""
        return self.name.partition(".")[2]

    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution of the dimension."""
        from optuna import distributions

        if self.tunable.choices:
            return distributions.CategoricalDistribution(list(self.tunable.choices))
        low, high = self._bounds()
        step = self.tunable.step
        if self.integral:
            return distributions.IntDistribution(int(low), int(high), log=self.tunable.log, step=int(step or 1))
        return distributions.FloatDistribution(float(low), float(high), log=self.tunable.log, step=step)

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
        if self.integral:
            return range(int(low), int(high) + 1, int(self.tunable.step or 1))
        if self.tunable.step is None:
            return None
        first, step = Decimal(str(low)), Decimal(str(self.tunable.step))
        return [float(first + number * step) for number in range(round((high - low) / self.tunable.step) + 1)]

    def contains(self, value: object) -> bool:
        """Return whether `value` is in the range or among the choices."""
        if self.tunable.choices:
            return value in self.tunable.choices
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low, high = self._bounds()
        return low <= value <= high and bool(self.contains_each(np.array([value]))[0])

    def contains_each(self, numbers_N: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return a mask [N] of the numbers that are in the range."""
        low, high = self._bounds()
        is_inside_N: NDArray[np.bool_] = (low <= numbers_N) & (numbers_N <= high)
        if self.tunable.step is not None:
            steps_N = (numbers_N - low) / self.tunable.step
            return is_inside_N & (abs(steps_N - np.rint(steps_N)) < STEP_TOLERANCE)
        return is_inside_N & (numbers_N == np.floor(numbers_N)) if self.integral else is_inside_N

    def snap(self, value: Value) -> Value:
        """Return the value of a stepped range that is nearest to `value`; of any other dimension, `value` itself."""
        if self.tunable.step is None or self.integral or not isinstance(value, float):
            return value
        values = self.values()
        assert values is not None
        return values[round((value - self._bounds()[0]) / self.tunable.step)]

    def is_active(self, parameters: Mapping[str, Value]) -> bool:
        """Return whether the condition of the dimension holds at `parameters`."""
        return all(name in parameters and parameters[name] in values for name, values in self.when)

    def _bounds(self) -> tuple[float, float]:
        assert self.tunable.low is not None
        assert self.tunable.high is not None
        return self.tunable.low, self.tunable.high


@dataclass(frozen=True)
class Arm:
    """A named stack of strategies, with the values and the searched fields of its trials.

    Args:
        name: Name of the arm.
        stack: One mapping per strategy, with its `kind` and its fixed fields.
        dimensions: The searched fields. Those with a condition come last.
        trial: Values of the trial that hold for this arm alone, by section.
        points: Points to try first. A dimension that a point leaves out is chosen by the sampler. None stands for the
            point at which every field has its default.
        configurations: Number of configurations; None for that of the sweep.
        seeds: Seeds of the runs; None for those of the sweep.
    """

    name: str
    stack: tuple[dict[str, Any], ...]
    dimensions: tuple[Dimension, ...]
    trial: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[Mapping[str, Value], ...] | None = ()
    configurations: int | None = None
    seeds: tuple[int, ...] | None = None

    def strategies(self, parameters: Mapping[str, Value]) -> list[dict[str, Any]]:
        """Return the stack with the searched fields set to `parameters`, which maps each name to a value."""
        assert self.accepts_names(parameters), "`parameters` must have one value for each active dimension, no others"
        filled = [dict(item) for item in self.stack]
        for name, value in parameters.items():
            kind, key = name.split(".", 1)
            if kind not in SECTIONS:
                next(item for item in filled if item["kind"] == kind)[key] = value
        return filled

    def values(self, trial: Mapping[str, Any], parameters: Mapping[str, Value]) -> dict[str, Any]:
        """Return the values of one trial: `trial`, then those of the arm, then `parameters`.

        Args:
            trial: Values of all trials of the sweep, by section.
            parameters: Value of each active dimension.
        """
        values = dict(trial)
        for section, own in self.trial.items():
            values[section] = _merged(section, values, own)
        for name, value in parameters.items():
            section, key = name.split(".", 1)
            if section in SECTIONS:
                values[section] = {**_mapping(values.get(section)), key: value}
        return {**values, "strategies": self.strategies(parameters)}

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` without those of dimensions whose condition does not hold, in the order of the dimensions."""
        return {d.name: values[d.name] for d in self.dimensions if d.name in values and d.is_active(values)}

    def shared_values(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return those of `values` that belong to a range of the whole sweep which this arm searches."""
        return {d.name: values[d.name] for d in self.dimensions if d.shared and d.name in values}

    def accepts_names(self, parameters: Mapping[str, Value]) -> bool:
        """Return whether `parameters` has one value for each active dimension, and no other values."""
        return parameters.keys() == {d.name for d in self.dimensions if not d.when or d.is_active(parameters)}

    def accepts(self, parameters: Mapping[str, Value]) -> bool:
        """Return whether `parameters` is a point of the space."""
        if not self.accepts_names(parameters):
            return False
        return all(d.contains(parameters[d.name]) for d in self.dimensions if d.name in parameters)

    def size(self) -> int | None:
        """Return the number of points of the space; None if a dimension is continuous."""
        if any(dimension.values() is None for dimension in self.dimensions):
            return None
        return sum(math.prod(map(_length, axes.values())) for axes in self._blocks())

    def point(self, number: int) -> dict[str, Value]:
        """Return point `number` of a finite space, counting from 0. The last dimension varies fastest."""
        for axes in self._blocks():
            size = math.prod(map(_length, axes.values()))
            if number >= size:
                number -= size
                continue
            values: dict[str, Value] = {}
            for name, axis in reversed(axes.items()):
                number, position = divmod(number, _length(axis))
                values[name] = axis[position]
            return {dimension.name: values[dimension.name] for dimension in self.dimensions if dimension.name in values}
        raise AssertionError("the number of the point must be less than the size of the space")

    def probe(self) -> dict[str, Value]:
        """Return one point of the space: the lower bound or the first choice of every dimension."""
        return self.active({dimension.name: dimension.probes()[0] for dimension in self.dimensions})

    def probes(self, limit: int) -> list[dict[str, Value]]:
        """Return the points at which to validate the space.

        They are all combinations of the bounds of its ranges and the values of its choices. If there are more than
        `limit` combinations, each bound or choice is combined only with the first value of every other dimension that
        lets it exist.
        """
        names, probes = [d.name for d in self.dimensions], [d.probes() for d in self.dimensions]
        if math.prod(map(len, probes)) <= limit:
            points = [dict(zip(names, point, strict=True)) for point in itertools.product(*probes)]
        else:
            first = {name: values[0] for name, values in zip(names, probes, strict=True)}
            points = [first]
            for dimension, values in zip(self.dimensions, probes, strict=True):
                condition = {name: allowed[0] for name, allowed in dimension.when}
                points += [first | condition | {dimension.name: value} for value in values]
        return list({repr(point): point for point in map(self.active, points)}.values())

    def _blocks(self) -> Iterator[dict[str, Sequence[Value]]]:
        """Yield the values of each dimension of a finite space, separately for each set of dimensions that exist."""
        deciding = {name for dimension in self.dimensions for name, _ in dimension.when}
        axes = {dimension.name: dimension.values() or () for dimension in self.dimensions}
        for chosen in itertools.product(*(axes[name] for name in axes if name in deciding)):
            values = dict(zip([name for name in axes if name in deciding], chosen, strict=True))
            yield {
                d.name: [values[d.name]] if d.name in values else axes[d.name]
                for d in self.dimensions
                if d.is_active(values)
            }


def value_of(config: TrialConfig, name: str) -> Any:
    """Return the value of the field `name` in a configuration; None if it has no such strategy or field."""
    section, _, key = name.partition(".")
    if section in SECTIONS:
        return getattr(getattr(config, section), key, None)
    strategies = {strategy.kind: strategy for strategy in config.strategies}
    return getattr(strategies.get(section), key, None)


def _length(axis: Sequence[Value]) -> int:
    # `len` fails on a range of 2^63 values or more.
    return max(0, -((axis.start - axis.stop) // axis.step)) if isinstance(axis, range) else len(axis)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _merged(section: str, trial: Mapping[str, Any], own: Any) -> Any:
    """Return a section of the trial with the arm's `own` values.

    Fields of one model mean nothing to another, so a model of another kind replaces the section as a whole.
    """
    shared = trial.get(section)
    if not isinstance(own, Mapping) or not isinstance(shared, Mapping):
        return own
    if section == "model" and "kind" in own:
        recipe = recipe_of(str(_mapping(trial.get("data")).get("kind", "synthetic")))
        if own["kind"] != shared.get("kind", recipe.get("model", {}).get("kind")):
            return own
    return {**shared, **own}
