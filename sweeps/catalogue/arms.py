"""The arms of a sweep as plain data: their strategies, and which fields are fixed or searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lagvae_core.settings import tunables
from sweeps.catalogue.strategies import describe_range
from sweeps.spec.space import Arm
from sweeps.spec.sweep import SweepSpec

__all__ = ["describe_arm", "resolved_sweep"]


def describe_arm(spec: SweepSpec, arm: Arm) -> dict[str, Any]:
    """Return the stack of an arm.

    Returns:
        `strategies`: for each strategy its `kind`, the `fixed` values of fields that are not searched, defaults
        included, and by field the range or choices of the `searched` ones; `own` says whether this is the range
        that the strategy declares. `points`: the number of points of the space; None if a range is continuous.
    """
    dimensions = {dimension.name: dimension.tunable for dimension in arm.dimensions}
    strategies = []
    for strategy in spec.trial_config(arm, arm.probe(), seed=0).strategies:
        own = {field: tunable for field, _, tunable in tunables(type(strategy))}
        searched = {
            field: describe_range(tunable) | {"own": tunable == own.get(field)}
            for field in type(strategy).model_fields
            if (tunable := dimensions.get(f"{strategy.kind}.{field}")) is not None
        }
        values = strategy.model_dump(mode="json", exclude={"kind", *searched})
        strategies.append({"kind": strategy.kind, "fixed": values, "searched": searched})
    return {"strategies": strategies, "points": arm.size()}


def resolved_sweep(spec: SweepSpec) -> dict[str, Any]:
    """Return the content of a sweep file that states every value of `spec`; its configurations have the same ids."""
    return {
        "name": spec.name,
        "trial": spec.defaults.model_dump(mode="json", exclude={"strategies", "seed"}),
        "arms": {arm.name: [_resolved(item) for item in describe_arm(spec, arm)["strategies"]] for arm in spec.arms},
        "objectives": dict(spec.objectives),
        "search": spec.search.model_dump(mode="json", exclude_none=True),
        "stopping": "none",
        "resources": spec.resources.model_dump(mode="json"),
        "keep": spec.keep,
    }


def _resolved(strategy: Mapping[str, Any]) -> dict[str, Any]:
    searched = {
        field: {key: value for key, value in search.items() if key != "own"}
        for field, search in strategy["searched"].items()
    }
    return {"kind": strategy["kind"], **strategy["fixed"], **searched}
