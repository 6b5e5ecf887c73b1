"""Which run comes next: one Optuna study for each arm, seeds as replicates, arms dealt in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweeps.search.arm_study import ArmStudy
from sweeps.search.plan import Configuration, Plan, Run
from sweeps.spec.space import Arm

__all__ = ["RunScheduler"]


BREAKER = 3
"""So many first runs that fail alike stop the sweep; of two arms at least, where so many have something to run."""


class RunScheduler:
    """Deals the runs of a plan in its order and hears how they ended."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stop_reason = ""
        self._studies = {arm.name: ArmStudy(plan.spec, arm) for arm in plan.spec.arms}
        self._order = iter(list(plan.order()))
        self._queue: deque[Run] = deque()
        self._alone: deque[Run] = deque()
        self._running: set[str] = set()
        self._open: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
        self._failures: list[tuple[str, str, str]] | None = []
        self._arms_to_run = sum(arm.missing > 0 for arm in plan.arms())
        self._taken = {c.config_id for c in plan.configurations.values()}
        # A fixed arm has one point, which no searched arm may take before it.
        for arm in plan.spec.arms:
            if not arm.dimensions:
                self._taken.add(plan.configuration(arm, 0, {}).config_id)
        for configuration in sorted(plan.configurations.values(), key=lambda c: (c.arm, c.index)):
            self._studies[configuration.arm].enqueue(configuration)
            self._begin(configuration)

    def next(self) -> Run | None:
        """The next run to start; None if there is none now, and for good once `exhausted` is true as well."""
        if self.stop_reason or not self._fill():
            return None
        run = self._queue.popleft()
        self._running.add(run.run_id)
        return run

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more, whatever the running runs do."""
        return bool(self.stop_reason) or not (self._fill() or self._running)

    def _fill(self) -> bool:
        """Open configurations until there is a run to deal; False if there is none now."""
        while not self._queue:
            step = next(self._order, None)
            if step is not None:
                self._open_configuration(*step)
            elif self._alone and not self._running:
                self._queue.append(self._alone.popleft())
            else:
                return False
        return True

    def _open_configuration(self, arm: Arm, index: int) -> None:
        configuration = self.plan.configurations.get((arm.name, index))
        if configuration is None:
            search = self._studies[arm.name]
            if arm.dimensions:
                configuration = search.suggest(index, self.plan, self._taken)
            else:
                configuration = self.plan.configuration(arm, index, {})
                search.enqueue(configuration)
            if configuration is None:
                return
            self._taken.add(configuration.config_id)
            self.plan.configurations[arm.name, index] = configuration
            self._begin(configuration)
        for run in self.plan.runs(arm, configuration):
            (self._alone if run.alone else self._queue).append(run)

    def _begin(self, configuration: Configuration) -> None:
        """Open the books of a configuration with the rows that have ended already."""
        known = {}
        for seed in self.plan.spec.search.run_seeds:
            row = self.plan.rows.get(f"{configuration.config_id}-{seed}")
            if row is not None and self.plan.ended(row):
                known[seed] = row
        self._open[configuration.arm, configuration.index] = known
        self._close_if_complete(configuration.arm, configuration.index)

    def _close_if_complete(self, arm: str, index: int) -> None:
        rows = self._open[arm, index]
        if len(rows) == len(self.plan.spec.search.run_seeds):
            self._studies[arm].tell(index, list(rows.values()))

    def ended(self, run: Run, row: Mapping[str, Any]) -> None:
        """`run` ended with `row`. A first lack of memory is not its end: it is dealt once more at last, alone."""
        self._running.discard(run.run_id)
        if row["status"] == "out_of_memory" and not run.alone:
            self._alone.append(replace(run, stored=row, alone=True))
            return
        self._watch_for_a_common_failure(run.arm, row)
        self._open[run.arm, run.configuration][run.seed] = row
        self._close_if_complete(run.arm, run.configuration)

    def _watch_for_a_common_failure(self, arm: str, row: Mapping[str, Any]) -> None:
        """Stop, if all runs failed until now, in the same way, and not of one arm alone where there are several."""
        if self._failures is None or self.stop_reason:
            return
        if row["status"] != "failed":
            self._failures = None
            return
        last_line = str(row["traceback"] or "").strip().rpartition("\n")[2]
        self._failures.append((arm, str(row["error_class"]), last_line))
        arms, reasons = {failure[0] for failure in self._failures}, {failure[1:] for failure in self._failures}
        if len(reasons) > 1:
            self._failures = None
        elif len(self._failures) >= BREAKER and len(arms) >= min(2, self._arms_to_run):
            count = len(self._failures)
            self.stop_reason = f"The first {count} runs all failed with {last_line or row['error_class']}"
