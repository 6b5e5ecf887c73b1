"""Configurations on the front of a stored sweep as the first points of another one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lagvae_core.config.trial import TrialConfig, complete_stored, parse_trial
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.front import front_of
from sweeps.analysis.stored import stored_spec
from sweeps.spec.space import Arm, Value, value_of
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.identifiers import SWEEP_NAME
from sweeps.storage.table import ResultsFolder

__all__ = ["with_points_from"]


def with_points_from(spec: SweepSpec, folder: ResultsFolder) -> SweepSpec:
    """Return `spec` with arms that first try the configurations on the front of a stored sweep.

    An arm takes the configurations of the arm of the same name, or else of those with the same strategies. Each gives a
    point with the values of all searched fields, whether the stored sweep searched or fixed them. A value outside the
    range of a field is left to the sampler. These points come before the arm's own.

    Args:
        spec: The sweep.
        folder: Folder of the stored sweep.

    Raises:
        ConfigError: The folder holds no sweep, or no configuration on its front fits an arm.
    """
    rows = folder.runs() if SWEEP_NAME.fullmatch(folder.sweep) and folder.exists() else []
    if not rows:
        hint = "`lagvae results list` shows the stored sweeps."
        raise ConfigError([ValidationIssue("--points-from", "must be a stored sweep", hint, folder.sweep)])
    members = {row.config_id for row in front_of(rows, stored_spec(folder).objectives) if row.member}
    stored = list({row["config_id"]: row for row in rows if row["config_id"] in members}.values())
    found = {arm.name: _points(spec, arm, stored) for arm in spec.arms}
    if not any(found.values()):
        message = "must have a configuration on its front whose arm or strategies this sweep has, with a searched field"
        hint = f"`lagvae results pareto {folder.sweep}` shows the front."
        raise ConfigError([ValidationIssue("--points-from", message, hint, folder.sweep)])
    return replace(spec, arms=tuple(_with_points(spec, arm, found[arm.name]) for arm in spec.arms))


def _points(spec: SweepSpec, arm: Arm, stored: Sequence[Mapping[str, Any]]) -> list[dict[str, Value]]:
    """Return the distinct points that the stored configurations give an arm."""
    points = [point for config in _configs(arm, stored) if (point := _point(spec, arm, config))]
    return [point for number, point in enumerate(points) if point not in points[:number]]


def _with_points(spec: SweepSpec, arm: Arm, found: Sequence[Mapping[str, Value]]) -> Arm:
    own = [dict(point) for point in spec.points(arm)]
    return replace(arm, points=(*found, *(point for point in own if point not in found))) if found else arm


def _configs(arm: Arm, stored: Sequence[Mapping[str, Any]]) -> Iterator[TrialConfig]:
    """Yield the stored configurations that fit an arm."""
    same_name = [row for row in stored if row["arm"] == arm.name]
    kinds = [item["kind"] for item in arm.stack]
    for row in same_name or stored:
        try:
            config = parse_trial(complete_stored(json.loads(row["config"])))
        except ConfigError:
            continue  # an earlier version of lagvae accepted it
        if [strategy.kind for strategy in config.strategies] == kinds:
            yield config


def _point(spec: SweepSpec, arm: Arm, config: TrialConfig) -> dict[str, Value]:
    searched = [d for d in arm.dimensions if not (d.shared and spec.search.paired)]
    values = {dimension.name: value_of(config, dimension.name) for dimension in searched}
    return arm.active({d.name: values[d.name] for d in searched if d.contains(values[d.name])})
