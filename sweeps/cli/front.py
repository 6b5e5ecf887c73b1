"""`lagvae results pareto`: the Pareto front as a table, JSON or a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.front import DIGITS, STANDINGS, FrontRow, front_of
from sweeps.analysis.pareto import Direction
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.stored import stored_plan, stored_spec
from sweeps.cli.plan import print_earlier_rows
from sweeps.cli.terminal import (
    TextTable,
    console_of_stdout,
    figure_errors,
    print_figures,
    print_json,
    print_whole,
)
from sweeps.formatting import format_parameters
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, with_evaluations

__all__ = ["draw_front", "parse_objectives", "print_front", "unfinished_seeds"]

LEFT = ("arm", "front", "parameters")
"""Headings of left-aligned columns."""


def parse_objectives(text: str, option: str = "--objectives") -> dict[str, Direction]:
    """Parse objectives such as `nll_iw:min,mi:max` into directions by column.

    Raises:
        ConfigError: Lists all issues about `option`.
    """
    objectives: dict[str, Direction] = {}
    issues: list[ValidationIssue] = []
    for item in text.split(","):
        column, _, direction = item.strip().partition(":")
        if unknown := non_numeric_columns(option, [column]):
            issues += unknown
        elif column in objectives:
            message, hint = f"must list {column} only once", f"Remove one of the two entries for {column}."
            issues.append(ValidationIssue(option, message, hint, text))
        elif direction == "min":
            objectives[column] = "min"
        elif direction == "max":
            objectives[column] = "max"
        else:
            hint = "For example: nll_iw:min,mi:max."
            issues.append(ValidationIssue(option, "must be COLUMN:min or COLUMN:max", hint, item))
    if issues:
        raise ConfigError(issues)
    return objectives


def print_front(folder: ResultsFolder, objectives: Mapping[str, Direction] | None, *, as_json: bool) -> None:
    """Print the configurations on the Pareto front.

    Args:
        folder: The results of the sweep.
        objectives: Directions by column; None for the objectives of the sweep.
        as_json: Print a list of JSON objects instead of a table.
    """
    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    plan = stored_plan(folder, spec, list(axes))
    stored = with_evaluations(folder, plan.current, axes)
    rows = front_of(stored, axes)
    shown = rows.shown()
    if as_json:
        print_json([row.to_json() for row in shown])
        return
    console = console_of_stdout()
    members = int(rows.member_M.sum())
    if not members:
        console.print("no finished run has a value for every objective")
        return
    console.print(f"Pareto front of {folder.sweep}: {members} of {len(rows)} configurations, mean ± standard error")
    print_whole(console, _front_table(shown, axes))
    for standing in dict.fromkeys(row.standing for row in shown if row.standing in STANDINGS):
        console.print(f"{standing}: {STANDINGS[standing]}", soft_wrap=True)
    if (rows.n_M == 1).all() and len(rows) > 1:
        console.print("one seed per configuration: the error of the differences is unknown", soft_wrap=True)
    on_front = [row.config_id for row in shown]
    for text in unfinished_seeds(stored, on_front):
        console.print(f"warning, {text}", soft_wrap=True)
    for warning in result_warnings_of(stored.filter(stored.is_in("config_id", on_front))):
        console.print(f"warning, {warning}", soft_wrap=True)
    compared = rows.first.codes("arm")[1]
    missing = [arm for arm in stored.filter(stored.equals("status", "finished")).codes("arm")[1] if arm not in compared]
    if missing:
        console.print(f"arms without a value for every objective are not compared: {', '.join(missing)}")
    print_earlier_rows(console, folder.sweep, plan.earlier_runs)


def unfinished_seeds(rows: Sequence[Mapping[str, Any]], config_ids: Collection[str]) -> Iterator[str]:
    """Yield a warning for each configuration that has runs which ended without a result."""
    table = RowTable.of(rows, ["config_id", "status"])
    ended = table.filter(table.is_in("config_id", config_ids) & table.is_in("status", ENDED))
    of_configuration = {config_id: Counter[str]() for config_id in config_ids}
    for config_id, status in zip(ended.values("config_id"), ended.values("status"), strict=True):
        of_configuration[config_id][status] += 1
    for config_id, statuses in of_configuration.items():
        others = {status: count for status, count in statuses.items() if status != "finished"}
        if others:
            counts = ", ".join(f"{count} {status}" for status, count in others.items())
            yield (
                f"{config_id}: {sum(others.values())} of {statuses.total()} seeds have no result ({counts}), so its "
                "mean is that of the others and may be too good."
            )


def _front_table(shown: Sequence[FrontRow], axes: Mapping[str, Direction]) -> TextTable:
    headings = [
        "arm",
        "front",
        *(f"{name} ({direction})" for name, direction in axes.items()),
        "n",
        "config_id",
        "parameters",
    ]
    rows = [
        [
            row.arm,
            row.standing_text,
            *(row.statistic(name).text(DIGITS) for name in axes),
            str(row.n),
            row.config_id,
            format_parameters(row.parameters),
        ]
        for row in shown
    ]
    return TextTable(headings, rows, LEFT)


def draw_front(
    folder: ResultsFolder,
    objectives: Mapping[str, Direction] | None,
    path: Path,
    references: Sequence[str] = (),
    width: float | None = None,
) -> None:
    """Draw the Pareto front with the first objective on the y axis and the second on the x axis.

    Args:
        folder: The results of the sweep.
        objectives: Directions by column; None for the objectives of the sweep.
        path: File to write.
        references: Arms at whose value of the first objective a line is drawn: the mean over the seeds of their best
            configuration.
        width: Width of the figure [inches]; None for the default.

    Raises:
        ConfigError: There are not two objectives, no finished run has values for both, a reference has no value, or the
            figure cannot be written.
    """
    from sweeps.plots.front import front_figure, front_points

    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    if len(axes) != 2:
        hint = "Choose two objectives with --objectives."
        raise ConfigError([ValidationIssue("--png", "must be used with exactly two objectives", hint, list(axes))])
    (y, y_direction), (x, x_direction) = axes.items()
    rows = with_evaluations(folder, stored_plan(folder, spec, list(axes)).current, axes)
    found = front_of(rows, axes)
    if not found:
        message = "must name a sweep with finished runs that have a value for both objectives"
        hint = "Run the sweep first, or choose other objectives with --objectives."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    lines = {f"{arm} (line)": _best_mean(folder.sweep, rows, arm, y, y_direction) for arm in references}
    points = front_points(found, x, y, [arm.name for arm in spec.arms])
    with figure_errors(path):
        directions = (x_direction, y_direction)
        files = front_figure(
            points, path, x=x, y=y, directions=directions, title=folder.sweep, references=lines, width=width
        )
    print_figures(files)


def _best_mean(sweep: str, rows: RowTable, arm: str, column: str, direction: Direction) -> float:
    """Return the best mean over seeds of the configurations of an arm."""
    of_arm = front_of(rows.filter(rows.equals("arm", arm)), {column: direction})
    if not of_arm:
        message = f"must name arms with finished runs that have a value of {column}"
        arms = ", ".join(rows.codes("arm")[1])
        raise ConfigError([ValidationIssue("--reference", message, f"The arms of {sweep} are {arms}.", arm)])
    return of_arm[0].mean[column]
