"""Parsing of the range of one searched field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lagvae_core.config.recipe import recipe_of
from lagvae_core.data import DATA_SOURCES
from lagvae_core.errors import ValidationIssue, did_you_mean
from lagvae_core.models import MODELS
from lagvae_core.settings import FrozenConfig, TrainingConfig, Tunable
from lagvae_core.strategies.base import DEFAULT
from sweeps.spec.sections import MAX_CONFIGURATIONS
from sweeps.spec.space import Dimension, Value
from sweeps.storage.schema import SEARCHABLE_DATA, is_integral

__all__ = [
    "SEARCH",
    "changes_data",
    "check_name",
    "dimension_of",
    "model_classes",
    "parse_dimension",
    "searchable_fields",
    "section_classes",
]

SEARCH = "search"
"""Value that stands for the range that a strategy declares for a field."""

EXAMPLE = "Write, for example, {low: 0.1, high: 1.0} or {choices: [1, 2, 4]}."


def section_classes(trial: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, type[FrozenConfig]]:
    """Return the class of each section of a trial.

    The kinds of model and data are those that the arm or the sweep names, or those of the recipe. A section whose kind
    is unknown is left out.

    Args:
        trial: Values of all trials of the sweep, by section.
        own: Values of the trial for one arm alone, by section.
    """
    sections = {name: value for name, value in trial.items() if isinstance(value, Mapping)}
    data = str(sections.get("data", {}).get("kind", "synthetic"))
    recipe = recipe_of(data).get("model", {}).get("kind")
    model = str(own.get("model", {}).get("kind", sections.get("model", {}).get("kind", recipe)))
    found: dict[str, type[FrozenConfig]] = {"training": TrainingConfig}
    if data in DATA_SOURCES:
        found["data"] = DATA_SOURCES[data]
    if model in MODELS:
        found["model"] = MODELS[model]
    return found


def model_classes() -> list[type[FrozenConfig]]:
    """Return the configuration classes of all models."""
    return list(MODELS.values())


def searchable_fields(section: str, classes: Mapping[str, type[BaseModel]]) -> dict[str, FieldInfo]:
    """Return the fields of a section or strategy that can be searched, by name; none if it is not in `classes`."""
    fields = classes[section].model_fields if section in classes else {}
    return {
        name: info for name, info in fields.items() if name != "kind" and (section != "data" or name in SEARCHABLE_DATA)
    }


def check_name(
    where: str, name: str, classes: Mapping[str, type[FrozenConfig]], what: str, issues: list[ValidationIssue]
) -> bool:
    """Return whether `name` is a field that can be searched; if not, append an issue.

    Args:
        where: Place of the name in the sweep file.
        name: Name of the field.
        classes: Class of each section and strategy that has fields here.
        what: What the name must be, for the message.
        issues: List to which the issue is appended.
    """
    section, _, field_name = name.partition(".")
    fields = searchable_fields(section, classes)
    if section not in classes:
        full = [f"{one}.{name}" for one in classes if name in searchable_fields(one, classes)]
        hint = f"Did you mean {' or '.join(full[:3])}?" if full else did_you_mean(section, classes)
        hint = hint or "Names are, for example, training.learning_rate."
        issues.append(ValidationIssue(where, f"must be {what}", hint, name))
    elif field_name in fields:
        return True
    elif section == "data":
        issues.append(changes_data(where, name))
    elif name == "model.kind":
        hint = "Write one arm for each model, with trial: {model: {kind: ...}}."
        issues.append(ValidationIssue(where, "must be the same in all configurations of an arm", hint, name))
    else:
        hint = f"{did_you_mean(field_name, fields)} Known fields of {section}: {', '.join(fields)}.".lstrip()
        issues.append(ValidationIssue(where, "unknown key", hint))
    return False


def changes_data(where: str, value: Any) -> ValidationIssue:
    """Return the issue that a field of the data other than the searchable ones differs between arms."""
    message = "must be the same in all arms, because it changes the data"
    hint = f"Of the fields of data, only {' and '.join(SEARCHABLE_DATA)} can differ. Write one sweep per set of data."
    return ValidationIssue(where, message, hint, value)


def parse_dimension(
    where: str, name: str, value: Any, classes: Mapping[str, type[BaseModel]], issues: list[ValidationIssue]
) -> Dimension | None:
    """Return one searched field. If its range is invalid, append an issue and return None.

    Args:
        where: Place of the range in the sweep file.
        name: Name of a field that can be searched (see `searchable_fields`).
        value: The range as written, optionally with a condition `when`, or `search` for the declared range.
        classes: Class of each section and strategy.
        issues: List to which the issue is appended.
    """
    section, _, field = name.partition(".")
    info = searchable_fields(section, classes)[field]
    if value == SEARCH:
        declared = [mark for mark in info.metadata if isinstance(mark, Tunable)]
        if declared:
            return dimension_of(name, declared[0], info)
        issues.append(ValidationIssue(where, "must have a range, because it declares none", EXAMPLE, value))
        return None
    if not isinstance(value, Mapping):
        issues.append(ValidationIssue(where, "must be a range {low:, high:} or {choices:}", EXAMPLE, value))
        return None
    condition = _parse_condition(f"{where}.when", value["when"], issues) if "when" in value else ()
    rest = {key: content for key, content in value.items() if key != "when"}
    tunable = _parse_range(where, rest, is_integral(info.annotation), issues)
    if tunable is None or condition is None:
        return None
    if DEFAULT in tunable.choices and info.default != DEFAULT:
        hint = f"Write the value of the default, {info.default}."
        issues.append(ValidationIssue(f"{where}.choices", f"must not contain {DEFAULT}", hint, tunable.choices))
    return replace(dimension_of(name, tunable, info), when=condition)


def dimension_of(name: str, tunable: Tunable, info: FieldInfo) -> Dimension:
    """Return the dimension that searches the field `name` with the pydantic field `info` over `tunable`."""
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
