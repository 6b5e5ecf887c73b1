"""The arms of a sweep as plain data: their strategies, and which fields are fixed or searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lagvae_core.settings import tunables
from sweeps.catalogue.strategies import describe_range
from sweeps.search.shared_values import SharedValues
from sweeps.spec.space import SECTIONS, Arm, Dimension
from sweeps.spec.sweep import SweepSpec

__all__ = ["describe_arm", "resolved_sweep"]


def describe_arm(spec: SweepSpec, arm: Arm) -> dict[str, Any]:
    """Return the stack of an arm, and what it fixes and searches.

    Returns:
        `strategies`: for each strategy its `kind`, the `fixed` values of fields that are not searched, defaults
        included, and by field the range or choices of the `searched` ones; `own` says whether this is the range
        that the strategy declares. `trial`: the `fixed` values of the trial that this arm sets, and its `searched`
        fields, both by name. `first`: the points to try first. `points`: the number of points of the space; None if a
        range is continuous.
    """
    dimensions = {dimension.name: dimension for dimension in arm.dimensions}
    strategies = []
    for strategy in spec.trial_config(arm, arm.probe(), seed=0).strategies:
        own = {field: tunable for field, _, tunable in tunables(type(strategy))}
        searched = {
            field: _searched(dimension) | {"own": dimension.tunable == own.get(field)}
            for field in type(strategy).model_fields
            if (dimension := dimensions.get(f"{strategy.kind}.{field}")) is not None
        }
        values = strategy.model_dump(mode="json", exclude={"kind", *searched})
        strategies.append({"kind": strategy.kind, "fixed": values, "searched": searched})
    trial = {
        "fixed": {f"{section}.{key}": value for section, own in arm.trial.items() for key, value in own.items()},
        "searched": {name: _searched(d) for name, d in dimensions.items() if d.section in SECTIONS},
    }
    first = [dict(point) for point in spec.points(arm)] if arm.dimensions else []
    if spec.search.paired and arm.dimensions:
        start = arm.shared_values(SharedValues(spec)[0])
        first = [start | (first[0] if first else {}), *first[1:]]
    return {"strategies": strategies, "trial": trial, "first": first, "points": arm.size()}


def _searched(dimension: Dimension) -> dict[str, Any]:
    """Return a range as plain data. `shared` and `when` are present only if they hold."""
    when = {name: list(values) for name, values in dimension.when}
    described = describe_range(dimension.tunable) | ({"when": when} if when else {})
    return described | ({"shared": True} if dimension.shared else {})


def resolved_sweep(spec: SweepSpec) -> dict[str, Any]:
    """Return the content of a sweep file that states every value of `spec`; its configurations have the same ids."""
    shared = {"space": {dimension.name: _written(_searched(dimension)) for dimension in spec.space}}
    return {
        "name": spec.name,
        **({"plugins": [plugin.path for plugin in spec.plugins]} if spec.plugins else {}),
        "trial": spec.defaults.model_dump(mode="json", exclude={"strategies", "seed"}),
        **(shared if spec.space else {}),
        "arms": {arm.name: _resolved_arm(spec, arm) for arm in spec.arms},
        "objectives": dict(spec.objectives),
        "search": spec.search.model_dump(mode="json", exclude_none=True),
        "stopping": "none" if spec.stopping is None else spec.stopping.model_dump(mode="json"),
        "resources": spec.resources.model_dump(mode="json"),
        "keep": spec.keep,
        **({"trackers": trackers} if (trackers := spec.trackers.model_dump(exclude_none=True)) else {}),
    }


def _resolved_arm(spec: SweepSpec, arm: Arm) -> Any:
    """Return an arm as a list if this says everything about it, otherwise as a mapping."""
    described = describe_arm(spec, arm)
    strategies = [_resolved(item) for item in described["strategies"]]
    own = {name: search for name, search in described["trial"]["searched"].items() if "shared" not in search}
    points = None if arm.points is None else [dict(point) for point in arm.points]
    rest = {
        "trial": {section: dict(values) for section, values in arm.trial.items()},
        "space": {name: _written(search) for name, search in own.items()},
        "points": points,
        "configurations": arm.configurations,
        "seeds": list(arm.seeds) if arm.seeds is not None else None,
    }
    is_list = not any(rest.values()) and (arm.points is not None or bool(spec.space))
    return (
        strategies if is_list else {"strategies": strategies} | {k: v for k, v in rest.items() if v not in (None, {})}
    )


def _resolved(strategy: Mapping[str, Any]) -> dict[str, Any]:
    searched = {
        field: _written(search) for field, search in strategy["searched"].items() if not search.get("shared", False)
    }
    return {"kind": strategy["kind"], **strategy["fixed"], **searched}


def _written(search: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in search.items() if key not in ("own", "shared")}
