"""Which run comes next: one Optuna study for each arm, seeds as replicates, arms dealt in turn."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lagvae_core.errors import ConfigError
from lagvae_core.randomness import derive_seed
from sweeps.plan import Configuration, Plan, Run, Value
from sweeps.space import Arm
from sweeps.spec import SweepSpec

__all__ = ["ArmSearch", "Dealer"]

RESAMPLES = 32
"""Draws before a repeated configuration of a finite space is replaced by the first unused one."""

BREAKER = 3
"""So many first runs that fail alike stop the sweep; of two arms at least, where so many have something to run."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """The Optuna sampler of that name, seeded for one suggestion."""
    seed %= 2**32
    match name:
        case "random" | "grid":
            return optuna.samplers.RandomSampler(seed=seed)
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
    raise AssertionError(f"no sampler is called {name}")


class ArmSearch:
    """The Optuna study of one arm, in memory. Its space is the arm's, and so never conditional.

    Suggestion i is seeded by (search seed, arm, i) alone, so that a search that was interrupted neither repeats itself
    nor depends on when that was, beyond the results it knows. Only finished runs reach the study as values: a
    configuration is told COMPLETE with the mean over its finished seeds, PRUNED if all its runs were stopped early,
    else FAIL.
    """

    def __init__(self, spec: SweepSpec, arm: Arm) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.arm = arm
        self._spec = spec
        self._distributions = {d.name: d.distribution() for d in arm.dimensions}
        senses = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        directions = [senses[sense] for sense in spec.objectives.values()]
        self.study = optuna.create_study(directions=directions)
        self._numbers: dict[int, int] = {}

    def adopt(self, configuration: Configuration) -> None:
        """Enter a configuration that was chosen earlier as one whose values are still to come."""
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(configuration.parameters),
            distributions=self._distributions,
        )
        self.study.add_trial(trial)
        self._numbers[configuration.index] = self.study.trials[-1].number

    def suggest(self, index: int, plan: Plan, taken: set[str]) -> Configuration | None:
        """Configuration number `index`, different from those in `taken`; None if the space holds no other."""
        if self._spec.search.sampler == "grid":
            configuration = plan.configuration(self.arm, index, self.arm.point(index))
            return None if configuration.config_id in taken else self._adopt_new(configuration)
        for attempt in range(RESAMPLES):
            trial_number, parameters = self._ask(index, attempt)
            found = self._free(plan, index, parameters, taken)
            if found is not None:
                self._numbers[index] = trial_number
                return found
            self.study.tell(trial_number, state=TrialState.FAIL)
        for number in range(self.arm.size() or 0):
            found = self._free(plan, index, self.arm.point(number), taken)
            if found is not None:
                return self._adopt_new(found)
        return None

    def _free(self, plan: Plan, index: int, parameters: dict[str, Value], taken: set[str]) -> Configuration | None:
        """The configuration at a point; None if there is one already, or none can be."""
        try:
            found = plan.configuration(self.arm, index, parameters)
        except ConfigError:
            # Of a continuous space only the corners were looked at before.
            return None
        return None if found.config_id in taken else found

    def _adopt_new(self, configuration: Configuration) -> Configuration:
        self.adopt(configuration)
        return configuration

    def _ask(self, index: int, attempt: int) -> tuple[int, dict[str, Value]]:
        search = self._spec.search
        # A sampler that is sure of its best point names it again and again; chance finds another.
        sampler = search.sampler if attempt < RESAMPLES // 2 else "random"
        self.study.sampler = make_sampler(sampler, derive_seed(search.seed, self.arm.name, index, attempt))
        trial = self.study.ask(self._distributions)
        return trial.number, dict(trial.params)

    def tell(self, index: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """All runs of configuration `index` have ended with `rows`."""
        number = self._numbers[index]
        values = [[row[column] for column in self._spec.objectives] for row in rows if row["status"] == "finished"]
        finite = [v for v in values if all(x is not None and math.isfinite(x) for x in v)]
        if finite:
            self.study.tell(number, [sum(column) / len(finite) for column in zip(*finite, strict=True)])
        elif all(row["status"] == "stopped_early" for row in rows):
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)


class Dealer:
    """Deals the runs of a plan in its order and hears how they ended."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stop_reason = ""
        self._searches = {arm.name: ArmSearch(plan.spec, arm) for arm in plan.spec.arms}
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
            self._searches[configuration.arm].adopt(configuration)
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
            search = self._searches[arm.name]
            if arm.dimensions:
                configuration = search.suggest(index, self.plan, self._taken)
            else:
                configuration = self.plan.configuration(arm, index, {})
                search.adopt(configuration)
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
            self._searches[arm].tell(index, list(rows.values()))

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
