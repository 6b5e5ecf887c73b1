"""Conditions `when` of searched fields: which names and values are valid, and which conditions hold in an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig
from sweeps.spec.ranges import check_name
from sweeps.spec.space import Arm, Dimension, Value, value_of

__all__ = ["check_condition", "check_names", "decide_conditions"]


def check_names(
    where: str, dimension: Dimension, classes: Mapping[str, type[FrozenConfig]], issues: list[ValidationIssue]
) -> bool:
    """Return whether the condition of a dimension names known fields; if not, append an issue for each other name."""
    what = "a field of the trial or of a strategy"
    known = [check_name(f"{where}.when", name, classes, what, issues) for name, _ in dimension.when]
    return all(known)


def check_condition(
    where: str,
    name: str,
    values: Sequence[Value],
    dimensions: Mapping[str, Dimension],
    issues: list[ValidationIssue],
) -> None:
    """Append an issue if a condition names a dimension that cannot decide, or values that it never has."""
    deciding = dimensions.get(name)
    if deciding is None:
        return
    if deciding.when or not deciding.tunable.choices:
        message = "must name a field that is searched over {choices:} without a condition of its own"
        issues.append(ValidationIssue(where, message, f"Give {name} choices, or fix it.", name))
    elif never := [value for value in values if not deciding.contains(value)]:
        hint = f"The choices of {name} are {', '.join(map(str, deciding.tunable.choices))}."
        issues.append(ValidationIssue(where, f"must name choices of {name}", hint, never))


def decide_conditions(where: str, arm: Arm, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> Arm:
    """Return the arm with conditions on fixed fields decided, and dimensions with conditions last.

    Args:
        where: Place of the arm in the sweep file.
        arm: The arm.
        trial: Values of all trials of the sweep.
        issues: List to which issues about conditions on other searched fields are appended.
    """
    dimensions = {dimension.name: dimension for dimension in arm.dimensions}
    decided: list[Dimension] = []
    unconditional = replace(arm, dimensions=tuple(d for d in arm.dimensions if not d.when))
    for dimension in arm.dimensions:
        open_conditions = []
        holds = True
        for name, values in dimension.when:
            if name in dimensions:
                shared = dimension.shared and dimensions[name].shared
                place = f"space.{dimension.name}.when" if shared else f"{where}: {dimension.name}.when"
                check_condition(place, name, values, dimensions, issues)
                open_conditions.append((name, values))
            else:
                holds = holds and _fixed_value(unconditional, name, trial) in values
        if holds:
            decided.append(replace(dimension, when=tuple(open_conditions)))
    return replace(arm, dimensions=tuple(sorted(decided, key=lambda dimension: bool(dimension.when))))


def _fixed_value(arm: Arm, name: str, trial: Mapping[str, Any]) -> Any:
    """Return the value of a field that is not searched; None if the arm has no such field or is invalid."""
    try:
        return value_of(parse_trial(arm.values(_without_reserved(trial), arm.probe())), name)
    except ConfigError:
        return None


def _without_reserved(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trial.items() if name in TrialConfig.model_fields and name != "seed"}
