"""What the seeds of a configuration say together: mean and standard error of any column, and the relative cost."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TIME", "Statistic", "Summary", "summarise"]

TIME = "time"
"""The column that `summarise` adds: the time of training over that of the baseline's runs on average."""


@dataclass(frozen=True)
class Statistic:
    """Mean over n runs, and its standard error, None for a single run."""

    mean: float
    se: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic | None:
        """None where nothing was measured."""
        if not values:
            return None
        se = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), se, len(values))

    def text(self, digits: int = 2) -> str:
        spread = f" ± {self.se:.{digits}f}" if self.se is not None else ""
        return f"{round(self.mean, digits) + 0.0:.{digits}f}{spread}"  # never -0.00


@dataclass(frozen=True)
class Summary:
    """One configuration: how its runs ended, and the numbers of those that finished."""

    arm: str
    config_id: str
    parameters: Mapping[str, int | float | str]
    ends: Mapping[str, int]
    columns: Mapping[str, Statistic | None]

    @property
    def runs(self) -> int:
        return sum(self.ends.values())

    def ended(self) -> str:
        """How many runs finished, and how the others ended: `2 1 diverged`."""
        others = " ".join(f"{count} {status}" for status, count in self.ends.items() if status != "finished")
        return f"{self.ends.get('finished', 0)} {others}".strip()


def summarise(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], baseline: str | None = None) -> list[Summary]:
    """A summary for each configuration in `rows`, in order of first appearance.

    Each column rests on the finished runs that measured it. With `baseline`, the name of an arm, a column `time` is
    added: the training time of a run over the mean of the baseline's finished runs, on whatever machines they ran. That
    time is the processor's where every run in question trained on a CPU, since runs that share one slow each other's
    clock down; else `seconds_train`.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["config_id"]), []).append(row)
    on_cpu = all(r["device"] == "cpu" and r["cpu_seconds_train"] is not None for r in rows if r["status"] == "finished")
    clock = "cpu_seconds_train" if on_cpu else "seconds_train"
    unit = Statistic.of([r[clock] for r in rows if r["arm"] == baseline and r["status"] == "finished"])
    found = []
    for (arm, config_id), members in groups.items():
        finished = [row for row in members if row["status"] == "finished"]
        numbers = {name: Statistic.of([r[name] for r in finished if r[name] is not None]) for name in columns}
        if baseline is not None:
            numbers[TIME] = Statistic.of([r[clock] / unit.mean for r in finished]) if unit else None
        ends = Counter(row["status"] for row in members)
        found.append(Summary(arm, config_id, json.loads(members[0]["parameters"] or "{}"), ends, numbers))
    return found
