"""Early stopping on several objectives: which running runs cannot reach the Pareto front any more.

A run is compared at *rungs*, a fixed geometric grid of epochs, by validation values at KL weight 1. It is compared only
at rungs that its own schedule allows (see `Strategy.settled_epoch`), with configurations at rungs that their schedules
allow. This module knows nothing of Ray: the driver and `lagvae replay` use the same `RunStopper`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np

from sweeps.search.dominance import Floats, Sample, find_dominating
from sweeps.search.plan import Plan, Run
from sweeps.spec.sections import COMPARED_COLUMNS, Direction, StoppingRule, StoppingSpec

__all__ = [
    "COMPARED_STATUSES",
    "COUNTS",
    "ETA",
    "FACTOR",
    "RunStopper",
    "Verdict",
    "is_rung",
    "reference_point",
    "restored_stopper",
    "rungs",
]

FACTOR = 1.5
"""Ratio of one rung to the previous one, before rounding up."""

COMPARED_STATUSES = frozenset({"finished", "stopped_early", "running", "interrupted"})
"""Status of the runs with which others are compared. The curve of a run that failed or diverged proves nothing."""

ETA = 3
"""The rule `halving` keeps the better 1 / ETA of the configurations at each rung, and always those of rank 0."""

COUNTS = ("step", "skipped_batches", "encoder_steps", "decoder_steps")
"""Columns of the curve that every comparison needs. They may be null only in tables that others have edited."""

_Record = Mapping[str, Any]


def rungs() -> Iterator[int]:
    """Yield the rungs in increasing order: the distinct values of FACTOR^k, rounded up."""
    values = (math.ceil(FACTOR**power) for power in itertools.count())
    return (value for value, _ in itertools.groupby(values))


def is_rung(epoch: int) -> bool:
    """Return whether `epoch` is a rung."""
    return next(rung for rung in rungs() if rung >= epoch) == epoch


@dataclass(frozen=True)
class Verdict:
    """The decision to stop a run.

    Args:
        rung: Number of the epoch after which the run stops.
        rule: The rule by which it stops.
        dominated_by: Id of a configuration that dominates the run's configuration at this rung.
        reason: A sentence for the column `stop_reason`.
    """

    rung: int
    rule: StoppingRule
    dominated_by: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Point:
    """The values of one run at one rung that its schedule allows, oriented so that lower is better."""

    epoch: int
    evaluations: int
    values_D: Floats


class _ObservedRun:
    """The epochs of one run so far. `points` are in the order of their epochs, and `undecided` may be the last one."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.curve: list[_Record] = []
        self.points: list[_Point] = []
        self.undecided: _Point | None = None

    def take_undecided(self, epoch: int) -> _Point | None:
        """Return the undecided point if it is that of `epoch`. After this or a later epoch, no point is undecided."""
        point = self.undecided
        if point is None or epoch < point.epoch:
            return None
        self.undecided = None
        return point if epoch == point.epoch else None

    def last_within(self, evaluations: int) -> _Point | None:
        """Return the last point with no more gradient evaluations."""
        position = bisect.bisect_right(self.points, evaluations, key=lambda point: point.evaluations)
        return self.points[position - 1] if position else None

    def at(self, epoch: int) -> _Point | None:
        """Return the point at a rung."""
        return next((point for point in self.points if point.epoch == epoch), None)


