"""Parsing of `arms` and `space` of a sweep file."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from lagvae_core.config.recipe import RECIPES
from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.config.validation import issues_of, models_in
from lagvae_core.data import DataConfig
from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.models import AnyModel
from lagvae_core.settings import FrozenConfig, TrainingConfig, Tunable, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from lagvae_core.strategies.base import DEFAULT
from sweeps.spec.sections import MAX_CONFIGURATIONS, Seeds, as_seeds
from sweeps.spec.space import SECTIONS, Arm, Dimension, Value, value_of
from sweeps.storage.identifiers import is_arm_name
from sweeps.storage.schema import SEARCHABLE_DATA, is_integral

__all__ = ["MAX_ARMS", "SEARCH", "ArmFile", "parse_arm", "parse_arms", "parse_space"]

MAX_ARMS = 500

SEARCH = "search"
"""Value that stands for the range that a strategy declares for a field."""

EXAMPLE = "Write, for example, {low: 0.1, high: 1.0} or {choices: [1, 2, 4]}."


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
    place = f"{key}.strategies" if mapping else key
    parsed = _parse_stack(place, file, issues)
    own = _own_trial(key, file.trial, issues)
    if parsed is None or len(issues) > issues_before:
        return None
    stack, searched, written = parsed
    arm = Arm(name, tuple(stack), (), own, (), file.configurations, as_seeds(file.seeds))
    models = _models(context.trial, own)
    space: dict[str, Dimension] = {dimension.name: dimension for dimension in searched}
    for field_name, value in context.space.items():
        # The value that the arm itself writes takes precedence over the range of the whole sweep.
        section, _, field_key = field_name.partition(".")
        fixed = field_key in own.get(section, {}) if section in SECTIONS else field_name in written
        known = section in SECTIONS or section in {item["kind"] for item in stack}
        if known and not fixed and field_key in _fields(section, models):
            dimension = _parse_dimension(f"space.{field_name}", field_name, value, models, [])
            if dimension is not None:
                space[field_name] = replace(dimension, shared=True)
    for field_name, value in file.space.items():
        where = f"{key}.space.{field_name}"
        if _known_field(where, field_name, stack, models, issues):
            if field_name in written or field_name.partition(".")[2] in own.get(field_name.partition(".")[0], {}):
                message = "must not be both fixed and searched"
                issues.append(ValidationIssue(where, message, "Remove it from `space`, or its value.", value))
            dimension = _parse_dimension(where, field_name, value, models, issues)
            if dimension is not None:
                space[field_name] = dimension
    if len(issues) > issues_before:
        return None
    arm = _with_conditions(key, replace(arm, dimensions=tuple(space.values())), context)
    points = _parse_points(f"{key}.points", arm, file.points or (), issues)
    if file.points is None and (mapping or context.space):
        # An arm that is a list starts with a suggestion of the sampler, as it did before points existed.
        return replace(arm, points=None) if len(issues) == issues_before else None
    return replace(arm, points=points) if len(issues) == issues_before else None


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
            searched[name] = _dimension(f"{kind}.{name}", tunable, strategy.model_fields[name])
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
            dimension = _parse_dimension(f"{where}.{name}", f"{kind}.{name}", value, {}, issues)
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
            hint = did_you_mean(section, SECTIONS) or f"Known sections: {', '.join(SECTIONS)}."
            issues.append(ValidationIssue(where, "unknown key", hint))
        elif not isinstance(values, Mapping):
            issues.append(ValidationIssue(where, "must be a mapping of keys to values", "", values))
        elif section == "data" and (other := [name for name in values if name not in SEARCHABLE_DATA]):
            issues += [_changes_data(f"{where}.{name}", values[name]) for name in other]
        else:
            own[section] = dict(values)
    return own


def _changes_data(where: str, value: Any) -> ValidationIssue:
    message = "must be the same in all arms, because it changes the data"
    hint = f"Of the fields of data, only {' and '.join(SEARCHABLE_DATA)} can differ. Write one sweep per set of data."
    return ValidationIssue(where, message, hint, value)


def _models(trial: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, type[FrozenConfig]]:
    """Return the class of each section, given the kinds that the arm, the sweep or the recipe names."""
    sections = {name: value for name, value in trial.items() if isinstance(value, Mapping)}
    data = str(sections.get("data", {}).get("kind", "synthetic"))
    recipe = RECIPES.get(data, {}).get("model", {}).get("kind")
    model = str(own.get("model", {}).get("kind", sections.get("model", {}).get("kind", recipe)))
    classes = {"data": (DataConfig, data), "model": (AnyModel, model)}
    found: dict[str, type[FrozenConfig]] = {"training": TrainingConfig}
    for section, (union, kind) in classes.items():
        for member in models_in(union):
            if member.model_fields["kind"].default == kind:
                found[section] = typing.cast("type[FrozenConfig]", member)
    return found


def _fields(section: str, models: Mapping[str, type[FrozenConfig]]) -> dict[str, FieldInfo]:
    """Return the fields of a section or strategy that can be searched, by name."""
    if section in CATALOGUE:
        fields = CATALOGUE[section].model_fields
    else:
        fields = models[section].model_fields if section in models else {}
    return {
        name: info for name, info in fields.items() if name != "kind" and (section != "data" or name in SEARCHABLE_DATA)
    }


def _known_field(
    where: str,
    name: str,
    stack: Sequence[Mapping[str, Any]],
    models: Mapping[str, type[FrozenConfig]],
    issues: list[ValidationIssue],
) -> bool:
    """Return whether `name` is a field that can be searched in an arm; if not, append an issue."""
    section, _, key = name.partition(".")
    kinds = [item["kind"] for item in stack]
    if section not in (*SECTIONS, *kinds):
        known = f"Names are {', '.join(f'{part}.FIELD' for part in (*SECTIONS, *kinds))}."
        issues.append(ValidationIssue(where, "must be a field of the trial or of a strategy of the arm", known, name))
        return False
    return _known_key(where, section, key, models, issues)


def _known_key(
    where: str, section: str, key: str, models: Mapping[str, type[FrozenConfig]], issues: list[ValidationIssue]
) -> bool:
    fields = _fields(section, models)
    if key in fields:
        return True
    if section == "data":
        issues.append(_changes_data(where, f"{section}.{key}"))
    elif (section, key) == ("model", "kind"):
        hint = "Write one arm for each model, with trial: {model: {kind: ...}}."
        issues.append(ValidationIssue(where, "must be the same in all configurations of an arm", hint, "model.kind"))
    else:
        hint = f"{did_you_mean(key, fields)} Known fields of {section}: {', '.join(fields)}.".lstrip()
        issues.append(ValidationIssue(where, "unknown key", hint))
    return False


def parse_space(space: Any, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> dict[str, Dimension]:
    """Return the searched fields of the whole sweep by name, and append issues about invalid ones.

    Args:
        space: `space` as written in the sweep file.
        trial: Values of all trials of the sweep.
        issues: List to which every problem is appended.
    """
    if not isinstance(space, Mapping):
        return {}
    models, dimensions = _models(trial, {}), {}
    every = {m.model_fields["kind"].default: typing.cast("type[FrozenConfig]", m) for m in models_in(AnyModel)}
    for name, value in space.items():
        where, (section, _, key) = f"space.{name}", str(name).partition(".")
        if section not in (*SECTIONS, *CATALOGUE):
            hint = did_you_mean(section, (*SECTIONS, *CATALOGUE)) or "Names are, for example, training.learning_rate."
            issues.append(ValidationIssue(where, "must be a field of the trial or of a strategy", hint, name))
            continue
        # An arm may have another model than the sweep; `_check_use_of_space` reports fields that no arm has.
        of_another = section == "model" and key != "kind" and any(key in m.model_fields for m in every.values())
        if not of_another and not _known_key(where, section, key, models, issues):
            continue
        of_models = models if key in _fields(section, models) else {**models, "model": _having(every, key)}
        dimension = _parse_dimension(where, str(name), value, of_models, issues)
        if dimension is not None:
            dimensions[dimension.name] = replace(dimension, shared=True)
    for name, dimension in dimensions.items():
        for other, values in dimension.when:
            _check_condition(f"space.{name}.when", other, values, dimensions, issues)
    return dimensions


def _having(models: Mapping[str, type[FrozenConfig]], key: str) -> type[FrozenConfig]:
    return next(model for model in models.values() if key in model.model_fields)


def _parse_dimension(
    where: str, name: str, value: Any, models: Mapping[str, type[FrozenConfig]], issues: list[ValidationIssue]
) -> Dimension | None:
    """Return one searched field. If its range is invalid, append an issue and return None."""
    section, _, key = name.partition(".")
    info = _fields(section, models)[key]
    if value == SEARCH:
        declared = {} if section in SECTIONS else {name: tunable for name, _, tunable in tunables(CATALOGUE[section])}
        if key in declared:
            return _dimension(name, declared[key], info)
        hint = EXAMPLE
        issues.append(ValidationIssue(where, "must have a range, because it declares none", hint, value))
        return None
    if not isinstance(value, Mapping):
        issues.append(ValidationIssue(where, "must be a range {low:, high:} or {choices:}", EXAMPLE, value))
        return None
    condition = _parse_condition(f"{where}.when", value["when"], issues) if "when" in value else ()
    rest = {inner: content for inner, content in value.items() if inner != "when"}
    tunable = _parse_range(where, rest, is_integral(info.annotation), issues)
    if tunable is None or condition is None:
        return None
    if DEFAULT in tunable.choices and info.default != DEFAULT:
        hint = f"Write the value of the default, {info.default}."
        issues.append(ValidationIssue(f"{where}.choices", f"must not contain {DEFAULT}", hint, tunable.choices))
    return replace(_dimension(name, tunable, info), when=condition)


def _dimension(name: str, tunable: Tunable, info: FieldInfo) -> Dimension:
    return Dimension(name, tunable, is_integral(info.annotation) and not tunable.choices)


def _parse_condition(
    where: str, condition: Any, issues: list[ValidationIssue]
) -> tuple[tuple[str, tuple[Value, ...]], ...] | None:
    """Return a condition `when: {FIELD: value or list of values}`. If it is invalid, append an issue; return None."""
    hint = "Write, for example, when: {training.optimiser: sgd}."
    if not isinstance(condition, Mapping) or not condition:
        issues.append(ValidationIssue(where, "must be a mapping of fields to values", hint, condition))
        return None
    parsed = []
    for name, values in condition.items():
        listed = tuple(values) if isinstance(values, list | tuple) else (values,)
        if not listed or not all(isinstance(value, int | float | str) for value in listed):
            issues.append(ValidationIssue(f"{where}.{name}", "must be a value or a list of values", hint, values))
            return None
        parsed.append((str(name), listed))
    return tuple(parsed)


def _check_condition(
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


def _with_conditions(key: str, arm: Arm, context: _Context) -> Arm:
    """Return the arm with conditions on fixed fields decided, and dimensions with conditions last."""
    dimensions = {dimension.name: dimension for dimension in arm.dimensions}
    decided: list[Dimension] = []
    unconditional = replace(arm, dimensions=tuple(d for d in arm.dimensions if not d.when))
    for dimension in arm.dimensions:
        open_conditions = []
        holds = True
        for name, values in dimension.when:
            if name in dimensions:
                _check_condition(f"{key}: {dimension.name}.when", name, values, dimensions, context.issues)
                open_conditions.append((name, values))
            else:
                holds = holds and _fixed_value(unconditional, name, context.trial) in values
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


def _parse_range(where: str, value: Mapping[str, Any], integral: bool, issues: list[ValidationIssue]) -> Tunable | None:
    """Return the range of a searched field. If the range is invalid, append an issue and return None."""
    keys = set(value)
    if keys == {"choices"}:
        return _parse_choices(f"{where}.choices", value["choices"], issues)
    if {"low", "high"} <= keys <= {"low", "high", "log", "step"}:
        low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
        problem = _problem_of_bounds(low, high, log, integral) or _problem_of_step(low, high, log, step, integral)
        if problem is None:
            return Tunable(low, high, log, step=step)
        issues.append(ValidationIssue(where, *problem, dict(value)))
        return None
    message = "must be a single value, a range {low:, high:} (optionally with log: or step:), or {choices:}"
    issues.append(ValidationIssue(where, message, EXAMPLE, dict(value)))
    return None


def _parse_choices(where: str, choices: Any, issues: list[ValidationIssue]) -> Tunable | None:
    plain = isinstance(choices, list | tuple) and all(isinstance(choice, int | float | str) for choice in choices)
    if plain and choices and len(set(choices)) == len(choices):
        return Tunable(choices=tuple(choices))
    hint = "Write, for example, {choices: [1, 2, 4]}."
    issues.append(ValidationIssue(where, "must be a non-empty list of distinct numbers or words", hint, choices))
    return None


def _problem_of_bounds(low: Any, high: Any, log: Any, integral: bool) -> tuple[str, str] | None:
    """Return the message and the hint for the first problem with a range; None if the range is valid."""
    numbers = all(_is_number(end) for end in (low, high))
    if not numbers or not isinstance(log, bool):
        hint = "Write, for example, {low: 0.1, high: 1.0, log: true}."
        return "must have numbers as `low` and `high`, and true or false as `log`", hint
    if integral and not all(isinstance(end, int) or end.is_integer() for end in (low, high)):
        return "must have whole numbers as `low` and `high`", "Round both bounds."
    if not low < high:
        return "must satisfy low < high", "Swap `low` and `high`, or write a single value in place of the range."
    if log and low <= 0:
        return "must satisfy low > 0 on a logarithmic scale", "Increase `low`, or remove `log`."
    return None


def _problem_of_step(low: float, high: float, log: bool, step: Any, integral: bool) -> tuple[str, str] | None:
    """Return the message and the hint for the first problem with the step of a valid range; None if there is none."""
    if step is None:
        return None
    if not _is_number(step) or not step > 0 or (integral and step != int(step)):
        return f"must have a positive {'integer' if integral else 'number'} as `step`", "Write, for example, step: 1."
    if log:
        return "must not have both `log` and `step`", "Remove one of them, or write {choices: [...]}."
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
        return "must have a `step` that divides high - low", "Change `high` or `step`."
    if steps > MAX_CONFIGURATIONS:
        return f"must have at most {MAX_CONFIGURATIONS:,} steps", "Increase `step`."
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
