"""Statistics over the seeds of a configuration: mean and standard error of each column, and relative training time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "TIME",
    "ConfigurationIdentity",
    "Statistic",
    "Summary",
    "group_rows",
    "identity_of",
    "mean_and_se",
    "summarise",
]

TIME = "time"
"""The column that `summarise` adds: training time divided by the mean training time of the baseline's finished runs."""


def mean_and_se(values_ND: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the first axis and its standard error, std(ddof=1) / sqrt(N).

    Args:
        values_ND: Array [N, D] with N >= 1 values in each of D columns, or array [N].

    Returns:
        Mean [D] and standard error [D], or scalars for an array [N]; the standard error is NaN if N = 1.
    """
    values_ND = np.asarray(values_ND, dtype=np.float64)
    n = len(values_ND)
    mean_D = values_ND.mean(axis=0)
    se_D = values_ND.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full_like(mean_D, np.nan)
    return mean_D, se_D


def group_rows(keys: pd.DataFrame) -> list[NDArray[np.int64]]:
    """Return the positions of the rows with equal keys, for each group in order of first appearance."""
    groups = keys.groupby(list(keys.columns), sort=False, dropna=False).indices.values()
    return sorted((np.asarray(positions, dtype=np.int64) for positions in groups), key=lambda group: int(group[0]))


@dataclass(frozen=True)
class Statistic:
    """Mean of n values.

    Args:
        mean: The mean.
        se: Standard error of the mean; None if n = 1.
        n: Number of values.
    """

    mean: float
    se: float | None
    n: int

    @classmethod
    def of(cls, values_N: ArrayLike) -> Statistic | None:
        """Return the statistic of the values that are not missing (None or NaN); None if all are missing."""
        values_N = np.asarray(values_N, dtype=np.float64)
        present_N = values_N[~np.isnan(values_N)]
        n = len(present_N)
        if not n:
            return None
        mean, se = mean_and_se(present_N)
        return cls(float(mean), float(se) if n > 1 else None, n)

    def text(self, digits: int = 2) -> str:
        """Return the statistic as text, such as `1.50 ± 0.25`."""
        spread = f" ± {self.se:.{digits}f}" if self.se is not None else ""
        return f"{round(self.mean, digits) + 0.0:.{digits}f}{spread}"  # never -0.00


@dataclass(frozen=True)
class ConfigurationIdentity:
    """Identity of a configuration in the results of an analysis.

    Args:
        arm: Name of the arm.
        config_id: Id of the configuration.
        parameters: Values of the searched fields.
    """

    arm: str
    config_id: str
    parameters: Mapping[str, int | float | str]


def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `ConfigurationIdentity` from the row of one of its runs."""
    parameters = json.loads(row["parameters"] or "{}")
    return {"arm": row["arm"], "config_id": row["config_id"], "parameters": parameters}


@dataclass(frozen=True)
class Summary(ConfigurationIdentity):
    """The runs of one configuration.

    Args:
        ends: Number of runs by status.
        columns: Statistic of each column over the finished runs that measured it; None if no run measured it.
        earlier: Whether the runs belong to an earlier version of the sweep.
    """

    ends: Mapping[str, int]
    columns: Mapping[str, Statistic | None]
    earlier: bool = False

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(self.ends.values())

    def ended(self) -> str:
        """Return the number of finished runs, then the number of runs for each other status: `2 1 diverged`."""
        others = " ".join(f"{count} {status}" for status, count in self.ends.items() if status != "finished")
        return f"{self.ends.get('finished', 0)} {others}".strip()


def summarise(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], baseline: str | None = None) -> list[Summary]:
    """Summarise each configuration.

    Args:
        rows: Rows of runs.
        columns: Names of numeric columns.
        baseline: Name of an arm. If given, a column `time` is added: the training time of a run divided by the mean
            training time of the baseline's finished runs, regardless of the machines that they ran on. The time is
            `cpu_seconds_train` if all finished runs trained on a CPU, because wall time grows when runs share a
            machine, and `seconds_train` otherwise.

    Returns:
        One summary per configuration, in order of first appearance.
    """
    times = ["seconds_train", "cpu_seconds_train"]
    table = pd.DataFrame(list(rows), columns=list(dict.fromkeys(["arm", "config_id", "status", *times, *columns])))
    values = {name: table[name].to_numpy(dtype=np.float64) for name in {*times, *columns}}
    is_finished = (table["status"] == "finished").to_numpy()
    on_cpu = all(r["device"] == "cpu" and r["cpu_seconds_train"] is not None for r in rows if r["status"] == "finished")
    seconds = values["cpu_seconds_train" if on_cpu else "seconds_train"]
    unit = Statistic.of(seconds[is_finished & (table["arm"] == baseline).to_numpy()])
    summaries = []
    for runs in group_rows(table[["arm", "config_id"]]):
        finished = runs[is_finished[runs]]
        statistics = {name: Statistic.of(values[name][finished]) for name in columns}
        if baseline is not None:
            statistics[TIME] = Statistic.of(seconds[finished] / unit.mean) if unit is not None else None
        ends = Counter(rows[run]["status"] for run in runs.tolist())
        summaries.append(Summary(**identity_of(rows[int(runs[0])]), ends=ends, columns=statistics))
    return summaries
