"""What early stopping would have saved and lost in a stored sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from sweeps.analysis.front import front_of
from sweeps.analysis.pareto import Direction, hypervolume
from sweeps.search.budget import Cost, cost_of
from sweeps.search.plan import Plan, Run, StoredRun
from sweeps.search.stopping import COUNTS, RunStopper, Verdict, reference_point
from sweeps.spec.sections import StoppingSpec
from sweeps.storage.schema import ENDED

__all__ = ["ArmSavings", "Replay", "StoppedRun", "replay"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StoppedRun:
    """A run that the rule would have stopped.

    Args:
        run: The run.
        verdict: The decision.
        saved: What the run cost after it.
    """

    run: Run
    verdict: Verdict
    saved: Cost


@dataclass(frozen=True)
class ArmSavings:
    """Runs and costs of one arm.

    Args:
        arm: Name of the arm.
        runs: Number of its runs.
        stopped: Number of runs that would have been stopped.
        total: What all its runs cost.
        saved: What the stopped runs cost after their stops.
    """

    arm: str
    runs: int
    stopped: int
    total: Cost
    saved: Cost


@dataclass(frozen=True)
class Replay:
    """The result of a rule on the stored curves of a sweep.

    Args:
        arms: The savings of each arm that has ended runs with curves.
        stopped: The stopped runs, in the order of their stops.
        stopped_before: Number of runs that were stopped early in the sweep itself, so that their curves end there.
        members: Ids of the configurations on the Pareto front of all finished runs.
        lost: Those of them of which no finished run would be left.
        hypervolume_share: Hypervolume of the configurations with a finished run left, as a fraction of that of all,
            both by the means over all their finished runs; None without finished runs.
    """

    arms: tuple[ArmSavings, ...]
    stopped: tuple[StoppedRun, ...]
    stopped_before: int
    members: tuple[str, ...]
    lost: tuple[str, ...]
    hypervolume_share: float | None

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(arm.runs for arm in self.arms)

    @property
    def total(self) -> Cost:
        """What all runs cost."""
        return sum((arm.total for arm in self.arms), Cost())

    @property
    def saved(self) -> Cost:
        """What the stopped runs cost after their stops."""
        return sum((arm.saved for arm in self.arms), Cost())


def replay(stopping: StoppingSpec, plan: Plan, curves: Sequence[Row]) -> Replay:
    """Apply a rule to the stored curves of the ended runs of a sweep.

    The rule sees the epochs in the order in which they ended, at `started_at` plus `seconds` of the epoch, and no epoch
    of a run after its stop. The times are those of the stored sweep, although later runs would have started earlier.

    Args:
        stopping: The rule.
        plan: The plan of the sweep, with its stored rows.
        curves: The stored epochs, sorted by run and epoch.
    """
    stored = [one for one in plan.stored_runs(curves) if _is_complete(one)]
    stopper = RunStopper(stopping, plan.spec.objectives)
    stopped: dict[str, StoppedRun] = {}
    for _, _, one, epoch in sorted(_events(stored), key=lambda event: event[:2]):
        if one.run.run_id in stopped:
            continue
        if epoch is None:
            stopper.on_run_ended(one.run, one.row)
        elif verdict := stopper.observe(one.run, epoch):
            stopped[one.run.run_id] = StoppedRun(one.run, verdict, _cost(one) - cost_of(one.row, epoch))
    arms = []
    for arm in plan.spec.arms:
        of_arm = [one for one in stored if one.run.arm == arm.name]
        stops = [one for one in stopped.values() if one.run.arm == arm.name]
        total, saved = sum(map(_cost, of_arm), Cost()), sum((one.saved for one in stops), Cost())
        if of_arm:
            arms.append(ArmSavings(arm.name, len(of_arm), len(stops), total, saved))
    before = sum(one.row["status"] == "stopped_early" for one in stored)
    return Replay(tuple(arms), tuple(stopped.values()), before, *_front_losses(plan, stopped))


def _is_complete(one: StoredRun) -> bool:
    """Return whether the run has ended and its curve has all counts and times."""
    has_counts = all(epoch[column] is not None for epoch in one.curve for column in (*COUNTS, "seconds"))
    return has_counts and one.row["status"] in ENDED and one.row["started_at"] is not None


def _cost(one: StoredRun) -> Cost:
    """Return what the run cost in all: more than up to its last epoch if it was measured after it."""
    return cost_of(one.row).at_least(cost_of(one.row, one.curve[-1]))


def _events(stored: Sequence[StoredRun]) -> Iterator[tuple[datetime, int, StoredRun, Row | None]]:
    """Yield time, number of the run, run and epoch of every epoch and of the end of every run, where epoch is None."""
    for number, one in enumerate(sorted(stored, key=lambda one: one.row["started_at"])):
        time = one.row["started_at"]
        for epoch in one.curve:
            time = one.row["started_at"] + timedelta(seconds=epoch["seconds"])
            yield time, number, one, epoch
        yield time, number, one, None


def _front_losses(
    plan: Plan, stopped: Mapping[str, StoppedRun]
) -> tuple[tuple[str, ...], tuple[str, ...], float | None]:
    """Return the members of the front, those that are lost, and the share of the hypervolume that is left."""
    objectives = plan.spec.objectives
    rows = list(plan.rows.values())
    everything = front_of(rows, objectives)
    left = {row["config_id"] for row in rows if row["status"] == "finished" and row["run_id"] not in stopped}
    members = tuple(row.config_id for row in everything if row.member)
    lost = tuple(config_id for config_id in members if config_id not in left)
    if not everything:
        return members, lost, None
    points_MD = np.array([[row.mean[column] for column in objectives] for row in everything])
    kept_M = np.array([row.config_id in left for row in everything])
    # Every value is turned so that lower is better.
    points_MD = points_MD * [1.0 if direction == "min" else -1.0 for direction in objectives.values()]
    directions: list[Direction] = ["min"] * len(objectives)
    reference_D = reference_point(points_MD)
    volume = hypervolume(points_MD, directions, reference_D)
    return members, lost, hypervolume(points_MD[kept_M], directions, reference_D) / volume
