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
    """A run in training: current epoch, maximum number of epochs (0 until the first report), and start time."""

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
    """The state of a sweep for a display, updated at each event of the driver.

    Args:
        arms: The arms of the plan, with their counts at the start.
        objectives: Direction by column. The first objective decides which configuration of an arm is the best.
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
        """Number of runs, by status, that ended without finishing. Runs stored before the start are not counted."""
        self.best: dict[str, Mapping[str, float]] = {}
        """Mean of each objective for the best configuration, by arm."""
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
        if run.is_repeated_after(row):
            return
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
        """Return the means of the objectives that were measured in all `runs` of a configuration."""
        common = [name for name in self.objectives if all(name in run for run in runs)]
        return {name: fmean(run[name] for run in runs) for name in common}

    def time_left(self, concurrent: int) -> TimeLeft | None:
        """Return the estimated time left with `concurrent` runs at a time; None if no run has finished.

        The estimate uses the mean duration of the finished runs of each arm. For an arm without a finished run, it uses
        the mean duration of all finished runs.
        """
        all_seconds = [seconds for of_arm in self._seconds.values() for seconds in of_arm]
        if not all_seconds:
            return None
        missing = {arm.arm: arm.runs - self.ended[arm.arm] for arm in self.arms}
        left = sum(count * fmean(self._seconds.get(arm) or all_seconds) for arm, count in missing.items())
        rough = any(count > 0 and arm not in self._seconds for arm, count in missing.items())
        return TimeLeft(left / concurrent, rough)
