"""The cost of runs, and how much of the budget of a sweep is used."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from sweeps.formatting import format_amount
from sweeps.spec.sections import BudgetSpec

__all__ = ["COST_SO_FAR", "BudgetMeter", "BudgetUse", "Cost", "RunCost", "cost_of", "mean_costs"]

COST_SO_FAR = ("seconds", "encoder_steps", "decoder_steps")
"""Columns of the cost that a run reports after each epoch."""


@dataclass(frozen=True)
class Cost:
    """What one or several runs have cost.

    Args:
        seconds: Wall time of the runs, added up even if they ran at the same time [s].
        gpu_seconds: The same, each run weighted by the GPUs or the fraction of a GPU that it occupied [s].
        gradient_evaluations: Number of encoder updates plus number of decoder updates.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    gradient_evaluations: int = 0

    @property
    def hours(self) -> float:
        """`seconds` in the unit of `BudgetSpec` [h]."""
        return self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """`gpu_seconds` in the unit of `BudgetSpec` [h]."""
        return self.gpu_seconds / 3600

    def __add__(self, other: Cost) -> Cost:
        return self._combined(operator.add, other)

    def __sub__(self, other: Cost) -> Cost:
        return self._combined(operator.sub, other)

    def at_least(self, other: Cost) -> Cost:
        """Return the larger value of each kind."""
        return self._combined(max, other)

    def _combined(self, function: Callable[[Any, Any], Any], other: Cost) -> Cost:
        return Cost(*(function(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))


def cost_of(row: Mapping[str, Any], epoch: Mapping[str, Any] | None = None) -> Cost:
    """Return the cost of the run of `row`; of a run that has not ended, up to its last report.

    Rows of earlier versions do not contain the GPUs of the run. If such a run used a GPU, it counts as the whole GPU.

    Args:
        row: Row of the run.
        epoch: An epoch of its curve, if the cost is to be counted only up to the end of this epoch.
    """
    seconds, encoder_steps, decoder_steps = ((epoch or row)[name] or 0 for name in COST_SO_FAR)
    gpus = row["gpus"] if row["gpus"] is not None else float(row["device"] not in (None, "cpu"))
    return Cost(float(seconds), seconds * gpus, int(encoder_steps) + int(decoder_steps))


@dataclass(frozen=True)
class RunCost:
    """The cost of one run of an arm.

    Args:
        seconds: Its wall time [s].
        gradient_evaluations: Number of encoder updates plus number of decoder updates.
        estimated: Whether this is an estimate; otherwise it is the mean over the finished runs of the arm.
    """

    seconds: float
    gradient_evaluations: float
    estimated: bool


def mean_costs(rows: Iterable[Mapping[str, Any]]) -> dict[str, RunCost]:
    """Return the mean cost over the finished runs of each arm. Arms without finished runs are left out."""
    costs: dict[str, list[Cost]] = {}
    for row in rows:
        if row["status"] == "finished" and row["seconds"] is not None:
            costs.setdefault(row["arm"], []).append(cost_of(row))
    return {
        arm: RunCost(fmean(cost.seconds for cost in of_arm), fmean(cost.gradient_evaluations for cost in of_arm), False)
        for arm, of_arm in costs.items()
    }


@dataclass(frozen=True)
class BudgetUse:
    """One limit of a budget and how much of it is used.

    Args:
        name: Key of `BudgetSpec`.
        limit: Value of the key.
        used: The cost so far, in the same unit.
    """

    name: str
    limit: float
    used: float

    @property
    def left(self) -> float:
        """The rest; 0 if the limit is reached or exceeded."""
        return max(0.0, self.limit - self.used)

    def __str__(self) -> str:
        """Return, for example, "3.2 of 12 hours"."""
        unit = self.name.replace("gpu_", "GPU ").replace("_", " ")
        return f"{format_amount(self.used)} of {format_amount(self.limit)} {unit}"


class BudgetMeter:
    """Compares the cost of the runs of a sweep with its budget.

    Args:
        budget: The budget; None if the sweep has none.
        rows: The stored rows that belong to the sweep.
    """

    def __init__(self, budget: BudgetSpec | None, rows: Iterable[Mapping[str, Any]]) -> None:
        self._limits: dict[str, float] = budget.model_dump(exclude_none=True) if budget is not None else {}
        self._costs: dict[str, Cost] = {}
        self._total = Cost()
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count the cost of a run, in place of what was counted for it before."""
        before, now = self._costs.get(row["run_id"], Cost()), cost_of(row)
        self._costs[row["run_id"]] = now
        self._total += now - before

    def uses(self) -> list[BudgetUse]:
        """Return every limit of the budget with what is used of it."""
        return [BudgetUse(name, limit, getattr(self._total, name)) for name, limit in self._limits.items()]

    def spent(self) -> BudgetUse | None:
        """Return the first limit that is reached; None if there is none."""
        return next((use for use in self.uses() if use.used >= use.limit), None)
