"""How much each searched field matters for an objective, and whether that exceeds chance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from sweeps.analysis.front import FrontRow
from sweeps.analysis.pareto import Direction
from sweeps.spec.space import Arm

__all__ = ["CHANCE", "LEAST_CONFIGURATIONS", "SHUFFLES", "FieldImportance", "field_importances"]

LEAST_CONFIGURATIONS = 10
"""Least number of configurations of an arm from which importances are computed."""

BEST = 0.1
"""Fraction of the configurations that count as the best ones."""

LEAST_BEST = 5
"""Least number of configurations that count as the best ones."""

SHUFFLES = 40
"""Number of times that the values of an objective are shuffled among the configurations."""

CHANCE = 0.95
"""Fraction of the shuffles whose importance a field must exceed."""


@dataclass(frozen=True)
class FieldImportance:
    """The importance of one searched field of an arm for one objective.

    Args:
        arm: Name of the arm.
        field: Name of the field.
        objective: Column of the objective.
        value: Its share of the importances of all fields of the arm, between 0 and 1.
        exceeds_chance: Whether the importance exceeds that under shuffled values in the fraction `CHANCE` of shuffles.
        configurations: Number of configurations with a value.
    """

    arm: str
    field: str
    objective: str
    value: float
    exceeds_chance: bool
    configurations: int


def field_importances(
    arms: Sequence[Arm], found: Sequence[FrontRow], objectives: Mapping[str, Direction], seed: int = 0
) -> list[FieldImportance]:
    """Return the importance of the searched fields of each arm with at least `LEAST_CONFIGURATIONS` configurations.

    The importance is that of Optuna's PED-ANOVA (Watanabe et al. 2023): how much the distribution of a field among the
    best tenth of the configurations, or the five best, differs from that among all. It says nothing about the direction
    of an effect, and with few configurations it is mostly noise; hence the comparison with shuffled values.

    Args:
        arms: The arms of the sweep.
        found: Configurations with the mean of each objective over their seeds, as from `front_of`.
        objectives: Direction of improvement of each objective, by column.
        seed: Seed of the shuffles.

    Returns:
        For each arm and objective, the fields from the most to the least important.
    """
    listed = []
    for arm in arms:
        rows = [row for row in found if row.arm == arm.name]
        if arm.dimensions and len(rows) >= LEAST_CONFIGURATIONS:
            for objective, direction in objectives.items():
                listed += _of_objective(arm, rows, objective, direction, np.random.default_rng(seed))
    return listed


def _of_objective(
    arm: Arm, rows: Sequence[FrontRow], objective: str, direction: Direction, draw: np.random.Generator
) -> list[FieldImportance]:
    losses_M = np.array([row.mean[objective] for row in rows]) * (1.0 if direction == "min" else -1.0)
    if np.ptp(losses_M) == 0:
        return []
    study = _study(arm, rows)
    values = _importances(study, losses_M)
    shuffled = [_importances(study, draw.permutation(losses_M)) for _ in range(SHUFFLES)]
    total = sum(values.values())
    found = [
        FieldImportance(
            arm=arm.name,
            field=field,
            objective=objective,
            value=value / total if total > 0 else 0.0,
            exceeds_chance=bool(value > np.quantile([other[field] for other in shuffled], CHANCE)),
            configurations=len(rows),
        )
        for field, value in values.items()
    ]
    return sorted(found, key=lambda importance: -importance.value)


def _study(arm: Arm, rows: Sequence[FrontRow]) -> optuna.Study:
    """Return a study whose trial m has the parameters of row m. Its values are not used."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {dimension.name: dimension.distribution() for dimension in arm.dimensions}
    study = optuna.create_study()
    for row in rows:
        own = {name: distributions[name] for name in row.parameters}
        study.add_trial(optuna.trial.create_trial(params=dict(row.parameters), distributions=own, value=0.0))
    return study


def _importances(study: optuna.Study, losses_M: NDArray[np.float64]) -> dict[str, float]:
    """Return the importance of each field for low losses, not normalised."""
    quantile = max(BEST, LEAST_BEST / len(losses_M))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that low values of the target count as good
        return optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile),
            target=lambda trial: float(losses_M[trial.number]),
            normalize=False,
        )
