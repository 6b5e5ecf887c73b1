"""What early stopping would have saved and lost in a stored sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from sweeps.analysis.front import front_of
from sweeps.analysis.pareto import Direction, hypervolume
from sweeps.search.plan import Plan, Run
from sweeps.search.stopping import COUNTS, RunStopper, Verdict, reference_point
from sweeps.spec.sections import StoppingSpec
from sweeps.storage.schema import ENDED

__all__ = ["ArmSavings", "Cost", "Replay", "StoppedRun", "replay"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What training and measuring cost.

    Args:
        evaluations: Number of gradient evaluations: optimiser steps of the encoder and of the decoder.
        seconds: Time of the runs [s], whatever the number of concurrent runs.
    """

    evaluations: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.evaluations + other.evaluations, self.seconds + other.seconds)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.evaluations - other.evaluations, self.seconds - other.seconds)


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


@dataclass(frozen=True)
class _StoredRun:
    run: Run
    row: Row
    curve: Sequence[Row]

    @property
    def cost(self) -> Cost:
        """What the run cost in all: more than its last epoch if it was measured after it."""
        last = _cost(self.curve[-1])
        return Cost(max(last.evaluations, _cost(self.row).evaluations), max(last.seconds, _cost(self.row).seconds))


def replay(stopping: StoppingSpec, plan: Plan, curves: Sequence[Row]) -> Replay:
    """Apply a rule to the stored curves of the ended runs of a sweep.

    The rule sees the epochs in the order in which they ended, at `started_at` plus `seconds` of the epoch, and no epoch
    of a run after its stop. The times are those of the stored sweep, although later runs would have started earlier.

    Args:
        stopping: The rule.
        plan: The plan of the sweep, with its stored rows.
        curves: The stored epochs, sorted by run and epoch.
    """
    stored = list(_stored_runs(plan, curves))
    stopper = RunStopper(stopping, plan.spec.objectives)
    stopped: dict[str, StoppedRun] = {}
    for _, _, one, epoch in sorted(_events(stored), key=lambda event: event[:2]):
        if one.run.run_id in stopped:
            continue
        if epoch is None:
            stopper.on_run_ended(one.run, one.row)
        elif verdict := stopper.observe(one.run, epoch):
            stopped[one.run.run_id] = StoppedRun(one.run, verdict, one.cost - _cost(epoch))
    arms = []
    for arm in plan.spec.arms:
        of_arm = [one for one in stored if one.run.arm == arm.name]
        stops = [one for one in stopped.values() if one.run.arm == arm.name]
        total, saved = sum((one.cost for one in of_arm), Cost()), sum((one.saved for one in stops), Cost())
        if of_arm:
            arms.append(ArmSavings(arm.name, len(of_arm), len(stops), total, saved))
    before = sum(one.row["status"] == "stopped_early" for one in stored)
    return Replay(tuple(arms), tuple(stopped.values()), before, *_front_losses(plan, stopped))


def _stored_runs(plan: Plan, curves: Sequence[Row]) -> Iterator[_StoredRun]:
    """Yield the ended runs of the sweep that have a curve with all counts and times."""
    for run_id, epochs in itertools.groupby(curves, key=lambda epoch: str(epoch["run_id"])):
        row, curve = plan.rows.get(run_id), list(epochs)
        is_complete = all(epoch[column] is not None for epoch in curve for column in (*COUNTS, "seconds"))
        if row is not None and is_complete and row["status"] in ENDED and row["started_at"] is not None:
            configuration = plan.configurations[row["arm"], row["configuration"]]
            yield _StoredRun(plan.run(configuration, row["seed"]), row, curve)


def _events(stored: Sequence[_StoredRun]) -> Iterator[tuple[datetime, int, _StoredRun, Row | None]]:
    """Yield time, number of the run, run and epoch of every epoch and of the end of every run, where epoch is None."""
    for number, one in enumerate(sorted(stored, key=lambda one: one.row["started_at"])):
        time = one.row["started_at"]
        for epoch in one.curve:
            time = one.row["started_at"] + timedelta(seconds=epoch["seconds"])
            yield time, number, one, epoch
        yield time, number, one, None


def _cost(row: Row) -> Cost:
    return Cost(int(row["encoder_steps"] or 0) + int(row["decoder_steps"] or 0), float(row["seconds"] or 0.0))


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