class RunStopper:
    """Decides at each rung of a run whether the run stops.

    A run is judged once at each rung, by the values of its configuration: the means over its seeds that have reached
    the rung. Which other runs have reached the rung by then depends on their order; nothing is waited for.

    Args:
        stopping: The section `stopping` of the sweep file.
        objectives: Direction of improvement of each objective of the sweep, a key of `COMPARED_COLUMNS`.
    """

    def __init__(self, stopping: StoppingSpec, objectives: Mapping[str, Direction]) -> None:
        self._stopping = stopping
        directions = {COMPARED_COLUMNS[name]: direction for name, direction in objectives.items()}
        self._columns = tuple(directions)
        self._signs_D = np.array([1.0 if direction == "min" else -1.0 for direction in directions.values()])
        self._runs: dict[str, _ObservedRun] = {}

    def observe(self, run: Run, record: _Record) -> Verdict | None:
        """Record an epoch of a run, and decide whether the run stops after it.

        An epoch that was recorded before, such as one that a resumed run repeats, is not judged again, except the last
        restored one. A run is not stopped after the last of its planned epochs.

        Args:
            run: The run.
            record: Columns of the epoch; see `CURVE_COLUMNS`.

        Returns:
            The decision to stop the run; None if it continues.
        """
        point = self._add(run, record) or self._runs[run.run_id].take_undecided(int(record["epoch"]))
        if point is None or point.epoch >= run.config.epochs:
            return None
        own, others = self._compared(run, point)
        return self._front(point, own, others) if self._stopping.rule == "front" else self._halving(point, own, others)

    def restore(self, run: Run, curve: Sequence[_Record]) -> None:
        """Record stored epochs of a run without a decision.

        The decision after the last one follows if the run reports this epoch again: a driver that was killed may have
        stored the epoch without the decision.
        """
        for record in curve:
            point = self._add(run, record)
            self._runs[run.run_id].undecided = point

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        """Leave out a run from all later comparisons if it ended in another way than finished or stopped early."""
        if row["status"] not in COMPARED_STATUSES:
            self._runs.pop(run.run_id, None)

    def _add(self, run: Run, record: _Record) -> _Point | None:
        """Record an epoch, and return its point if it is a new rung at which the run may be compared."""
        observed = self._runs.setdefault(run.run_id, _ObservedRun(run))
        epoch = int(record["epoch"])
        # The settled epoch is found from the whole curve. A run whose stored curve has a gap is not compared.
        if epoch != len(observed.curve) + 1 or any(record[column] is None for column in COUNTS):
            return None
        observed.curve.append(record)
        grace = self._stopping.grace_of(run.config.epochs)
        if not is_rung(epoch) or epoch < run.config.settled_epoch(observed.curve) + grace:
            return None
        values = [record[column] for column in self._columns]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        evaluations = int(record["encoder_steps"]) + int(record["decoder_steps"])
        point = _Point(epoch, evaluations, np.asarray(values, dtype=np.float64) * self._signs_D)
        observed.points.append(point)
        return point

    def _compared(self, run: Run, point: _Point) -> tuple[Sample, list[Sample]]:
        """Return the values of the run's configuration and of the others, as far as they are comparable with `point`.

        Within an arm, these are the values at the same epoch. Across arms, they are those at the last rung with no more
        gradient evaluations. The order is that of the ids, which an interruption does not change.
        """
        values: dict[str, list[Floats]] = {run.config_id: []}
        for _, observed in sorted(self._runs.items()):
            if self._stopping.scope == "all":
                reached = observed.last_within(point.evaluations)
            else:
                reached = observed.at(point.epoch) if observed.run.arm == run.arm else None
            if reached is not None:
                values.setdefault(observed.run.config_id, []).append(reached.values_D)
        own, *others = (Sample(config_id, np.array(values_ND)) for config_id, values_ND in values.items())
        return own, others

    def _front(self, point: _Point, own: Sample, others: Sequence[Sample]) -> Verdict | None:
        confidence = self._stopping.confidence
        domination = find_dominating(own, others, confidence)
        if domination is None:
            return None
        margins = " and ".join(
            f"{column} by {margin:.3g}" for column, margin in zip(self._columns, domination.margin_D, strict=True)
        )
        reason = (
            f"dominated by configuration {domination.config_id} after epoch {point.epoch} (rule front), "
            f"even if it improves in {margins} (confidence {confidence:g})."
        )
        return Verdict(point.epoch, "front", domination.config_id, reason)

    def _halving(self, point: _Point, own: Sample, others: Sequence[Sample]) -> Verdict | None:
        samples = [own, *others]
        if len(samples) < ETA:
            return None
        mean_MD = np.array([sample.mean_D for sample in samples])
        rank_M, contribution_M = _ranking(mean_MD)
        if rank_M[0] == 0:
            return None
        better_M = (rank_M < rank_M[0]) | ((rank_M == rank_M[0]) & (contribution_M > contribution_M[0]))
        better, kept = int(better_M.sum()), math.ceil(len(samples) / ETA)
        if better < kept:
            return None
        dominating_M = (mean_MD <= mean_MD[0]).all(axis=1) & (mean_MD < mean_MD[0]).any(axis=1)
        dominated_by = samples[int(dominating_M.argmax())].config_id
        reason = (
            f"dominated by configuration {dominated_by} after epoch {point.epoch} (rule halving): {better} of "
            f"{len(samples)} configurations are better, and {kept} continue."
        )
        return Verdict(point.epoch, "halving", dominated_by, reason)


def restored_stopper(stopping: StoppingSpec, plan: Plan, curves: Iterable[_Record]) -> RunStopper:
    """Return a stopper that has recorded the stored epochs of a sweep, as if there had been no interruption.

    Args:
        stopping: The section `stopping` of the sweep file.
        plan: The plan of the sweep, with its stored rows.
        curves: The stored epochs, sorted by run and epoch.
    """
    stopper = RunStopper(stopping, plan.spec.objectives)
    for stored in plan.stored_runs(curves):
        if stored.row["status"] in COMPARED_STATUSES:
            stopper.restore(stored.run, stored.curve)
    return stopper


def reference_point(points_MD: Floats) -> Floats:
    """Return a reference point for the hypervolume of points of which lower values are better.

    It is worse than the worst value of each objective by a tenth of the range of its values, or by 1 if all are equal.
    """
    worst_D: Floats = points_MD.max(axis=0)
    span_D: Floats = worst_D - points_MD.min(axis=0)
    return worst_D + np.where(span_D > 0, 0.1 * span_D, 1.0)


def _ranking(points_MD: Floats) -> tuple[Floats, Floats]:
    """Return the non-domination rank of each point, from 0, and its hypervolume contribution within its rank."""
    if points_MD.shape[1] == 1:
        points_MD = np.repeat(points_MD, 2, axis=1)  # moocore needs two objectives; two equal ones rank alike
    rank_M = np.asarray(moocore.pareto_rank(points_MD), dtype=np.float64)
    reference_D = reference_point(points_MD)
    contribution_M = np.zeros(len(points_MD))
    for rank in np.unique(rank_M):
        of_rank = rank_M == rank
        contribution_M[of_rank] = moocore.hv_contributions(points_MD[of_rank], ref=reference_D)
    return rank_M, contribution_M
