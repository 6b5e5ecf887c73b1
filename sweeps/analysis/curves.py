"""Training curves of configurations: mean and standard error over their seeds at every epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from sweeps.analysis.statistics import Statistic, group_rows
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
    table = pd.DataFrame(list(rows), columns=list(dict.fromkeys(["arm", "config_id", "run_id", "epoch", *columns])))
    epochs, run_ids = table["epoch"].to_numpy(), table["run_id"]
    values = {name: table[name].to_numpy(dtype=np.float64) for name in columns}
    groups = group_rows(table[["arm", "config_id"]])
    arms = [rows[int(group[0])]["arm"] for group in groups]
    curves = []
    for arm, group in zip(arms, groups, strict=True):
        config_id = rows[int(group[0])]["config_id"]
        name = arm if arms.count(arm) == 1 else f"{arm} {config_id[:6]}"
        points = []
        for epoch in np.unique(epochs[group]).tolist():
            runs = group[epochs[group] == epoch]
            step = fmean(rows[run]["step"] for run in runs.tolist())
            statistics = {name: Statistic.of(values[name][runs]) for name in columns}
            points.append(CurvePoint(epoch, step, len(runs), statistics))
        runs_of_curve = run_ids[group].unique()
        unfinished = Counter(sorted(s for run_id in runs_of_curve if (s := statuses.get(run_id, "")) in UNFINISHED))
        curves.append(Curve(arm, config_id, name, len(runs_of_curve), points, unfinished=dict(unfinished)))
    return curves
