"""Progress of a running sweep: counts of runs, best configuration per arm, and the estimated time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from sweeps.search.plan import ArmPlan, Run

__all__ = ["RunProgress", "SweepProgress", "TimeLeft"]


@dataclass(frozen=True)
class RunProgress:
    """A run in training: its current epoch, its maximum number of epochs (0 before it starts), and its start time."""

    run: Run
    epoch: int = 0
    epochs: int = 0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class TimeLeft:
    """Estimated time until the sweep ends; `rough` is true if an arm with missing runs has no finished run yet."""

    seconds: float
    rough: bool


class SweepProgress:
    """The state of a sweep as shown on a display. The events of the driver update it.

    Args:
        arms: The arms of the plan, with their counts at the start.
        objectives: Direction by column; the best configuration of an arm is the best in the first objective.
        rows: The stored rows of the sweep.
    """

    def __init__(
        self,
        arms: Sequence[ArmPlan] = (),
        objectives: Mapping[str, str] | None = None,
        rows: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.arms = arms
        self.objectives = objectives or {}
        self.ended = Counter({arm.arm: arm.ended for arm in arms})
        self.running: dict[str, RunProgress] = {}
        self.unsuccessful: Counter[str] = Counter()
        """Runs that ended since the start and did not finish, by status."""
        self.best: dict[str, Mapping[str, float]] = {}
        """Means of the objectives of the best configuration, by arm."""
        self._seconds: dict[str, list[float]] = {}
        self._objectives_of: dict[str, dict[str, list[dict[str, float]]]] = {}
        for row in rows:
            self.add_row(row)

    @property
    def total(self) -> int:
        return sum(arm.runs for arm in self.arms)

    @property
    def done(self) -> int:
        return self.ended.total()

    def start(self, run: Run) -> None:
        self.running[run.run_id] = RunProgress(run)

    def advance(self, run: Run, epoch: int, epochs: int) -> None:
        if run.run_id in self.running:
            self.running[run.run_id] = replace(self.running[run.run_id], epoch=epoch, epochs=epochs)

    def end(self, run: Run, row: Mapping[str, Any]) -> None:
        self.running.pop(run.run_id, None)
        self.ended[run.arm] += 1
        if row["status"] != "finished":
            self.unsuccessful[row["status"]] += 1
        self.add_row(row)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Update the best configurations and the mean durations with a row; runs that did not finish are ignored."""
        if row["status"] != "finished" or not self.objectives:
            return
        arm = row["arm"]
        self._seconds.setdefault(arm, []).append(float(row["seconds"] or 0.0))
        measured = {name: float(row[name]) for name in self.objectives if row.get(name) is not None}
        first, direction = next(iter(self.objectives.items()))
        if first not in measured:
            return
        configurations = self._objectives_of.setdefault(arm, {})
        configurations.setdefault(row["config_id"], []).append(measured)
        means = map(self._mean, configurations.values())
        self.best[arm] = (min if direction == "min" else max)(means, key=lambda mean: mean[first])

    def _mean(self, runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the means of the objectives that all `runs` of a configuration have measured."""
        common = [name for name in self.objectives if all(name in run for run in runs)]
        return {name: fmean(run[name] for run in runs) for name in common}

    def time_left(self, concurrent: int) -> TimeLeft | None:
        """Return the estimated time left with `concurrent` runs at a time; None if no run has finished.

        The estimate uses the mean duration of the finished runs of each arm. An arm without a finished run is assumed
        to have the mean duration of all arms.
        """
        all_seconds = [seconds for of_arm in self._seconds.values() for seconds in of_arm]
        if not all_seconds:
            return None
        missing = {arm.arm: arm.runs - self.ended[arm.arm] for arm in self.arms}
        left = sum(count * fmean(self._seconds.get(arm) or all_seconds) for arm, count in missing.items())
        rough = any(count > 0 and arm not in self._seconds for arm, count in missing.items())
        return TimeLeft(left / concurrent, rough)
