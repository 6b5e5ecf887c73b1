"""Progress of a running sweep: counts of runs, best configuration per arm, and the estimated time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from lagvae_core.training.record import Progress
from sweeps.search.plan import ArmPlan, Run

__all__ = ["EPOCH_PHASES", "RunProgress", "SweepProgress", "TimeLeft"]

EPOCH_PHASES = {"train": "training", "validate": "validating"}
"""Phases of an epoch, with what a run does in them. All other phases belong to the measurement."""


@dataclass(frozen=True)
class RunProgress:
    """A run in training.

    Attributes:
        run: The run.
        epochs: Maximum number of epochs; 0 until the first report.
        epoch: The last trained epoch with the columns of the curve; None before its first report.
        phase: Progress within an epoch or within the measurement; None if none was reported since the last epoch.
        started: Time at which its process started [s].
        news_at: Time at which its table last changed, for a run of another process [s]; None for a run of this driver.
    """

    run: Run
    epochs: int = 0
    epoch: Mapping[str, Any] | None = None
    phase: Progress | None = None
    started: float = field(default_factory=time.monotonic)
    news_at: float | None = None

    @property
    def trained(self) -> int:
        """Number of trained epochs, as far as they are known."""
        if self.phase is not None:
            return self.phase.epoch - (self.phase.phase in EPOCH_PHASES)
        return 0 if self.epoch is None else int(self.epoch["epoch"])

    @property
    def epochs_done(self) -> float:
        """Number of trained epochs, with the trained part of the current epoch."""
        if self.phase is None or self.phase.phase not in EPOCH_PHASES:
            return self.trained
        return self.trained + (self.phase.done / self.phase.total if self.phase.phase == "train" else 1)

    @property
    def epoch_seconds(self) -> float | None:
        """Mean duration of an epoch with its validation [s]; None before the first epoch is reported."""
        return None if self.epoch is None else float(self.epoch["seconds"]) / int(self.epoch["epoch"])


@dataclass(frozen=True)
class TimeLeft:
    """Estimated time until the sweep ends.

    `rough` is true if an arm has runs that wait, or run without a trained epoch, and has no finished run yet.
    """

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
        self._best: dict[str, tuple[int, Mapping[str, float]]] = {}
        self._finished: dict[str, list[_FinishedRun]] = {}
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

    def advance(self, run: Run, phase: Progress, epochs: int) -> None:
        """Update a running run that reports its progress within an epoch or within the measurement."""
        if run.run_id in self.running:
            self.running[run.run_id] = replace(self.running[run.run_id], phase=phase, epochs=epochs)

    def end_epoch(self, run: Run, epoch: Mapping[str, Any], epochs: int) -> None:
        """Update a running run that has trained an epoch."""
        if run.run_id in self.running:
            self.running[run.run_id] = replace(self.running[run.run_id], epoch=epoch, epochs=epochs, phase=None)

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
        measured = {name: float(row[name]) for name in self.objectives if row.get(name) is not None}
        if next(iter(self.objectives)) in measured:
            self._objectives_of.setdefault(arm, {}).setdefault(row["config_id"], []).append(measured)
        self._finished.setdefault(arm, []).append(_FinishedRun.of(row))

    def best(self, arm: str) -> Mapping[str, float]:
        """Return the mean of each objective for the best configuration of an arm; empty if none was measured.

        A display may call it in a thread of its own. The result is kept until another run of the arm finishes.
        """
        count = len(self._finished.get(arm, ()))
        if arm not in self._objectives_of:
            return {}
        if arm not in self._best or self._best[arm][0] != count:
            first, direction = next(iter(self.objectives.items()))
            means = map(self._mean, list(self._objectives_of[arm].values()))
            self._best[arm] = count, (min if direction == "min" else max)(means, key=lambda mean: mean[first])
        return self._best[arm][1]

    def _mean(self, runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the means of the objectives that were measured in all `runs` of a configuration."""
        common = [name for name in self.objectives if all(name in run for run in runs)]
        return {name: fmean(run[name] for run in runs) for name in common}

    def time_left(self, concurrent: int) -> TimeLeft | None:
        """Return the estimated time left with `concurrent` runs at a time; None if there is nothing to derive it from.

        A run that waits takes the mean duration of the finished runs of its arm. A running run that has trained an
        epoch trains as many epochs as the finished runs of its arm, or else all epochs, each as long as its epochs so
        far; then it is measured. Without a finished run, an arm has the mean duration of its running runs, or else of
        all other runs.
        """
        finished = [run for runs in list(self._finished.values()) for run in runs]
        running: dict[str, list[_Estimate]] = {}
        for run in list(self.running.values()):
            if (estimate := self._estimate(run, finished)) is not None:
                running.setdefault(run.run.arm, []).append(estimate)
        totals = {arm: [run.seconds for run in runs] for arm, runs in self._finished.items()}
        totals = {arm: [estimate.total for estimate in estimates] for arm, estimates in running.items()} | totals
        if not totals:
            return None
        overall = [seconds for of_arm in totals.values() for seconds in of_arm]
        left: list[float] = []
        rough = False
        for arm in self.arms:
            mean = fmean(totals.get(arm.arm, overall))
            estimates = running.get(arm.arm, [])
            others = arm.runs - self.ended[arm.arm] - len(estimates)
            left += [*(estimate.left for estimate in estimates), *([mean] * others)]
            rough = rough or (others > 0 and arm.arm not in self._finished)
        return TimeLeft(max(sum(left) / concurrent, *left), rough) if left else TimeLeft(0.0, rough=False)

    def _estimate(self, running: RunProgress, finished: Sequence[_FinishedRun]) -> _Estimate | None:
        """Return the estimated durations of a running run; None before its first epoch."""
        if running.epoch_seconds is None:
            return None
        of_arm = self._finished.get(running.run.arm, [])
        epochs = max(fmean(run.epochs for run in of_arm) if of_arm else running.epochs, running.epochs_done)
        measurement = fmean(run.seconds_evaluate for run in (of_arm or finished)) if finished else 0.0
        if running.phase is not None and running.phase.phase not in EPOCH_PHASES:
            epochs = running.epochs_done
        left = (epochs - running.epochs_done) * running.epoch_seconds + measurement
        return _Estimate(left, epochs * running.epoch_seconds + measurement)


@dataclass(frozen=True)
class _FinishedRun:
    """Duration of a finished run, and of its measurement [s], and its number of epochs."""

    seconds: float
    seconds_evaluate: float
    epochs: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _FinishedRun:
        return cls(float(row["seconds"] or 0.0), float(row.get("seconds_evaluate") or 0.0), int(row.get("epochs") or 0))


@dataclass(frozen=True)
class _Estimate:
    """Estimated time until a running run ends, and its estimated duration [s]."""

    left: float
    total: float
