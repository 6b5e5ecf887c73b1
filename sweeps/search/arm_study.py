"""The Optuna study of one arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lagvae_core.errors import ConfigError
from lagvae_core.randomness import derive_seed
from sweeps.search.plan import Configuration, Plan, Value
from sweeps.search.samplers import make_sampler
from sweeps.spec.space import Arm
from sweeps.spec.sweep import SweepSpec

__all__ = ["RESAMPLES", "ArmStudy"]


RESAMPLES = 32
"""Draws before a repeated configuration of a finite space is replaced by the first unused one."""


class ArmStudy:
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
        by_name = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        directions = [by_name[direction] for direction in spec.objectives.values()]
        self.study = optuna.create_study(directions=directions)
        self._numbers: dict[int, int] = {}

    def enqueue(self, configuration: Configuration) -> None:
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
            return None if configuration.config_id in taken else self._enqueue_new(configuration)
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
                return self._enqueue_new(found)
        return None

    def _free(self, plan: Plan, index: int, parameters: dict[str, Value], taken: set[str]) -> Configuration | None:
        """The configuration at a point; None if there is one already, or none can be."""
        try:
            found = plan.configuration(self.arm, index, parameters)
        except ConfigError:
            # Of a continuous space only the corners were looked at before.
            return None
        return None if found.config_id in taken else found

    def _enqueue_new(self, configuration: Configuration) -> Configuration:
        self.enqueue(configuration)
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
