"""Validation of the arms, trials, search and objectives of a sweep file."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.evaluation.data_specific_metrics import unavailable_columns
from sweeps.spec.sections import COMPARED_COLUMNS, MAX_CONFIGURATIONS, Direction, ResourceSpec, SearchSpec
from sweeps.spec.space import Arm, Dimension, Value
from sweeps.storage.schema import objective_columns

__all__ = [
    "DEFAULT_OBJECTIVES",
    "Problems",
    "check_budget",
    "check_objectives",
    "check_search",
    "check_stopping",
    "validate_trials",
]


DEFAULT_OBJECTIVES: Mapping[str, Direction] = {"nll_iw": "min", "au": "max"}

MAX_PROBES = 4096
"""Largest number of points of all arms together at which every combination of bounds and choices is validated."""


def validate_trials(
    trial: Mapping[str, Any], arms: Sequence[Arm], objectives: Mapping[str, Direction], issues: list[ValidationIssue]
) -> tuple[TrialConfig, list[str]] | None:
    """Validate trials of every arm, at the bounds of its ranges and at its choices (see `Arm.probes`).

    Returns:
        The trial defaults without strategies, and the warnings about all trials; None if the defaults are invalid.
    """
    reserved = {"strategies": "List strategies under `arms`.", "seed": "List seeds under `search.seeds`."}
    for key, hint in reserved.items():
        if key in trial:
            issues.append(ValidationIssue(f"trial.{key}", "must be omitted", hint, trial[key]))
    trial = {key: value for key, value in trial.items() if key not in reserved}
    defaults: TrialConfig | None = None
    default_issues: tuple[ValidationIssue, ...] = ()
    try:
        defaults = parse_trial(trial)
    except ConfigError as error:
        default_issues = error.issues
        issues += [replace(issue, where=f"trial.{issue.where}") for issue in default_issues]
    warnings: dict[str, dict[str, None]] = {}
    arms_by_identity: dict[tuple[str, ...], str] = {}
    problems = Problems({str(issue) for issue in default_issues})
    for arm in arms:
        probes = arm.probes(MAX_PROBES // len(arms))
        configs = _valid_configs(arm, probes, trial, problems)
        for config in configs:
            for text in (*map(str, config.warnings()), *_unmeasured_objectives(config, objectives)):
                warnings.setdefault(text, {})[arm.name] = None
        if configs:
            identity = (configs[0].config_id(""), *map(repr, arm.dimensions))
            same = arms_by_identity.setdefault(identity, arm.name)
            if same != arm.name:
                message = f"must differ from every other arm, but is identical to arms.{same}"
                hint = f"Remove arms.{same} or arms.{arm.name}."
                issues.append(ValidationIssue(f"arms.{arm.name}", message, hint, list(arm.stack)))
    issues += problems.issues(arms)
    if defaults is None:
        return None
    return defaults, [f"{', '.join(names)}: {text}" for text, names in warnings.items()]


class Problems:
    """The problems of trials. One that several arms share is reported once.

    Args:
        reported: Texts of issues about the trial defaults, which are not repeated.
    """

    def __init__(self, reported: Container[str]) -> None:
        self._reported = reported
        self._found: dict[str, tuple[ValidationIssue, dict[str, Mapping[str, Value]]]] = {}

    def add(self, issue: ValidationIssue, arm: Arm, point: Mapping[str, Value]) -> None:
        """Add an issue of the trial of `arm` at `point`, unless it is reported already."""
        if str(issue) not in self._reported:
            self.add_located(replace(issue, where=_place(issue.where, arm, point)), arm, point)

    def add_located(self, issue: ValidationIssue, arm: Arm, point: Mapping[str, Value]) -> None:
        """Add an issue whose `where` is a place in the sweep file."""
        _, points = self._found.setdefault(str(issue), (issue, {}))
        points.setdefault(arm.name, point)

    def issues(self, arms: Sequence[Arm]) -> Iterator[ValidationIssue]:
        """Yield the issues. The hint names a point at which each occurs, and its arms unless these are all arms."""
        for issue, points in self._found.values():
            name = issue.where.removeprefix("space.")
            sharing = [arm for arm in arms if name == issue.where or name in _shared_names(arm)]
            first = next(arm for arm in arms if arm.name in points)
            # The other fields of a point differ between arms.
            point = points[first.name] if len(points) == 1 else first.shared_values(points[first.name])
            hints = [issue.hint]
            if len(point) > 1:
                hints.append(f"The problem occurs at {_format_point(point)}.")
            if not issue.where.startswith("arms.") and len(points) < len(sharing):
                hints.append(f"It concerns {', '.join(f'arms.{name}' for name in points)}.")
            yield replace(issue, hint=" ".join(filter(None, hints)))


def _valid_configs(
    arm: Arm, probes: Sequence[Mapping[str, Value]], trial: Mapping[str, Any], problems: Problems
) -> list[TrialConfig]:
    """Return the valid configurations of an arm at `probes`, and add the problems of the invalid ones."""
    configs: list[TrialConfig] = []
    points: dict[str, Mapping[str, Value]] = {}
    for point in probes:
        try:
            config = parse_trial(arm.values(trial, point))
        except ConfigError as error:
            for issue in error.issues:
                problems.add(issue, arm, point)
            continue
        configs.append(config)
        # Values that are written differently, such as 1, 1.0 and "1", may give the same configuration.
        same = points.setdefault(config.config_id(""), point)
        if same is not point:
            problems.add_located(_equal_values(arm, same, point), arm, {})
    return configs


def _equal_values(arm: Arm, first: Mapping[str, Value], second: Mapping[str, Value]) -> ValidationIssue:
    """Return the issue that two points of an arm have the same configuration."""
    names = [name for name in {**first, **second} if repr(first.get(name)) != repr(second.get(name))]
    one, other = (_format_point({name: point[name] for name in names if name in point}) for point in (first, second))
    message = f"must not have the same configuration at {one} and at {other}"
    where = f"space.{names[0]}" if len(names) == 1 and names[0] in _shared_names(arm) else f"arms.{arm.name}"
    return ValidationIssue(where, message, "Keep only one of the equivalent values.")


def _format_point(point: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in point.items())


def _shared_names(arm: Arm) -> set[str]:
    """Return the names of the searched fields that the arm has from the `space` of the sweep."""
    return {dimension.name for dimension in arm.dimensions if dimension.shared}


def _place(where: str, arm: Arm, point: Mapping[str, Value]) -> str:
    """Return the place in the sweep file of the field `where` of a trial of `arm` at `point`."""
    section, _, key = where.partition(".")
    if (item := re.fullmatch(r"strategies\[(\d+)\]\.(\w+)", where)) is not None:
        name = f"{arm.stack[int(item[1])]['kind']}.{item[2]}"
        if name in _shared_names(arm):
            return f"space.{name}"
    if where.startswith("strategies"):
        return where.replace("strategies", f"arms.{arm.name}", 1)
    if where in point:
        return f"space.{where}" if where in _shared_names(arm) else f"arms.{arm.name}: {where}"
    return f"arms.{arm.name}.trial.{where}" if key in arm.trial.get(section, {}) else f"trial.{where}"


def _unmeasured_objectives(config: TrialConfig, objectives: Mapping[str, Direction]) -> Iterator[str]:
    """Yield a warning for each strategy that leaves an objective null: the search and the front ignore its runs."""
    for strategy in config.strategies:
        null = [name for name in objectives if name in strategy.unmeasured]
        if null:
            yield (
                f"{strategy.kind} does not measure {' and '.join(null)}, so the runs of the arm cannot guide its "
                "search, and the Pareto front over the objectives does not include them."
            )


def check_search(
    search: SearchSpec, arms: Sequence[Arm], space: Mapping[str, Dimension], issues: list[ValidationIssue]
) -> None:
    """Append issues about the seeds and pairing, and about a grid with a budget or a continuous range."""
    lists = {"search.seeds": search.run_seeds}
    lists |= {f"arms.{arm.name}.seeds": arm.seeds for arm in arms if arm.seeds is not None}
    for where, seeds in lists.items():
        if not seeds or len(set(seeds)) != len(seeds):
            hint = "Write a number of seeds, such as 3, or a list of distinct seeds, such as [0, 1, 2]."
            message = "must contain at least one seed and no duplicates"
            issues.append(ValidationIssue(where, message, hint, list(seeds)))
    if search.paired:
        _check_pairing(search, arms, space, issues)
    if search.sampler != "grid":
        return
    budgets = {f"arms.{arm.name}.configurations": arm.configurations for arm in arms}
    for where, count in (budgets | {"search.configurations": search.configurations}).items():
        if count is not None:
            message, hint = "must be omitted with the grid sampler", "A grid runs every combination of values."
            issues.append(ValidationIssue(where, message, hint, count))
    for arm in arms:
        if (size := arm.size()) is not None and size > MAX_CONFIGURATIONS:
            message = f"must have at most {MAX_CONFIGURATIONS:,} combinations of values with the grid sampler"
            hint = "List fewer values, or choose another sampler."
            issues.append(ValidationIssue(f"arms.{arm.name}", message, hint, size))
        for dimension in arm.dimensions:
            if dimension.values() is None:
                message = "must be a finite set of values with the grid sampler"
                value = {"low": dimension.tunable.low, "high": dimension.tunable.high}
                where = f"space.{dimension.name}" if dimension.shared else f"arms.{arm.name}: {dimension.name}"
                issues.append(ValidationIssue(where, message, "List the values as {choices: [...]}.", value))


def _check_pairing(
    search: SearchSpec, arms: Sequence[Arm], space: Mapping[str, Dimension], issues: list[ValidationIssue]
) -> None:
    """Append issues about a sweep whose arms are to have the same values of the shared fields."""
    if search.sampler == "grid":
        message, hint = "must be false with the grid sampler", "In a grid, every arm has all values already."
        issues.append(ValidationIssue("search.paired", message, hint, True))
    if not space and not any(issue.where.partition(".")[0] == "space" for issue in issues):
        message, hint = "must be false, because the sweep has no shared fields", "List them under `space`."
        issues.append(ValidationIssue("search.paired", message, hint, True))
    for arm in arms:
        shared = _shared_names(arm)
        for number, point in enumerate(arm.points or ()):
            for name in [name for name in point if name in shared]:
                message = "must be omitted, because paired arms have the same value of it"
                where = f"arms.{arm.name}.points[{number}].{name}"
                issues.append(ValidationIssue(where, message, "Remove it from the point.", point[name]))


def check_budget(search: SearchSpec, resources: ResourceSpec, issues: list[ValidationIssue]) -> None:
    """Append an issue about a limit on GPU hours if no run uses a GPU, because it would limit nothing."""
    if search.budget is not None and search.budget.gpu_hours is not None and resources.gpus == 0:
        message, hint = "must be omitted if resources.gpus is 0", "Set resources.gpus, or limit hours instead."
        issues.append(ValidationIssue("search.budget.gpu_hours", message, hint, search.budget.gpu_hours))


def check_objectives(objectives: Any, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> None:
    """Append an issue for each objective that is not a numeric column or is not measured for this kind of data."""
    if not isinstance(objectives, Mapping):
        return
    data = trial.get("data")
    kind = str(data.get("kind", "synthetic")) if isinstance(data, Mapping) else "synthetic"
    if not objectives:
        issues.append(
            ValidationIssue("objectives", "must name at least one column", "Write, for example, {nll_iw: min}.", {})
        )
    for column in map(str, objectives):
        where = f"objectives.{column}"
        if column not in objective_columns():
            examples = f"Numeric columns are, for example, {', '.join(objective_columns()[:6])}."
            hint = did_you_mean(column, objective_columns(), 3) or examples
            issues.append(ValidationIssue(where, "must be a numeric column of the table", hint, column))
        elif column in unavailable_columns(kind):
            message = f"must be a column that is measured for {kind} data"
            issues.append(ValidationIssue(where, message, "Choose, for example, nll_iw.", column))


def check_stopping(objectives: Mapping[str, Direction], issues: list[ValidationIssue]) -> None:
    """Append an issue for each objective that cannot be compared while runs train."""
    for column in objectives:
        if column in objective_columns() and column not in COMPARED_COLUMNS:
            message = "must be an objective that is validated after each epoch, because runs are stopped early"
            hint = f"These are {', '.join(COMPARED_COLUMNS)}. Choose among them, or set stopping: none."
            issues.append(ValidationIssue(f"objectives.{column}", message, hint, column))
