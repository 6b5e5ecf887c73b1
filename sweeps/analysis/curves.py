"""Training curves of configurations: mean and standard error over their seeds at every epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from sweeps.analysis.statistics import Statistic, statistics_of
from sweeps.storage.row_table import Groups, RowTable
from sweeps.storage.schema import ENDED, STATUSES

__all__ = ["Curve", "CurvePoint", "curves_of"]

UNFINISHED = STATUSES.difference(ENDED)
"""Statuses of runs that have not ended. Their curves may grow."""


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of a configuration, summarised over its runs.

    Args:
        epoch: Number of the epoch, from 1.
        step: Number of outer updates (optimiser steps on the main objective, as opposed to inner encoder steps)
            completed by the end of the epoch, averaged over the runs.
        runs: Number of runs that trained this epoch.
        columns: Statistic of each column over these runs; None if no run measured the column.
    """

    epoch: int
    step: float
    runs: int
    columns: Mapping[str, Statistic | None]


@dataclass(frozen=True)
class Curve:
    """The training curve of one configuration.

    Args:
        arm: Name of the arm.
        config_id: Id of the configuration.
        name: The arm, followed by the start of `config_id` if the arm has several curves.
        runs: Number of runs that trained at least one epoch; some may have ended before the last epoch.
        points: The epochs, in order.
        earlier: Whether the runs belong to an earlier version of the sweep.
        unfinished: Number of these runs that have not ended, by status (`running` or `interrupted`).
    """

    arm: str
    config_id: str
    name: str
    runs: int
    points: Sequence[CurvePoint]
    earlier: bool = False
    unfinished: Mapping[str, int] = field(default_factory=dict)

    @property
    def unfinished_runs(self) -> str:
        """The runs that have not ended, such as "1 interrupted, 2 running"; "" if there are none."""
        return ", ".join(f"{count} {status}" for status, count in self.unfinished.items())

    @property
    def label(self) -> str:
        """Name in a legend, with the runs that have not ended."""
        return f"{self.name} ({self.unfinished_runs})" if self.unfinished else self.name


def curves_of(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], statuses: Mapping[str, str] = MappingProxyType({})
) -> list[Curve]:
    """Return the curve of each configuration.

    Args:
        rows: One row per run and epoch. A run counts in every epoch that it trained, even if it failed later.
        columns: Names of the columns to include.
        statuses: Status of each run by `run_id`; a run without a status counts as ended.

    Returns:
        The curves, in order of first appearance.
    """
    table = RowTable.of(rows, dict.fromkeys(["arm", "config_id", "run_id", "epoch", "step", *columns]))
    configurations = table.groups("arm", "config_id")
    points = _points(table, configurations, columns)
    runs = table.groups("arm", "config_id", "run_id")
    configuration_of_run = configurations.codes_N[runs.first_G]
    counts = np.bincount(configuration_of_run, minlength=len(configurations)).tolist()
    unfinished: dict[int, Counter[str]] = {}
    if statuses:
        run_ids = table.take(runs.first_G).values("run_id")
        for number, run_id in zip(configuration_of_run.tolist(), run_ids, strict=True):
            if (status := statuses.get(run_id, "")) in UNFINISHED:
                unfinished.setdefault(number, Counter())[status] += 1
    first = table.take(configurations.first_G)
    arms, config_ids = first.values("arm"), first.values("config_id")
    curves_of_arm = Counter(arms)
    return [
        Curve(
            arm,
            config_id,
            arm if curves_of_arm[arm] == 1 else f"{arm} {config_id[:6]}",
            counts[number],
            points[number],
            unfinished=dict(sorted(unfinished.get(number, {}).items())),
        )
        for number, (arm, config_id) in enumerate(zip(arms, config_ids, strict=True))
    ]


def _points(table: RowTable, configurations: Groups, columns: Sequence[str]) -> list[list[CurvePoint]]:
    """Return the epochs of each configuration, in order."""
    groups = table.groups("arm", "config_id", "epoch")
    steps = np.bincount(groups.codes_N, table.floats("step"), minlength=len(groups)) / np.maximum(groups.count_G, 1)
    statistics = {name: statistics_of(table.floats(name), groups.codes_N, len(groups)) for name in columns}
    configuration_P, epoch_P = configurations.codes_N[groups.first_G], table.ints("epoch")[groups.first_G]
    points: list[list[CurvePoint]] = [[] for _ in range(len(configurations))]
    for point in np.lexsort([epoch_P, configuration_P]).tolist():
        of_columns = {name: of_points[point] for name, of_points in statistics.items()}
        found = CurvePoint(int(epoch_P[point]), float(steps[point]), int(groups.count_G[point]), of_columns)
        points[configuration_P[point]].append(found)
    return points
