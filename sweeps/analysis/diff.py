"""The differences between two stored runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.spec.yaml import dotted_items
from sweeps.storage.plugins import plugins_of
from sweeps.storage.schema import COST_COLUMNS, IDENTITY, PROVENANCE, field_columns

__all__ = ["Difference", "RunDiff", "diff_runs"]

Row = Mapping[str, Any]

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "run": ("arm", "config_id", "seed", "status", "stop_reason", "error_class"),
    "data": ("data_fingerprint",),
    "code": ("lagvae_version", "git_commit", "git_dirty"),
    "environment": ("python_version", "torch_version", "ray_version", "host", "device", "threads", "gpus"),
}
"""Columns of each section that compares columns of the table."""

STEPS = ("encoder_steps", "decoder_steps")
"""Columns of the cost that do not depend on the machine, so that they count as metrics."""

TIMES = (
    *(column.name for column in COST_COLUMNS if column.name not in STEPS),
    *("started_at", "ended_at", "attempt", "history"),
)
"""Columns that differ between two attempts of the same run."""

_NOT_METRICS = frozenset(name for name, _, _ in (*IDENTITY, *PROVENANCE)).difference(STEPS)


@dataclass(frozen=True)
class Difference:
    """Two values of one field or column.

    Args:
        first: Value of the first run; None if it has none.
        second: Value of the second run.
    """

    first: Any
    second: Any

    @property
    def absolute(self) -> float | None:
        """Second minus first; for lists of equal length, the entry of this difference with the largest magnitude."""
        first, second = (v if isinstance(v, list) else [v] for v in (self.first, self.second))
        if len(first) != len(second) or not all(map(_is_number, (*first, *second))):
            return None
        return max((b - a for a, b in zip(first, second, strict=True)), key=abs, default=None)

    @property
    def relative(self) -> float | None:
        """The absolute difference divided by the magnitude of the first value; None for lists and for zero."""
        if self.absolute is None or not _is_number(self.first) or self.first == 0:
            return None
        return float(self.absolute / abs(self.first))


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs. Each mapping holds only what differs.

    Args:
        run: Columns that identify the run and its end.
        configuration: Fields by dotted key: `section.field`, and `kind.field` for strategies.
        data: Fingerprint of the data.
        plugins: SHA-256 of each plugin by name.
        code: Version and commit of lagvae.
        environment: Versions of packages, host, device and threads.
        metrics: Measured columns and numbers of steps.
        times: Columns that differ between two attempts of the same run: times, memory, attempts.
    """

    run: Mapping[str, Difference] = field(default_factory=dict)
    configuration: Mapping[str, Difference] = field(default_factory=dict)
    data: Mapping[str, Difference] = field(default_factory=dict)
    plugins: Mapping[str, Difference] = field(default_factory=dict)
    code: Mapping[str, Difference] = field(default_factory=dict)
    environment: Mapping[str, Difference] = field(default_factory=dict)
    metrics: Mapping[str, Difference] = field(default_factory=dict)
    times: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def sections(self) -> Mapping[str, Mapping[str, Difference]]:
        """Every section but the times, by name."""
        return {name: section for name, section in vars(self).items() if name != "times"}

    @property
    def only_times(self) -> bool:
        """Whether nothing differs except for times."""
        return not any(self.sections.values())

    @property
    def only_measured(self) -> bool:
        """Whether the same configuration gave different metrics on the same data with the same seed."""
        return bool(self.metrics) and not (self.configuration or self.data or self.plugins or "seed" in self.run)


def diff_runs(first: Row, second: Row) -> RunDiff:
    """Compare two stored runs. Values are equal only if they are so to the last digit.

    Args:
        first: Row of a run.
        second: Row of another run, or of the same run in another sweep.
    """
    names = dict.fromkeys([*first, *second])
    metrics = [n for n in names if n not in _NOT_METRICS and n not in TIMES and n not in field_columns()]
    of_columns = {section: _differences(first, second, columns) for section, columns in SECTIONS.items()}
    return RunDiff(
        **of_columns,
        configuration=_differences(_configuration(first), _configuration(second)),
        plugins=_differences(plugins_of(first), plugins_of(second)),
        metrics=_differences(first, second, metrics),
        times=_differences(first, second, TIMES),
    )


def _differences(first: Row, second: Row, names: Sequence[str] | None = None) -> dict[str, Difference]:
    """Return the values that differ, under `names` or else all names of either mapping; a missing one is None."""
    pairs = {name: Difference(first.get(name), second.get(name)) for name in names or dict.fromkeys([*first, *second])}
    # Every value is a scalar or a list from JSON or Arrow; the type distinguishes 1 from True.
    return {
        n: d for n, d in pairs.items() if d.first != d.second or isinstance(d.first, bool) != isinstance(d.second, bool)
    }


def _configuration(row: Row) -> dict[str, Any]:
    """Return the fields of a configuration by dotted key, without the seed. Strategies are also listed by kind."""
    config = {name: value for name, value in json.loads(row.get("config") or "{}").items() if name != "seed"}
    strategies = config.get("strategies")
    if not isinstance(strategies, list) or not all(
        isinstance(item, Mapping) and isinstance(item.get("kind"), str) for item in strategies
    ):
        return dict(_fields(config))  # not written by lagvae
    kinds = {"strategies": [item["kind"] for item in strategies]}
    fields = ((f"{item['kind']}.{name}", v) for item in strategies for name, v in _fields(item) if name != "kind")
    return {**dict(_fields(config)), **kinds, **dict(fields)}


def _fields(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in dotted_items(values) if value != {})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
