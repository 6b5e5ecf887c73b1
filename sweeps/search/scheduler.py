"""RunScheduler: decides which run of a sweep starts next."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from sweeps.search.arm_study import ArmStudy
from sweeps.search.budget import BudgetMeter
from sweeps.search.plan import Configuration, Plan, Run
from sweeps.search.shared_values import SharedValues
from sweeps.spec.space import Arm
from sweeps.storage.schema import ENDED

__all__ = ["RunScheduler"]


IDENTICAL_FAILURES_TO_ABORT = 3
"""Number of runs after which the sweep is aborted if all of them failed with the same error.

If at least two arms have missing runs, the failed runs must belong to at least two arms.
"""


class RunScheduler:
    """Chooses the next run of a plan, taking one configuration of each arm in turn, and passes results to the studies.

    Each arm has one Optuna study. The seeds of a configuration are replicates: the study receives one result per
    configuration, once the configuration is complete. With racing over seeds, a further seed comes before the next
    configuration. A configuration that drops out of the race and comes back into it gets its further seeds after all
    configurations have been chosen, one at a time, the first configuration first. A run that runs out of memory for the
    first time is repeated after all others, without sharing its node or GPU. Once the budget is used up, only runs that
    have been started before are left to start.

    With one run at a time, the next run depends only on the stored rows and the order in which their runs ended.
    Therefore an interruption does not change it.

    Args:
        plan: Plan of the sweep, with its missing runs.

    Attributes:
        plan: The plan, which the scheduler never changes.
        stop_reason: Sentence that explains why the sweep was aborted; "" if it was not.
        budget_reason: Sentence that says which budget is used up although runs are left; "" if there is none.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stop_reason = self.budget_reason = ""
        self._budget = BudgetMeter(plan.spec.search.budget, plan.rows.values())
        self._started = {run_id for run_id, row in plan.rows.items() if row["status"] not in ENDED}
        shared = SharedValues(plan.spec) if plan.spec.search.paired else None
        self._studies = {arm.name: ArmStudy(plan.spec, arm, shared) for arm in plan.spec.arms}
        self._order: deque[tuple[Arm, int]] = deque()
        self._queue: deque[Run] = deque()
        self._alone: deque[Run] = deque()
        self._running: set[str] = set()
        self._configurations: dict[tuple[str, int], Configuration] = {}
        self._ended_rows: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
        self._pending: dict[tuple[str, int], set[int]] = {}
        self._told: set[tuple[str, int]] = set()
        self._race = plan.race
        self._may_be_back = True
        self._first_failures: list[tuple[str, str, str]] | None = []
        self._arms_to_run = sum(arm.missing > 0 for arm in plan.arms())
        self._used_ids = {configuration.config_id for configuration in plan.configurations.values()}
        # An arm without searched fields has a single configuration, so no other arm may use this configuration first.
        for arm in plan.spec.arms:
            if not arm.dimensions:
                self._used_ids.add(plan.configuration(arm, 0, {}).config_id)
        dropped_out = plan.dropped_out()
        for arm, index in plan.order():
            configuration = plan.configurations.get((arm.name, index))
            if configuration is not None:
                self._studies[arm.name].enqueue(configuration)
                self._register(configuration)
                if self._is_complete(configuration, dropped_out):
                    self._tell((arm.name, index))
                    continue
            self._order.append((arm, index))

    def next_run(self) -> Run | None:
        """Return the next run to start, or None if none can start now.

        If it returns None and `exhausted` is true, no later call returns a run.
        """
        if not self.fill_queue():
            return None
        run = self._queue.popleft()
        self._running.add(run.run_id)
        self._started.add(run.run_id)
        return run

    def fill_queue(self) -> bool:
        """Make sure that a run is queued, if any can start. This may draw suggestions from the studies.

        Returns:
            Whether `next_run` has a run to return.
        """
        if self.stop_reason:
            return False
        while True:
            self._check_budget()
            if self._queue:
                return True
            if self._order:
                self._queue_runs(*self._order.popleft())
            elif self._may_be_back:
                self._queue_further_seed()
            elif self._alone and not self._running:
                self._queue.append(self._alone.popleft())
            else:
                return False

    @property
    def exhausted(self) -> bool:
        """True if no run is queued or running and no configuration is left to choose, or if the sweep was aborted."""
        return bool(self.stop_reason) or not (self._order or self._queue or self._alone or self._running)

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        """Record that `run` ended with the final row `row`.

        If the run ran out of memory for the first time, it is queued again.
        """
        self._running.discard(run.run_id)
        self._budget.add(row)
        if run.is_repeated_after(row):
            self._alone.append(replace(run, stored=row, alone=True))
            return
        self._check_first_failures(run.arm, row)
        key = run.arm, run.configuration
        self._pending[key].discard(run.seed)
        self._ended_rows[key][run.seed] = row
        self._race.add(row)
        self._may_be_back = True
        self._continue(key)
        if not self._order and not self._queue:
            self._queue_further_seed()

    def on_run_progress(self, row: Mapping[str, Any]) -> None:
        """Record the cost so far of a running run, whose row is `row`."""
        self._budget.add(row)

    def on_run_lost(self, run: Run) -> None:
        """Record that the process of `run` was lost. The run is the next one to start."""
        self._running.discard(run.run_id)
        (self._alone if run.alone else self._queue).appendleft(run)

    def _check_budget(self) -> None:
        """Drop all runs that have not been started if the budget is used up."""
        spent = self._budget.spent()
        if spent is None:
            return
        new = self._may_be_back = False
        while self._order:
            arm, index = self._order.popleft()
            if (arm.name, index) in self._configurations:
                self._queue_runs(arm, index)
            else:
                new = True
        for queue in (self._queue, self._alone):
            started = [run for run in queue if run.run_id in self._started]
            new = new or len(started) < len(queue)
            queue.clear()
            queue.extend(started)
        if new and not self.budget_reason:
            self.budget_reason = (
                f"the budget is used up ({spent}); a larger search.budget.{spent.name} continues the sweep"
            )

    def _queue_runs(self, arm: Arm, index: int) -> None:
        """Queue the missing runs of configuration `index` of `arm`, if the arm's space still has an unused point."""
        configuration = self._configurations.get((arm.name, index)) or self._choose(arm, index)
        if configuration is not None:
            self._continue((arm.name, index))

    def _continue(self, key: tuple[str, int]) -> None:
        """Queue the runs of a configuration that are due. If none is due or pending, tell the study the result."""
        if self._pending[key]:
            return
        runs = self._due_runs(key)
        for run in runs:
            (self._alone if run.alone else self._queue).append(run)
            self._pending[key].add(run.seed)
        if not runs:
            self._tell(key)

    def _queue_further_seed(self) -> None:
        """Queue the next seed of the first configuration that is in the race again, because the front has moved."""
        for key in self._configurations:
            self._continue(key)
            if self._queue:
                return
        self._may_be_back = False

    def _is_complete(self, configuration: Configuration, dropped_out: Container[str]) -> bool:
        """Return whether a stored configuration has no run that comes before new configurations."""
        key = configuration.arm, configuration.index
        arm = self._studies[configuration.arm].arm
        if configuration.config_id in dropped_out:
            return not self.plan.required_runs(arm, configuration, self._ended_rows[key])
        return not self._due_runs(key)

    def _due_runs(self, key: tuple[str, int]) -> list[Run]:
        arm = self._studies[key[0]].arm
        return self.plan.runs(arm, self._configurations[key], self._ended_rows[key], self._race)

    def _tell(self, key: tuple[str, int]) -> None:
        """Tell the study the result of a complete configuration, once. Seeds that follow later do not change it."""
        if key not in self._told:
            self._told.add(key)
            arm, index = key
            self._studies[arm].tell(index, list(self._ended_rows[key].values()))

    def _choose(self, arm: Arm, index: int) -> Configuration | None:
        """Choose a new configuration for `arm`; None if its space has no unused point."""
        study = self._studies[arm.name]
        configuration: Configuration | None
        if arm.dimensions:
            configuration = study.suggest(index, self.plan, self._used_ids)
        else:
            configuration = self.plan.configuration(arm, index, {})
            study.enqueue(configuration)
        if configuration is not None:
            self._used_ids.add(configuration.config_id)
            self._register(configuration)
        return configuration

    def _register(self, configuration: Configuration) -> None:
        """Start collecting the rows of ended runs of a configuration, beginning with the stored rows."""
        key = configuration.arm, configuration.index
        self._configurations[key] = configuration
        self._ended_rows[key] = self.plan.ended_rows(configuration)
        self._pending[key] = set()

    def _check_first_failures(self, arm: str, row: Mapping[str, Any]) -> None:
        """Abort the sweep if every run so far failed with the same error; see `IDENTICAL_FAILURES_TO_ABORT`."""
        if self._first_failures is None or self.stop_reason:
            return
        if row["status"] != "failed":
            self._first_failures = None
            return
        last_line = str(row["traceback"] or "").strip().rpartition("\n")[2]
        self._first_failures.append((arm, str(row["error_class"]), last_line))
        arms, errors = {failure[0] for failure in self._first_failures}, {f[1:] for f in self._first_failures}
        if len(errors) > 1:
            self._first_failures = None
        elif len(self._first_failures) >= IDENTICAL_FAILURES_TO_ABORT and len(arms) >= min(2, self._arms_to_run):
            count = len(self._first_failures)
            self.stop_reason = f"The first {count} runs all failed with {last_line or row['error_class']}"
