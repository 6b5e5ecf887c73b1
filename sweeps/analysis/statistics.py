"""Statistics over the seeds of a configuration: mean and standard error of each column, and relative training time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeps.storage.row_table import Groups, RowTable

__all__ = [
    "CONFIDENCE",
    "TIME",
    "TIMES",
    "ConfigurationIdentity",
    "Interval",
    "Statistic",
    "Summary",
    "identity_of",
    "mean_and_se",
    "statistic_text",
    "statistics_of",
    "student_interval",
    "summarise",
]

CONFIDENCE = 0.95
"""Default probability with which an interval contains the true value."""

TIME = "time"
"""The column that `summarise` adds: training time divided by the mean training time of the baseline's finished runs."""


def mean_and_se(values_ND: ArrayLike, axis: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over an axis and its standard error, std(ddof=1) / sqrt(N).

    Args:
        values_ND: Array, such as [N, D] with N >= 1 values in each of D columns.
        axis: The axis of the values.

    Returns:
        Mean and standard error without the axis; the standard error is NaN if N = 1.
    """
    values_ND = np.asarray(values_ND, dtype=np.float64)
    n = values_ND.shape[axis]
    mean_D = values_ND.mean(axis=axis)
    se_D = values_ND.std(axis=axis, ddof=1) / np.sqrt(n) if n > 1 else np.full_like(mean_D, np.nan)
    return mean_D, se_D


def statistics_of(values_N: NDArray[np.float64], codes_N: NDArray[np.int64], groups: int) -> list[Statistic | None]:
    """Return the statistic of each group of values, of those that are not NaN; None if all are.

    Args:
        values_N: The values.
        codes_N: Number of the group of each value.
        groups: Number of groups.
    """
    statistics: list[Statistic | None] = [None] * groups
    present_N = ~np.isnan(values_N)
    values_N = values_N[present_N]
    for group_K, positions_Kn in Groups(codes_N[present_N], groups).by_size():
        n = positions_Kn.shape[1]
        mean_K, se_K = mean_and_se(values_N[positions_Kn], axis=1)
        for group, mean, se in zip(group_K.tolist(), mean_K.tolist(), se_K.tolist(), strict=True):
            statistics[group] = Statistic(mean, se if n > 1 else None, n)
    return statistics


class Interval(NamedTuple):
    """The bounds of an interval, in the unit of its values."""

    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return the interval as text, such as `[1.25, 1.75]`."""
        return f"[{round(self.low, digits) + 0.0:.{digits}f}, {round(self.high, digits) + 0.0:.{digits}f}]"


def student_interval(mean: float, se: float, degrees: float, confidence: float) -> Interval:
    """Return the interval mean ± t se, where t is a quantile of Student's t distribution (Student 1908).

    Args:
        mean: Centre of the interval.
        se: Standard error of the mean.
        degrees: Degrees of freedom of the standard error, at least 1.
        confidence: Probability with which the interval contains the true mean, between 0 and 1.
    """
    from scipy.special import stdtrit

    error = float(stdtrit(degrees, (1 + confidence) / 2)) * se
    return Interval(mean - error, mean + error)


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

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return the interval for the mean by Student's t with n - 1 degrees of freedom; None if n = 1.

        It assumes that the values are independent and normal, which few seeds cannot confirm.
        """
        return student_interval(self.mean, self.se, self.n - 1, confidence) if self.se is not None else None

    def text(self, digits: int = 2) -> str:
        """Return the statistic as text, such as `1.50 ± 0.25`."""
        spread = f" ± {self.se:.{digits}f}" if self.se is not None else ""
        return f"{round(self.mean, digits) + 0.0:.{digits}f}{spread}"  # never -0.00


def statistic_text(statistic: Statistic | None, digits: int = 2) -> str:
    """Return a statistic as text; "" if there are no values."""
    return "" if statistic is None else statistic.text(digits)


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


TIMES = ("seconds_train", "cpu_seconds_train")
"""Columns of the training time."""


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
    needed = ["arm", "config_id", "parameters", "status", "device", *TIMES, *columns]
    table = RowTable.of(rows, dict.fromkeys(needed))
    groups = table.groups("arm", "config_id")
    is_finished = table.equals("status", "finished")
    values = {name: table.floats(name) for name in columns}
    if baseline is not None:
        on_cpu = (table.equals("device", "cpu") & ~np.isnan(table.floats("cpu_seconds_train")))[is_finished].all()
        seconds = table.floats("cpu_seconds_train" if on_cpu else "seconds_train")
        unit = Statistic.of(seconds[is_finished & table.equals("arm", baseline)])
        values[TIME] = seconds / (unit.mean if unit is not None else np.nan)
    finished_N = groups.codes_N[is_finished]
    statistics = {
        name: statistics_of(of_runs[is_finished], finished_N, len(groups)) for name, of_runs in values.items()
    }
    ends = [Counter[str]() for _ in range(len(groups))]
    for group, status in zip(groups.codes_N.tolist(), table.values("status"), strict=True):
        ends[group][status] += 1
    return [
        Summary(
            **identity_of(row), ends=ends[g], columns={name: of_groups[g] for name, of_groups in statistics.items()}
        )
        for g, row in enumerate(table.take(groups.first_G))
    ]
