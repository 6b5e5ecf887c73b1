"""Asking an Optuna study for a point of an arm's space."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.spec.space import Arm, Dimension, Value

__all__ = ["suggest"]


def suggest(study: optuna.Study, arm: Arm, fixed: Mapping[str, Value]) -> tuple[int, dict[str, Value]]:
    """Return the number of a new trial of `study`, and its point of the space of `arm`.

    Args:
        study: The study. Its sampler chooses the values that are not fixed.
        arm: The arm.
        fixed: Values that the sampler must not choose. Those whose condition does not hold are ignored.
    """
    if fixed:
        study.enqueue_trial(dict(fixed))
    trial = study.ask()
    point: dict[str, Value] = {}
    for dimension in arm.dimensions:
        if dimension.is_active(point):
            point[dimension.name] = dimension.snap(_value(trial, dimension))
    return trial.number, point


def _value(trial: optuna.Trial, dimension: Dimension) -> Value:
    name = dimension.name
    match dimension.distribution():
        case CategoricalDistribution():
            chosen = trial.suggest_categorical(name, dimension.tunable.choices)
            assert chosen is not None, "no choice is null"
            return chosen
        case IntDistribution() as span:
            return trial.suggest_int(name, span.low, span.high, step=span.step, log=span.log)
        case FloatDistribution() as span:
            return trial.suggest_float(name, span.low, span.high, step=span.step, log=span.log)
        case other:
            raise AssertionError(other)
