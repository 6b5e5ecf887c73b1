"""What the runs of each arm have cost, and how they ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.search.budget import COST_SO_FAR, Cost, cost_of

__all__ = ["COLUMNS", "WITHOUT_RESULT", "ArmCost", "Ending", "arm_costs", "endings"]

Row = Mapping[str, Any]

COLUMNS = (*COST_SO_FAR, "gpus", "device", "stop_reason", "error_class")
"""Columns of a run, besides those that identify it, that this module needs."""


WITHOUT_RESULT = ("diverged", "out_of_memory", "failed")
"""Statuses of runs that ended without a result, though nothing stopped them."""


@dataclass(frozen=True)
class ArmCost:
    """The cost of one arm.

    Args:
        arm: Name of the arm.
        statuses: Number of its runs by status.
        cost: What all of them have cost.
    """

    arm: str
    statuses: Mapping[str, int]
    cost: Cost

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(self.statuses.values())


@dataclass(frozen=True)
class Ending:
    """Runs of one arm that ended without a result in the same way.

    Args:
        arm: Name of the arm.
        status: Their status.
        reason: Class of the exception, or else the reason of the first run.
        runs: Number of these runs.
        example: Id of the first run.
    """

    arm: str
    status: str
    reason: str
    runs: int
    example: str


def arm_costs(rows: Sequence[Row]) -> list[ArmCost]:
    """Return the cost of each arm, in order of first appearance.

    Args:
        rows: Rows of runs, whatever their status.
    """
    statuses: dict[str, Counter[str]] = {}
    costs: dict[str, Cost] = {}
    for row in rows:
        statuses.setdefault(row["arm"], Counter())[row["status"]] += 1
        costs[row["arm"]] = costs.get(row["arm"], Cost()) + cost_of(row)
    return [ArmCost(arm, dict(counts), costs[arm]) for arm, counts in statuses.items()]


def endings(rows: Sequence[Row]) -> list[Ending]:
    """Return how runs ended without a result, the most frequent ways first.

    Args:
        rows: Rows of runs.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["status"] in WITHOUT_RESULT:
            key = row["arm"], row["status"], row["error_class"] or ""
            found.setdefault(key, []).append(row)
    listed = [
        Ending(arm, status, kind or str(of_kind[0]["stop_reason"] or ""), len(of_kind), of_kind[0]["run_id"])
        for (arm, status, kind), of_kind in found.items()
    ]
    return sorted(listed, key=lambda ending: -ending.runs)
