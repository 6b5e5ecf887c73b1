"""Parsing of `arms` and `space` of a sweep file."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, ValidationError

from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ValidationIssue, did_you_mean
from lagvae_core.settings import FrozenConfig, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from lagvae_core.strategies.base import DEFAULT
from sweeps.spec.conditions import check_condition, check_names, decide_conditions
from sweeps.spec.ranges import (
    SEARCH,
    changes_data,
    check_name,
    dimension_of,
    model_classes,
    parse_dimension,
    searchable_fields,
    section_classes,
)
from sweeps.spec.sections import MAX_CONFIGURATIONS, Seeds, as_seeds
from sweeps.spec.space import SECTIONS, Arm, Dimension, Value
from sweeps.storage.identifiers import is_arm_name
from sweeps.storage.schema import SEARCHABLE_DATA

__all__ = ["MAX_ARMS", "ArmFile", "parse_arm", "parse_arms", "parse_space"]

MAX_ARMS = 500


class ArmFile(FrozenConfig):
    """An arm that is written as a mapping. The contents are validated separately."""

    strategies: Annotated[Any, Field(description="list of strategies, as in an arm that is a list")] = ()
    trial: Annotated[
        dict[str, Any],
        Field(description="values of `model`, `training` and `data` (batching, partition) for this arm alone"),
    ] = Field(default_factory=dict)
    space: Annotated[
        dict[str, Any], Field(description="searched fields of this arm; they replace those of the whole sweep")
    ] = Field(default_factory=dict)
    search: Annotated[
        bool, Field(description="whether fields without a value are searched over the ranges of their strategies")
    ] = False
    points: Annotated[
        tuple[dict[str, Any], ...] | None,
        Field(max_length=1000, description="points to try first; the defaults of the searched fields if omitted"),
    ] = None
    configurations: Annotated[
        int | None, Field(ge=1, le=MAX_CONFIGURATIONS, description="number of configurations of this arm")
    ] = None
    seeds: Annotated[Seeds | None, Field(description="seeds of each configuration of this arm")] = None


@dataclass(frozen=True)
class _Context:
    """What the arms of a sweep have in common.

    Args:
        trial: Values of all trials, as written in the file.
        space: Searched fields of the whole sweep: name to range as written.
        issues: List to which every problem is appended.
    """

    trial: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    issues: list[ValidationIssue] = field(default_factory=list)


def parse_arms(arms: Any, trial: Mapping[str, Any], space: Any, issues: list[ValidationIssue]) -> list[Arm]:
    """Return the valid arms of the sweep file, and append issues about the others.

    Args:
        arms: The arms as written in the file.
        trial: Values of all trials.
        space: Searched fields of all arms.
        issues: List to which every problem is appended.
    """
    if not isinstance(arms, Mapping):
        return []
    if len(arms) > MAX_ARMS:
        message = f"must name at most {MAX_ARMS:,} arms, but names {len(arms):,}"
        issues.append(ValidationIssue("arms", message, "Divide the arms among several sweeps."))
        return []
    context = _Context(trial, space if isinstance(space, Mapping) else {}, issues)
    parsed: list[Arm] = []
    for name, items in arms.items():
        if not is_arm_name(name):
            message = "must have names of 1 to 100 printable characters, without spaces at the start or end"
            hint = "Rename the arm."
            issues.append(ValidationIssue("arms", message, hint, name))
            continue
        arm = _parse_arm(name, items, context)
        if arm is not None:
            parsed.append(arm)
    if not arms:
        issues.append(ValidationIssue("arms", "must name at least one arm", "Write, for example, {vae: []}.", {}))
    elif len(parsed) == len(arms):
        _check_use_of_space(context, parsed)
    return parsed


def parse_arm(name: str, items: Any, issues: list[ValidationIssue]) -> Arm | None:
    """Parse one arm of a sweep without a space of its own.

    An arm is a list of strategies or a mapping (`ArmFile`). Each item of the list is either the kind of a strategy, or
    a mapping with the key `kind` and any fields of the strategy. A field is either fixed to a value, which may be
    `default`, or searched over a range `{low:, high:}` (optionally with `log:` or `step:`), over `{choices:}`, or over
    the range that the strategy declares (`search`). A tunable field that an item omits is searched over that range if
    the arm is a list or says `search: true`; otherwise it has its default.

    Args:
        name: Name of the arm.
        items: The arm as written in the sweep file.
        issues: List to which every problem of the arm is appended.

    Returns:
        The arm, or None if there is any problem.
    """
    return _parse_arm(name, items, _Context(issues=issues))


def _parse_arm(name: str, items: Any, context: _Context) -> Arm | None:
    key, issues = f"arms.{name}", context.issues
    issues_before = len(issues)
    file = ArmFile(strategies=items, search=True)
    mapping = isinstance(items, Mapping) and "kind" not in items  # otherwise, it is a strategy without its brackets
    if mapping:
        try:
            file = ArmFile.model_validate(items)
        except ValidationError as error:
            issues += [replace(issue, where=f"{key}.{issue.where}") for issue in issues_of(error, ArmFile)]
            return None
    parsed = _parse_stack(f"{key}.strategies" if mapping else key, file, issues)
    own = _own_trial(key, file.trial, issues)
    if parsed is None or len(issues) > issues_before:
        return None
    stack, searched, written = parsed
    written |= {f"{section}.{field_name}" for section, values in own.items() for field_name in values}
    classes = section_classes(context.trial, own) | {item["kind"]: CATALOGUE[item["kind"]] for item in stack}
    dimensions = {dimension.name: dimension for dimension in searched}
    dimensions |= _shared_dimensions(context.space, classes, written)
    dimensions |= _own_dimensions(f"{key}.space", file.space, classes, written, issues)
    if len(issues) > issues_before:
        return None
    arm = Arm(name, tuple(stack), tuple(dimensions.values()), own, (), file.configurations, as_seeds(file.seeds))
    arm = decide_conditions(key, arm, context.trial, issues)
    points = _parse_points(f"{key}.points", arm, file.points or (), issues)
    # An arm that is a list starts with a suggestion of the sampler, as it did before points existed.
    starts_with_defaults = file.points is None and (mapping or bool(context.space))
    return replace(arm, points=None if starts_with_defaults else points) if len(issues) == issues_before else None


def _shared_dimensions(
    space: Mapping[str, Any], classes: Mapping[str, type[FrozenConfig]], written: Container[str]
) -> dict[str, Dimension]:
    """Return the searched fields of the whole sweep that an arm has.

    Args:
        space: `space` of the sweep. Its issues have been reported already.
        classes: Class of each section and strategy of the arm.
        written: Names of fields for which the arm itself has a value or range, which takes precedence.
    """
    dimensions = {}
    for name, value in space.items():
        section, _, field_name = name.partition(".")
        if name not in written and field_name in searchable_fields(section, classes):
            dimension = parse_dimension(f"space.{name}", name, value, classes, [])
            if dimension is not None:
                dimensions[name] = replace(dimension, shared=True)
    return dimensions


def _own_dimensions(
    where: str,
    space: Mapping[str, Any],
    classes: Mapping[str, type[FrozenConfig]],
    written: Container[str],
    issues: list[ValidationIssue],
) -> dict[str, Dimension]:
    """Return the searched fields in the `space` of an arm, and append issues about invalid ones."""
    dimensions = {}
    for name, value in space.items():
        place = f"{where}.{name}"
        if not check_name(place, name, classes, "a field of the trial or of a strategy of the arm", issues):
            continue
        if name in written:
            message = "must be either in `space` or in the values of the arm"
            issues.append(ValidationIssue(place, message, "Remove one of them.", value))
        dimension = parse_dimension(place, name, value, classes, issues)
        if dimension is not None and check_names(place, dimension, classes, issues):
            dimensions[name] = dimension
    return dimensions


def _parse_stack(
    where: str, file: ArmFile, issues: list[ValidationIssue]
) -> tuple[list[dict[str, Any]], list[Dimension], set[str]] | None:
    """Return the stack, its searched fields, and the names of the fields that have a value or range in the file."""
    items = file.strategies
    if not isinstance(items, list | tuple):
        issues.append(ValidationIssue(where, "must be a list of strategies", "Write [] for the plain VAE.", items))
        return None
    if len(items) > len(CATALOGUE):
        message = f"must list each strategy at most once, but has {len(items):,} entries"
        issues.append(ValidationIssue(where, message, f"There are {len(CATALOGUE)} strategies."))
        return None
    stack: list[dict[str, Any]] = []
    dimensions: list[Dimension] = []
    written: set[str] = set()
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        item = {"kind": item} if isinstance(item, str) else item
        strategy = _parse_kind(place, item, issues)
        if strategy is not None:
            fixed, searched = _parse_fields(place, strategy, item, file.search, issues)
            stack.append(fixed)
            dimensions.extend(searched)
            written |= {f"{strategy.name()}.{name}" for name in item if name != "kind"}
    return stack, dimensions, written


def _parse_kind(where: str, item: Any, issues: list[ValidationIssue]) -> type[Strategy] | None:
    """Return the strategy that an item of an arm names. If it names none, append an issue and return None."""
    known = f"Known kinds: {', '.join(CATALOGUE)}."
    if not isinstance(item, Mapping) or "kind" not in item:
        issues.append(
            ValidationIssue(where, "must be the kind of a strategy, or a mapping with the key `kind`", known, item)
        )
        return None
    kind = item["kind"]
    strategy = CATALOGUE.get(str(kind))
    if strategy is None:
        issues.append(
            ValidationIssue(f"{where}.kind", "must be a known strategy", did_you_mean(kind, CATALOGUE) or known, kind)
        )
    return strategy


def _parse_fields(
    where: str, strategy: type[Strategy], item: Mapping[str, Any], search: bool, issues: list[ValidationIssue]
) -> tuple[dict[str, Any], list[Dimension]]:
    """Return the fixed fields and the searched fields of one item of an arm."""
    kind = strategy.name()
    fixed: dict[str, Any] = {"kind": kind}
    searched: dict[str, Dimension] = {}
    for name, _, tunable in tunables(strategy):
        if name not in item and search:
            searched[name] = dimension_of(f"{kind}.{name}", tunable, strategy.model_fields[name])
    for name, value in item.items():
        if name == "kind":
            continue
        if value == DEFAULT and name in strategy.model_fields:
            continue  # without a value and a range, it has its default
        if not isinstance(value, Mapping) and value != SEARCH:
            fixed[name] = value
        elif name not in strategy.model_fields:
            known = [field_name for field_name in strategy.model_fields if field_name != "kind"]
            hint = f"{did_you_mean(name, known)} Known keys of {kind}: {', '.join(known)}.".lstrip()
            issues.append(ValidationIssue(f"{where}.{name}", "unknown key", hint))
        else:
            dimension = parse_dimension(f"{where}.{name}", f"{kind}.{name}", value, {kind: strategy}, issues)
            if dimension is not None:
                searched[name] = dimension
    return fixed, list(searched.values())


def _own_trial(key: str, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> dict[str, Any]:
    """Return the values of the trial that an arm may set for itself. Append issues about the others."""
    reasons = {
        "strategies": "List strategies under `strategies` of the arm.",
        "seed": "List seeds under `seeds` of the arm.",
        "evaluation": "All arms are measured in the same way; write it under `trial` of the sweep.",
    }
    own: dict[str, Any] = {}
    for section, values in trial.items():
        where = f"{key}.trial.{section}"
        if section in reasons:
            issues.append(ValidationIssue(where, "must be omitted", reasons[section], values))
        elif section not in SECTIONS:
            outer, _, inner = str(section).partition(".")
            hint = did_you_mean(section, SECTIONS) or f"Known sections: {', '.join(SECTIONS)}."
            hint = f"Write {outer}: {{{inner}: ...}}." if outer in SECTIONS and inner else hint
            issues.append(ValidationIssue(where, "unknown key", hint))
        elif not isinstance(values, Mapping):
            issues.append(ValidationIssue(where, "must be a mapping of keys to values", "", values))
        elif section == "data" and (other := [name for name in values if name not in SEARCHABLE_DATA]):
            issues += [changes_data(f"{where}.{name}", values[name]) for name in other]
        else:
            own[section] = dict(values)
    return own


def parse_space(space: Any, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> dict[str, Dimension]:
    """Return the searched fields of the whole sweep by name, and append issues about invalid ones.

    Args:
        space: `space` as written in the sweep file.
        trial: Values of all trials of the sweep.
        issues: List to which every problem is appended.
    """
    if not isinstance(space, Mapping):
        return {}
    dimensions = {}
    for name, value in space.items():
        where = f"space.{name}"
        classes: dict[str, type[FrozenConfig]] = {**section_classes(trial, {}), **CATALOGUE}
        section, _, field_name = name.partition(".")
        if section == "model" and field_name not in searchable_fields("model", classes):
            # An arm may have another model than the sweep; `_check_use_of_space` reports fields that no arm has.
            owners = [model for model in model_classes() if field_name in model.model_fields]
            if owners:
                classes["model"] = owners[0]
        if check_name(where, name, classes, "a field of the trial or of a strategy", issues):
            dimension = parse_dimension(where, name, value, classes, issues)
            if dimension is not None and check_names(where, dimension, classes, issues):
                dimensions[dimension.name] = replace(dimension, shared=True)
    for name, dimension in dimensions.items():
        for other, values in dimension.when:
            check_condition(f"space.{name}.when", other, values, dimensions, issues)
    return dimensions


def _parse_points(
    where: str, arm: Arm, points: Sequence[Mapping[str, Any]], issues: list[ValidationIssue]
) -> tuple[Mapping[str, Value], ...]:
    """Return the points of an arm, and append an issue for each value that is not in the space."""
    dimensions = {dimension.name: dimension for dimension in arm.dimensions}
    for number, point in enumerate(points):
        for name, value in point.items():
            place = f"{where}[{number}].{name}"
            if name not in dimensions:
                hint = did_you_mean(name, dimensions) or f"Searched fields: {', '.join(dimensions) or 'none'}."
                issues.append(ValidationIssue(place, "must be a searched field of the arm", hint, name))
            elif not dimensions[name].contains(value):
                hint = "Widen the range, or change the point."
                issues.append(ValidationIssue(place, "must be in the range of the field", hint, value))
    return tuple(dict(point) for point in points)


def _check_use_of_space(context: _Context, arms: Sequence[Arm]) -> None:
    """Append an issue for each field of the shared space that no arm searches."""
    used = {dimension.name for arm in arms for dimension in arm.dimensions}
    for name in context.space:
        if name not in used and not any(issue.where.startswith(f"space.{name}") for issue in context.issues):
            hint = "Remove it, or remove the values that fix it in every arm."
            issue = ValidationIssue(f"space.{name}", "must be a field that some arm searches", hint, name)
            context.issues.append(issue)
