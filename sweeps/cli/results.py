"""What the command line prints: plans, rows, fronts. Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.analysis.curves import Curve, curves_of
from sweeps.analysis.front import FrontRow, front_of
from sweeps.analysis.pareto import Direction
from sweeps.analysis.statistics import TIME, Summary
from sweeps.analysis.stored import current_rows, stored_spec, summaries_of
from sweeps.cli.terminal import console_of_stdout, print_table
from sweeps.formatting import format_duration, format_parameters
from sweeps.formatting import table as markdown_table
from sweeps.spec.sweep import load_spec
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, several_settings, with_evaluations

__all__ = ["draw_front", "parse_objectives", "print_curves", "print_front", "print_plan", "print_runs"]

OutputFormat = Literal["table", "json", "markdown"]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        justify: Literal["left", "right"] = "left" if number == 0 or heading == "parameters" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    return table


def _json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


def print_plan(where: str, sets: Mapping[str, Any], results: str, as_json: bool) -> None:
    """What `lagvae run` would do; writes nothing."""
    from sweeps.execution.datasets import load_data, make_plan

    spec = load_spec(where, sets)
    folder = ResultsFolder(results, spec.name)
    plan = make_plan(spec, folder, load_data(spec).fingerprint)
    arms = plan.arms()
    known = [arm.mean_seconds for arm in arms if arm.mean_seconds is not None]
    fallback = sum(known) / len(known) if known else None
    seconds = [arm.missing * (arm.mean_seconds or fallback or 0.0) for arm in arms]
    if as_json:
        _json(
            {
                "sweep": spec.name,
                "runs": sum(arm.runs for arm in arms),
                "missing": plan.missing,
                "stored_of_other_versions": len(plan.others),
                "warnings": spec.warnings(),
                "core_seconds": sum(seconds) * spec.resources.cpus if fallback is not None else None,
                "arms": [vars(arm) | {"missing": arm.missing} for arm in arms],
            }
        )
        return
    table = _table("arm", "configurations", "runs", "stored", "resumed", "to run", "seconds a run", "core time")
    for arm, cost in zip(arms, seconds, strict=True):
        mean = "" if arm.mean_seconds is None else f"{arm.mean_seconds:.0f}"
        time = format_duration(cost * spec.resources.cpus) if fallback is not None and arm.missing else ""
        counts = (arm.configurations, arm.runs, arm.ended, arm.resumed, arm.missing)
        table.add_row(arm.arm, *map(str, counts), mean, time)
    console = console_of_stdout()
    print_table(console, table)
    objectives = ", ".join(f"{name} ({direction})" for name, direction in spec.objectives.items())
    console.print(
        f"{plan.missing} of {sum(arm.runs for arm in arms)} runs to do; sampler {spec.search.sampler} on {objectives}"
    )
    for warning in spec.warnings():
        console.print(f"warning, {warning}", soft_wrap=True)
    if fallback is None:
        console.print("no finished run tells the cost yet")
    if plan.others:
        console.print(f"{len(plan.others)} stored rows belong to an earlier version of the sweep and stay")


def parse_objectives(text: str) -> dict[str, Direction]:
    """`nll_iw:min,mi:max` as columns and senses."""
    found: dict[str, Direction] = {}
    issues: list[ValidationIssue] = []
    for item in text.split(","):
        column, _, direction = item.strip().partition(":")
        if unknown := non_numeric_columns("--objectives", [column]):
            issues += unknown
        elif column in found:
            issues.append(ValidationIssue("--objectives", "must name each column once", "Remove one of the two.", item))
        elif direction == "min":
            found[column] = "min"
        elif direction == "max":
            found[column] = "max"
        else:
            issues.append(
                ValidationIssue("--objectives", "must be COLUMN:min or COLUMN:max", "For example nll_iw:min", item)
            )
    if issues:
        raise ConfigError(issues)
    return found


def print_front(folder: ResultsFolder, objectives: Mapping[str, Direction] | None, as_json: bool) -> None:
    """The members of the front; with `as_json` a list of objects."""
    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    stored = with_evaluations(folder, current_rows(spec, folder), axes)
    rows = front_of(stored, axes)
    members = [row for row in rows if row.member]
    if as_json:
        _json([row.to_json() for row in members])
        return
    console = console_of_stdout()
    if not members:
        console.print("no run has finished with these objectives measured")
        return
    measured = {row.arm for row in rows}
    without = dict.fromkeys(r["arm"] for r in stored if r["status"] == "finished" and r["arm"] not in measured)
    table = _table(
        "arm", *(f"{name} ({direction})" for name, direction in axes.items()), "n", "config_id", "parameters"
    )
    for row in members:
        numbers = [_with_se(row, name) for name in axes]
        table.add_row(row.arm, *numbers, str(row.n), row.config_id, format_parameters(row.parameters))
    console.print(
        f"Pareto front of {folder.sweep}: {len(members)} of {len(rows)} configurations, mean ± standard error"
    )
    print_table(console, table)
    if without:
        console.print(f"not compared, because an objective is not measured: {', '.join(without)}")


def _with_se(row: FrontRow, column: str) -> str:
    se = row.se[column]
    return f"{row.mean[column]:.3f}" + (f" ± {se:.3f}" if se is not None else "")


def draw_front(folder: ResultsFolder, objectives: Mapping[str, Direction] | None, path: Path) -> None:
    """The front as a figure: the first objective upwards, the second to the right."""
    from sweeps.plots.front import FrontPoint, front_figure

    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    if len(axes) != 2:
        raise ConfigError(
            [ValidationIssue("--png", "must have two objectives to draw", "Choose with --objectives.", list(axes))]
        )
    (y, y_sense), (x, x_sense) = axes.items()
    points = [
        FrontPoint(row.arm, row.config_id, (row.mean[x], row.mean[y]), (row.se[x], row.se[y]), row.n, row.member)
        for row in front_of(with_evaluations(folder, current_rows(spec, folder), axes), axes)
    ]
    if not points:
        raise ConfigError([ValidationIssue("SWEEP", "must hold finished runs to draw", "Run it first.", folder.sweep)])
    order = [arm.name for arm in spec.arms]
    points.sort(key=lambda point: order.index(point.arm))
    try:
        front_figure(points, path, x=x, y=y, directions=(x_sense, y_sense), title=folder.sweep)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [ValidationIssue("--png", f"must be a file that can be drawn ({error})", value=str(path))]
        ) from None


SHOWN = ("nll_iw", "nll_elbo", "kl", "mi", "au", "seconds")
"""The columns of `lagvae results show` where none are named."""


DRAWN = ("nll_iw", "kl", "mi", "au")
"""The columns of its picture where none are named."""


def print_runs(
    folder: ResultsFolder,
    output_format: OutputFormat,
    columns: Sequence[str] | None,
    baseline: str | None,
    png: Path | None = None,
) -> None:
    """One line a configuration, mean and standard error over its finished runs; as `json`, every row as it is stored.

    Columns that studies find are joined by run. `baseline` is an arm whose training time is the unit of a further
    column. `png` also gets every configuration as a row of a picture, with a panel for each column.
    """
    rows = folder.runs()
    time = () if baseline is None else (TIME,)
    if png is not None:
        drawn = columns or DRAWN
        _draw_arms(folder, summaries_of(folder, rows, drawn, baseline), (*drawn, *time), png)
    if output_format == "json":
        if unknown := non_numeric_columns("--columns", columns or ()):
            raise ConfigError(unknown)
        joined = with_evaluations(folder, rows, columns or ())
        _json(json.loads(json.dumps(joined, default=lambda value: value.isoformat())))
        return
    printed = columns or SHOWN
    summaries = summaries_of(folder, rows, printed, baseline)
    names = (*printed, *time)
    headings = ["arm", "runs", *names, "config_id"]
    lines = [_summary_line(summary, names) for summary in summaries]
    if any(summary.parameters for summary in summaries):
        headings.append("parameters")
        lines = [[*line, format_parameters(summary.parameters)] for line, summary in zip(lines, summaries, strict=True)]
    if output_format == "markdown":
        print("\n".join(markdown_table(headings, lines)))
        return
    table = _table(*headings)
    for line in lines:
        table.add_row(*line)
    console = console_of_stdout()
    print_table(console, table)
    for row in rows:
        if row["status"] not in ("finished", "running"):
            console.print(f"{row['run_id']} ({row['arm']}): {row['status']}: {row['stop_reason']}", soft_wrap=True)
    for warning in several_settings(folder, printed):
        console.print(f"warning, {warning}", soft_wrap=True)


def _summary_line(summary: Summary, names: Sequence[str]) -> list[str]:
    numbers = ["" if (value := summary.columns[name]) is None else value.text() for name in names]
    return [summary.arm, summary.ended(), *numbers, summary.config_id]


CURVES = ("valid_kl", "valid_mi", "valid_kl_agg")
"""The columns of `lagvae results curves` where none are named: figure 5 of He et al. 2019."""


def print_curves(
    folder: ResultsFolder,
    as_json: bool,
    columns: Sequence[str] | None,
    arms: Sequence[str] | None,
    x: str,
    png: Path | None,
) -> None:
    """One line a configuration and epoch, mean and standard error over its runs; as JSON, every stored row.

    `arms` are the only ones shown. `png` also gets a panel for each column, over `x`: epoch or step.
    """
    chosen = columns or CURVES
    known = [column.name for column in CURVE_COLUMNS]
    issues: list[ValidationIssue] = []
    if unknown := [name for name in chosen if name not in known]:
        message, hint = "must be columns of the curves", f"Known: {', '.join(known)}."
        issues.append(ValidationIssue("--columns", message, hint, ", ".join(unknown)))
    if x not in ("epoch", "step"):
        issues.append(ValidationIssue("--x", "must be epoch or step", value=x))
    rows = folder.curves()
    stored = list(dict.fromkeys(row["arm"] for row in rows))
    if strange := [arm for arm in arms or () if arm not in stored]:
        message = f"must be arms of {folder.sweep} that have trained"
        issues.append(ValidationIssue("--arms", message, f"Stored: {', '.join(stored)}.", ", ".join(strange)))
    if issues:
        raise ConfigError(issues)
    rows = [row for row in rows if row["arm"] in (arms or stored)]
    order = [arm.name for arm in stored_spec(folder).arms]
    curves = sorted(curves_of(rows, chosen), key=lambda c: order.index(c.arm) if c.arm in order else len(order))
    if png is not None:
        _draw_curves(folder, curves, chosen, x, png)
    if as_json:
        _json(rows)
        return
    table = _table("arm", "epoch", "step", "runs", *chosen, "config_id")
    for curve in curves:
        for point in curve.points:
            numbers = ["" if (value := point.columns[name]) is None else value.text(3) for name in chosen]
            counts = (str(point.epoch), f"{point.step:.0f}", str(point.runs))
            table.add_row(curve.arm, *counts, *numbers, curve.config_id)
    print_table(console_of_stdout(), table)


def _draw_curves(folder: ResultsFolder, curves: Sequence[Curve], names: Sequence[str], x: str, path: Path) -> None:
    from sweeps.plots.curves import curves_figure

    try:
        curves_figure(curves, names, path, x=x, title=folder.sweep)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [ValidationIssue("--png", f"must be a file that can be drawn ({error})", value=str(path))]
        ) from None


def _draw_arms(folder: ResultsFolder, summaries: Sequence[Summary], names: Sequence[str], path: Path) -> None:
    """`summaries` as rows of a picture, with a panel for each column of `names`."""
    from sweeps.plots.arms import arms_figure

    try:
        arms_figure(summaries, names, path, title=folder.sweep)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [ValidationIssue("--png", f"must be a file that can be drawn ({error})", value=str(path))]
        ) from None
