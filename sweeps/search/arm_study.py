"""ArmStudy: the Optuna study of one arm."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lagvae_core.errors import ConfigError
from lagvae_core.randomness import derive_seed
from sweeps.search.plan import Configuration, Plan, Value
from sweeps.search.shared_values import SharedValues
from sweeps.search.suggestion import suggest
from sweeps.spec.samplers import SamplerBudget, make_sampler
from sweeps.spec.space import Arm
from sweeps.spec.sweep import SweepSpec

__all__ = ["RESAMPLES", "ArmStudy"]


RESAMPLES = 32
"""Maximum number of suggestions to draw for one configuration.

If all of them are invalid or already used, and the space is finite, the first unused point of the space is taken.
"""

SAMPLER_ATTEMPTS = 4
"""Number of these suggestions that the sampler of the sweep draws; random sampling draws the others."""

GENERATION = "NSGAIISampler:generation"
"""Attribute in which Optuna's NSGA-II keeps the generation of a trial. It ignores trials without it."""


class ArmStudy:
    """The Optuna study of one arm, in memory. The parameters of all its trials are the dimensions of the arm.

    The seed of the sampler depends only on the search seed, the name of the arm, the number of the configuration and
    the number of the suggestion for it. Therefore a resumed search does not repeat earlier suggestions. An interruption
    can change a suggestion only by changing which results are available when it is drawn.

    Each configuration is one Optuna trial. If any finished seed has finite objectives, the state of the trial is
    COMPLETE, and its values are the means over these seeds. Otherwise, the state is PRUNED if any run was stopped
    early, which shows that the configuration is worse than others, and FAIL if not.

    Args:
        spec: The sweep.
        arm: One of its arms.
        shared: The values of the shared fields if arms are paired, the same object for all arms. It may be None in a
            study that suggests nothing.
        storage: Storage of the study, which others can read; None for one of its own.
    """

    def __init__(
        self,
        spec: SweepSpec,
        arm: Arm,
        shared: SharedValues | None = None,
        storage: optuna.storages.BaseStorage | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.arm = arm
        self._spec = spec
        self._distributions = {d.name: d.distribution() for d in arm.dimensions}
        self._points = spec.points(arm) if arm.dimensions else ()
        self._shared = shared
        conditional = any(dimension.when for dimension in arm.dimensions)
        self._budget = SamplerBudget(len(arm.dimensions), spec.configurations(arm), conditional)
        by_name = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        directions = [by_name[direction] for direction in spec.objectives.values()]
        self.study = optuna.create_study(study_name=f"{spec.name}: {arm.name}", storage=storage, directions=directions)
        self._numbers: dict[int, int] = {}

    def enqueue(self, configuration: Configuration) -> None:
        """Add a configuration that is already chosen to the study as a running trial; `tell` sets its values later."""
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(configuration.parameters),
            distributions={name: self._distributions[name] for name in configuration.parameters},
            system_attrs={GENERATION: self._generation()},
        )
        self.study.add_trial(trial)
        self._numbers[configuration.index] = len(self._trials()) - 1

    def suggest(self, index: int, plan: Plan, used_ids: Collection[str]) -> Configuration | None:
        """Choose configuration number `index` of the arm.

        Args:
            index: Number of the configuration in its arm.
            plan: Plan of the sweep, which turns parameters into configurations.
            used_ids: The `config_id` of every configuration that must not be chosen again.

        Returns:
            The configuration; None if no unused point was found.
        """
        if self._spec.search.sampler == "grid":
            configuration = plan.configuration(self.arm, index, self.arm.point(index))
            return None if configuration.config_id in used_ids else self._enqueue_new(configuration)
        for attempt in range(RESAMPLES):
            trial_number, parameters = self._ask(index, attempt, plan)
            unused = self._unused(plan, index, parameters, used_ids)
            if unused is not None:
                self._numbers[index] = trial_number
                return unused
            self.study.tell(trial_number, state=TrialState.FAIL)
        for number in range(self.arm.size() or 0):
            unused = self._unused(plan, index, self.arm.point(number), used_ids)
            if unused is not None:
                return self._enqueue_new(unused)
        return None

    def tell(self, index: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Report the result of configuration `index` to the study.

        Args:
            index: Number of the configuration in its arm.
            rows: The final rows of all its runs.
        """
        number = self._numbers[index]
        values = [[row[column] for column in self._spec.objectives] for row in rows if row["status"] == "finished"]
        finite = [v for v in values if all(x is not None and math.isfinite(x) for x in v)]
        if finite:
            self.study.tell(number, [sum(column) / len(finite) for column in zip(*finite, strict=True)])
        elif any(row["status"] == "stopped_early" for row in rows):
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def trial(self, index: int) -> FrozenTrial:
        """Return the Optuna trial of configuration `index`, which must not be changed."""
        return self._trials()[self._numbers[index]]

    def _generation(self) -> int:
        """Return the generation of NSGA-II to which the next trial belongs; only complete trials fill a generation."""
        complete = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        generations = [trial.system_attrs.get(GENERATION, 0) for trial in complete]
        last: int = max(generations, default=0)
        return last + (generations.count(last) >= self._budget.population)

    def _trials(self) -> list[FrozenTrial]:
        # `study.trials` would make a deep copy of every trial.
        return self.study.get_trials(deepcopy=False)

    def _unused(
        self, plan: Plan, index: int, parameters: dict[str, Value], used_ids: Collection[str]
    ) -> Configuration | None:
        """Return the configuration at the point `parameters`; None if it is already used or invalid."""
        try:
            configuration = plan.configuration(self.arm, index, parameters)
        except ConfigError:
            # The sweep file was validated only at the bounds of ranges, so a point between them may be invalid.
            return None
        return None if configuration.config_id in used_ids else configuration

    def _enqueue_new(self, configuration: Configuration) -> Configuration:
        self.enqueue(configuration)
        return configuration

    def _ask(self, index: int, attempt: int, plan: Plan) -> tuple[int, dict[str, Value]]:
        search = self._spec.search
        # A sampler that has converged suggests its best point repeatedly; random sampling finds other points.
        sampler = search.sampler if attempt < SAMPLER_ATTEMPTS else "random"
        seed = derive_seed(search.seed, self.arm.name, index, attempt)
        self.study.sampler = make_sampler(sampler, seed, self._budget)
        return suggest(self.study, self.arm, self._fixed(index, attempt, plan))

    def _fixed(self, index: int, attempt: int, plan: Plan) -> dict[str, Value]:
        """Return the values of configuration `index` that the sampler must not choose."""
        fixed: dict[str, Value] = {}
        if index < len(self._points) and (attempt == 0 or len(self._points[index]) < len(self.arm.dimensions)):
            fixed |= self._points[index]
        if self._spec.search.paired:
            assert self._shared is not None, "the studies of paired arms need the shared values"
            fixed |= self.arm.shared_values(self._shared.of(index, plan))
        return fixed
