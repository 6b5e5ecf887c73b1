"""What the seeds of a configuration say together over training: mean and standard error at every epoch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.analysis.statistics import Statistic

__all__ = ["Curve", "CurvePoint", "curves_of"]


@dataclass(frozen=True)
class CurvePoint:
    """One epoch: how many runs trained it, how many outer updates they had made on average, and their columns."""

    epoch: int
    step: float
    runs: int
    columns: Mapping[str, Statistic | None]


@dataclass(frozen=True)
class Curve:
    """One configuration over training. `runs` trained at least one epoch; some may have ended before the last."""

    arm: str
    config_id: str
    name: str
    runs: int
    points: Sequence[CurvePoint]


def curves_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Curve]:
    """A curve for each configuration in `rows` (one a run and epoch), in order of first appearance.

    Each point rests on the runs that trained that epoch, whatever became of them later.
    """
    grouped: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = {}
    for row in rows:
        grouped.setdefault((row["arm"], row["config_id"]), {}).setdefault(row["epoch"], []).append(row)
    arms = [arm for arm, _ in grouped]
    curves = []
    for (arm, config_id), epochs in grouped.items():
        name = arm if arms.count(arm) == 1 else f"{arm} {config_id[:6]}"
        runs = len({row["run_id"] for of_epoch in epochs.values() for row in of_epoch})
        points = [_point(epoch, epochs[epoch], columns) for epoch in sorted(epochs)]
        curves.append(Curve(arm, config_id, name, runs, points))
    return curves


def _point(epoch: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> CurvePoint:
    found = {name: Statistic.of([row[name] for row in rows if row[name] is not None]) for name in columns}
    return CurvePoint(epoch, statistics.fmean(row["step"] for row in rows), len(rows), found)
