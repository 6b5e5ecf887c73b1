"""Output of `lagvae results`: tables, JSON and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.analysis.curves import Curve
from sweeps.analysis.front import DIGITS, ERRORS, FrontRow, Standing, front_of
from sweeps.analysis.missing_columns import missing_columns
from sweeps.analysis.pareto import Direction
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.statistics import TIME, Statistic, Summary
from sweeps.analysis.stored import current_plan, stored_curves, stored_spec, summaries_of
from sweeps.cli.plan import print_earlier_rows
from sweeps.cli.terminal import (
    OutputFormat,
    TextTable,
    console_of_stdout,
    figure_errors,
    print_figures,
    print_json,
    print_whole,
)
from sweeps.formatting import format_parameters, printable
from sweeps.storage.folder import model_name
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, several_settings, with_evaluations

__all__ = [
    "draw_front",
    "parse_objectives",
    "print_curves",
    "print_front",
    "print_runs",
    "print_runs_without_model",
    "version_of",
]

Row = Mapping[str, Any]

LEFT = ("arm", "front", "parameters", "unfinished", "version")
"""Headings of left-aligned columns."""

RUN_COLUMNS = ("nll_iw", "nll_elbo", "kl", "mi", "au", "seconds")
"""Default columns of `lagvae results show`."""

RUN_FIGURE_COLUMNS = ("nll_iw", "kl", "mi", "au")
"""Default columns of the figure of `lagvae results show`."""

CURVES = ("valid_kl", "valid_mi", "valid_kl_agg")
"""Default columns of `lagvae results curves`: the columns shown in figure 5 of He et al. 2019."""

STANDINGS: Mapping[Standing, str] = {
    "in doubt": f"on the front, but another configuration is better by more than {ERRORS:g} standard errors of the "
    "difference in one objective, and not worse by more than that in any",
    "tied": f"dominated, but no configuration is better by more than {ERRORS:g} standard errors of the difference in "
    "one objective without being worse by more than that in another",
}
"""Explanation of each standing that needs one."""


# --- lagvae results pareto ------------------------------------------------------------------------------------------


def parse_objectives(text: str) -> dict[str, Direction]:
    """Parse objectives such as `nll_iw:min,mi:max` into directions by column.

    Raises:
        ConfigError: Lists all issues about `--objectives`.
    """
    objectives: dict[str, Direction] = {}
    issues: list[ValidationIssue] = []
    for item in text.split(","):
        column, _, direction = item.strip().partition(":")
        if unknown := non_numeric_columns("--objectives", [column]):
            issues += unknown
        elif column in objectives:
            message, hint = f"must list {column} only once", f"Remove one of the two entries for {column}."
            issues.append(ValidationIssue("--objectives", message, hint, text))
        elif direction == "min":
            objectives[column] = "min"
        elif direction == "max":
            objectives[column] = "max"
        else:
            hint = "For example: nll_iw:min,mi:max."
            issues.append(ValidationIssue("--objectives", "must be COLUMN:min or COLUMN:max", hint, item))
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
    plan = current_plan(spec, folder.runs())
    stored = with_evaluations(folder, list(plan.rows.values()), axes)
    rows = front_of(stored, axes)
    shown = [row for row in rows if row.standing != "off"]
    if as_json:
        print_json([row.to_json() for row in shown])
        return
    console = console_of_stdout()
    members = sum(row.member for row in rows)
    if not members:
        console.print("no finished run has a value for every objective")
        return
    console.print(f"Pareto front of {folder.sweep}: {members} of {len(rows)} configurations, mean ± standard error")
    print_whole(console, _front_table(shown, axes).rich())
    for standing in dict.fromkeys(row.standing for row in shown if row.standing in STANDINGS):
        console.print(f"{standing}: {STANDINGS[standing]}", soft_wrap=True)
    if all(row.n == 1 for row in rows) and len(rows) > 1:
        console.print("one seed per configuration: the error of the differences is unknown", soft_wrap=True)
    on_front = {row.config_id for row in shown}
    for warning in result_warnings_of([row for row in stored if row["config_id"] in on_front]):
        console.print(f"warning, {warning}", soft_wrap=True)
    compared = {row.arm for row in rows}
    missing = dict.fromkeys(r["arm"] for r in stored if r["status"] == "finished" and r["arm"] not in compared)
    if missing:
        console.print(f"arms without a value for every objective are not compared: {', '.join(missing)}")
    print_earlier_rows(console, folder.sweep, len(plan.others))


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
            row.standing,
            *(Statistic(row.mean[name], row.se[name], row.n).text(DIGITS) for name in axes),
            str(row.n),
            row.config_id,
            format_parameters(row.parameters),
        ]
        for row in shown
    ]
    return TextTable(headings, rows, LEFT)


def draw_front(folder: ResultsFolder, objectives: Mapping[str, Direction] | None, path: Path) -> None:
    """Draw the Pareto front with the first objective on the y axis and the second on the x axis.

    Raises:
        ConfigError: There are not two objectives, no finished run has values for both, or the figure cannot be written.
    """
    from sweeps.plots.front import FrontPoint, front_figure

    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    if len(axes) != 2:
        hint = "Choose two objectives with --objectives."
        raise ConfigError([ValidationIssue("--png", "must be used with exactly two objectives", hint, list(axes))])
    (y, y_direction), (x, x_direction) = axes.items()
    rows = list(current_plan(spec, folder.runs()).rows.values())
    points = [
        FrontPoint(row.arm, row.config_id, (row.mean[x], row.mean[y]), (row.se[x], row.se[y]), row.n, row.standing)
        for row in front_of(with_evaluations(folder, rows, axes), axes)
    ]
    if not points:
        message = "must name a sweep with finished runs that have a value for both objectives"
        hint = "Run the sweep first, or choose other objectives with --objectives."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    order = [arm.name for arm in spec.arms]
    points.sort(key=lambda point: order.index(point.arm))
    with figure_errors(path):
        files = front_figure(points, path, x=x, y=y, directions=(x_direction, y_direction), title=folder.sweep)
    print_figures(files)


# --- lagvae results show --------------------------------------------------------------------------------------------


def print_runs(
    folder: ResultsFolder,
    output_format: OutputFormat,
    columns: Sequence[str] | None,
    *,
    baseline: str | None = None,
    png: Path | None = None,
) -> None:
    """Print one line per configuration, with mean and standard error over its finished runs.

    Args:
        folder: The results of the sweep.
        output_format: "table", "markdown", or "json" for all stored rows.
        columns: Columns of the runs or of studies; None for the default ones.
        baseline: Name of an arm. If given, the training time relative to the mean of this arm is added as a column.
        png: File for a figure with one row per configuration and one panel per column; None for no figure.

    Raises:
        ConfigError: A column or the baseline does not exist, or the figure cannot be written.
    """
    rows = folder.runs()
    if png is not None:
        _draw_runs(folder, rows, columns or RUN_FIGURE_COLUMNS, baseline, png)
    if output_format == "json":
        print_json(_runs_json(folder, rows, columns or ()))
        return
    names = columns or RUN_COLUMNS
    summaries = summaries_of(folder, rows, names, baseline)
    table = _runs_table(summaries, _with_time(names, baseline))
    if output_format == "markdown":
        print(printable("\n".join(table.markdown())))
        return
    console = console_of_stdout()
    print_whole(console, table.rich())
    print_earlier_rows(console, folder.sweep, sum(summary.runs for summary in summaries if summary.earlier))
    for row in rows:
        if row["status"] not in ("finished", "running"):
            console.print(f"{row['run_id']} ({row['arm']}): {row['status']}: {row['stop_reason']}", soft_wrap=True)
    for text in missing_columns(folder.sweep, rows, summaries):
        console.print(text, soft_wrap=True)
    for warning in (*result_warnings_of(rows), *several_settings(folder, names)):
        console.print(f"warning, {warning}", soft_wrap=True)


def print_runs_without_model(folder: ResultsFolder) -> None:
    """Print how many finished runs of the current sweep file have no stored model, unless all have one."""
    plan = current_plan(stored_spec(folder), folder.runs())
    stored = frozenset(folder.files("models"))
    finished = [run_id for run_id, row in plan.rows.items() if row["status"] == "finished"]
    if missing := sum(model_name(run_id) not in stored for run_id in finished):
        remedy = f"`lagvae evaluate --sweep {folder.sweep} --retrain` trains their models again"
        text = f"{missing} of {len(finished)} finished runs have no model, because they did not keep it; {remedy}"
        console_of_stdout().print(text, soft_wrap=True)


def _with_time(columns: Sequence[str], baseline: str | None) -> list[str]:
    return [*columns, TIME] if baseline is not None else [*columns]


def _runs_json(folder: ResultsFolder, rows: Sequence[Row], columns: Sequence[str]) -> Any:
    """Return the stored rows in a form that JSON can represent, with the columns of studies among `columns`."""
    if unknown := non_numeric_columns("--columns", columns):
        raise ConfigError(unknown)
    joined = with_evaluations(folder, rows, columns)
    return json.loads(json.dumps(joined, default=lambda value: value.isoformat()))


def _runs_table(summaries: Sequence[Summary], columns: Sequence[str]) -> TextTable:
    headings = ["arm", "runs", *columns, "config_id"]
    rows = [
        [summary.arm, summary.ended(), *(_statistic(summary.columns[name]) for name in columns), summary.config_id]
        for summary in summaries
    ]
    if any(summary.parameters for summary in summaries):
        headings.append("parameters")
        for row, summary in zip(rows, summaries, strict=True):
            row.append(format_parameters(summary.parameters))
    if any(summary.earlier for summary in summaries):
        headings.append("version")
        for row, summary in zip(rows, summaries, strict=True):
            row.append(version_of(summary.earlier))
    return TextTable(headings, rows, LEFT)


def version_of(earlier: bool) -> str:
    """Return the entry of the column `version` for runs of an earlier or of the current version of the sweep."""
    return "earlier" if earlier else "current"


def _statistic(statistic: Statistic | None, digits: int = 2) -> str:
    return "" if statistic is None else statistic.text(digits)


def _draw_runs(
    folder: ResultsFolder, rows: Sequence[Row], columns: Sequence[str], baseline: str | None, path: Path
) -> None:
    from sweeps.plots.arms import arms_figure

    summaries = summaries_of(folder, rows, columns, baseline)
    with figure_errors(path):
        files = arms_figure(summaries, _with_time(columns, baseline), path, title=folder.sweep)
    print_figures(files)


# --- lagvae results curves ------------------------------------------------------------------------------------------


def print_curves(
    folder: ResultsFolder,
    columns: Sequence[str] | None,
    arms: Sequence[str] | None,
    *,
    as_json: bool,
    x: str,
    png: Path | None,
) -> None:
    """Print one line per configuration and epoch, with mean and standard error over its runs.

    Args:
        folder: The results of the sweep.
        columns: Columns of the curves; None for the default ones.
        arms: Arms to show; None for all.
        as_json: Print all stored rows of these arms as JSON instead of a table, each with the status of its run.
        x: Unit of the x axis of the figure: "epoch" or "step".
        png: File for a figure with one panel per column; None for no figure.

    Raises:
        ConfigError: A column or an arm does not exist, `x` is invalid, or the figure cannot be written.
    """
    names = columns or CURVES
    rows = folder.curves()
    trained = list(dict.fromkeys(row["arm"] for row in rows))
    if issues := [*_unknown_curves(names), *_invalid_x(x), *_unknown_arms(folder.sweep, arms or (), trained)]:
        raise ConfigError(issues)
    rows = [row for row in rows if row["arm"] in (arms or trained)]
    curves = stored_curves(folder, rows, names)
    if png is not None:
        _draw_curves(folder, curves, names, x, png)
    if as_json:
        statuses = {run["run_id"]: run["status"] for run in folder.runs()}
        print_json([row | {"status": statuses.get(row["run_id"])} for row in rows])
        return
    console = console_of_stdout()
    print_whole(console, _curves_table(curves, names).rich())
    print_earlier_rows(console, folder.sweep, sum(curve.runs for curve in curves if curve.earlier))


def _unknown_curves(columns: Sequence[str]) -> list[ValidationIssue]:
    known = [column.name for column in CURVE_COLUMNS]
    unknown = [name for name in columns if name not in known]
    if not unknown:
        return []
    hint = f"{did_you_mean(unknown[0], known)} The columns are {', '.join(known)}.".strip()
    return [ValidationIssue("--columns", "must name columns of the curves", hint, ", ".join(unknown))]


def _invalid_x(x: str) -> list[ValidationIssue]:
    return [] if x in ("epoch", "step") else [ValidationIssue("--x", "must be epoch or step", value=x)]


def _unknown_arms(sweep: str, arms: Sequence[str], trained: Sequence[str]) -> list[ValidationIssue]:
    unknown = [arm for arm in arms if arm not in trained]
    if not unknown:
        return []
    message = f"must name arms of {sweep} with at least one trained epoch"
    hint = f"These arms are {', '.join(trained)}." if trained else "No arm has trained an epoch yet."
    return [ValidationIssue("--arms", message, hint, ", ".join(unknown))]


def _curves_table(curves: Sequence[Curve], columns: Sequence[str]) -> TextTable:
    headings = ["arm", "epoch", "step", "runs", *columns, "config_id"]
    rows = [
        [
            curve.arm,
            str(point.epoch),
            f"{point.step:.0f}",
            str(point.runs),
            *(_statistic(point.columns[name], 3) for name in columns),
            curve.config_id,
        ]
        for curve in curves
        for point in curve.points
    ]
    if any(curve.earlier for curve in curves):
        headings.append("version")
        versions = (version_of(curve.earlier) for curve in curves for _ in curve.points)
        rows = [[*row, version] for row, version in zip(rows, versions, strict=True)]
    if any(curve.unfinished for curve in curves):
        headings.append("unfinished")
        unfinished = (curve.unfinished_runs for curve in curves for _ in curve.points)
        rows = [[*row, runs] for row, runs in zip(rows, unfinished, strict=True)]
    return TextTable(headings, rows, LEFT)


def _draw_curves(folder: ResultsFolder, curves: Sequence[Curve], columns: Sequence[str], x: str, path: Path) -> None:
    from sweeps.plots.curves import curves_figure

    with figure_errors(path):
        files = curves_figure(curves, columns, path, x=x, title=folder.sweep)
    print_figures(files)
