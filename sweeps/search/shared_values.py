"""The values of the shared fields in a sweep with `paired: true`."""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from lagvae_core.randomness import derive_seed
from lagvae_core.strategies import CATALOGUE
from sweeps.search.plan import Plan
from sweeps.search.suggestion import suggest
from sweeps.spec.space import SECTIONS, Arm, Value, value_of
from sweeps.spec.sweep import SweepSpec

__all__ = ["SharedValues"]

REDRAWS = 32
"""Maximum number of draws for one configuration. After them, values that an earlier configuration has are accepted."""


class SharedValues:
    """The values that configuration 0, 1, ... of every arm has in the fields of `SweepSpec.space`.

    Configuration 0 has the defaults of the trial; a field whose range excludes its default is drawn. All others are
    drawn at random, if possible different from earlier ones. They depend on nothing but the spaces and the seed of the
    search, so they are the same in every arm and after an interruption.

    Args:
        spec: The sweep.
    """

    def __init__(self, spec: SweepSpec) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._spec = spec
        self._arm = Arm("shared", (), spec.space)
        self._names = {dimension.name for dimension in spec.space}
        self._drawn: list[Mapping[str, Value]] = []

    def __getitem__(self, index: int) -> Mapping[str, Value]:
        """Return the values of configuration `index` by name, without those whose condition does not hold."""
        while len(self._drawn) <= index:
            self._drawn.append(self._draw(len(self._drawn)))
        return self._drawn[index]

    def of(self, index: int, plan: Plan) -> Mapping[str, Value]:
        """Return the values of configuration `index`, given the stored rows.

        An arm that has already run this configuration decides: after an edit of a range, the others follow it.
        """
        stored = [
            {name: value for name, value in configuration.parameters.items() if name in self._names}
            for arm in reversed(self._spec.arms)
            if (configuration := plan.configurations.get((arm.name, index))) is not None
        ]
        known = {name: value for values in stored for name, value in values.items()}
        return self._arm.active({**self[index], **known})

    def _draw(self, index: int) -> Mapping[str, Value]:
        fixed = self._defaults() if index == 0 else {}
        for attempt in range(REDRAWS):
            seed = derive_seed(self._spec.search.seed, "shared", index, attempt) % 2**32
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            values = suggest(study, self._arm, fixed)[1]
            if values not in self._drawn:
                break
        return values

    def _defaults(self) -> dict[str, Value]:
        defaults = {}
        for dimension in self._arm.dimensions:
            if dimension.section in SECTIONS:
                value = value_of(self._spec.defaults, dimension.name)
            else:
                value = CATALOGUE[dimension.section].model_fields[dimension.field].default
            if dimension.contains(value):
                defaults[dimension.name] = value
        return defaults
