"""`lagvae results show`: the runs of a sweep as a table, JSON or a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lagvae_core.errors import ConfigError
from sweeps.analysis.missing_columns import NEEDED, empty_columns, missing_columns
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.statistics import TIME, TIMES, Summary, statistic_text
from sweeps.analysis.stored import PLAN_COLUMNS, stored_plan, stored_spec, summaries_of
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
from sweeps.storage.row_table import RowTable
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, several_settings, with_evaluations

__all__ = ["print_runs", "print_runs_without_model", "version_of"]

LEFT = ("arm", "parameters", "version")
"""Headings of left-aligned columns."""

RUN_COLUMNS = ("nll_iw", "nll_elbo", "kl", "mi", "au", "seconds")
"""Default columns of `lagvae results show`."""

RUN_FIGURE_COLUMNS = ("nll_iw", "kl", "mi", "au")
"""Default columns of the figure of `lagvae results show`."""


def print_runs(
    folder: ResultsFolder,
    output_format: OutputFormat,
    columns: Sequence[str] | None,
    *,
    baseline: str | None = None,
    png: Path | None = None,
    width: float | None = None,
) -> None:
    """Print one line per configuration, with mean and standard error over its finished runs.

    Args:
        folder: The results of the sweep.
        output_format: "table", "markdown", or "json" for all stored rows.
        columns: Columns of the runs or of studies; None for the default ones.
        baseline: Name of an arm. If given, the training time relative to the mean of this arm is added as a column.
        png: File for a figure with one row per configuration and one panel per column; None for no figure.
        width: Width of the figure [inches]; None for the default.

    Raises:
        ConfigError: A column or the baseline does not exist, or the figure cannot be written.
    """
    names = columns or RUN_COLUMNS
    needed = [*PLAN_COLUMNS, *TIMES, "device", "stop_reason", *names, *RUN_FIGURE_COLUMNS]
    rows = folder.run_table(only=None if output_format == "json" else needed)
    if png is not None:
        _draw_runs(folder, rows, columns or RUN_FIGURE_COLUMNS, baseline, png, width)
    if output_format == "json":
        print_json(_runs_json(folder, rows, columns or ()))
        return
    summaries = summaries_of(folder, rows, names, baseline)
    table = _runs_table(summaries, _with_time(names, baseline))
    if output_format == "markdown":
        print(printable("\n".join(table.markdown())))
        return
    console = console_of_stdout()
    print_whole(console, table)
    print_earlier_rows(console, folder.sweep, sum(summary.runs for summary in summaries if summary.earlier))
    for row in rows.filter(~rows.is_in("status", ("finished", "running"))):
        console.print(f"{row['run_id']} ({row['arm']}): {row['status']}: {row['stop_reason']}", soft_wrap=True)
    with_configs = folder.run_table(only=NEEDED) if empty_columns(summaries) else rows
    for text in missing_columns(folder.sweep, with_configs, summaries):
        console.print(text, soft_wrap=True)
    for warning in (*result_warnings_of(rows), *several_settings(folder, names)):
        console.print(f"warning, {warning}", soft_wrap=True)


def print_runs_without_model(folder: ResultsFolder) -> None:
    """Print how many finished runs of the current sweep file have no stored model, unless all have one."""
    rows = stored_plan(folder, stored_spec(folder), []).current
    stored = frozenset(folder.files("models"))
    finished = rows.filter(rows.equals("status", "finished")).values("run_id")
    if missing := sum(model_name(run_id) not in stored for run_id in finished):
        remedy = f"`lagvae evaluate --sweep {folder.sweep} --retrain` trains their models again"
        text = f"{missing} of {len(finished)} finished runs have no model, because they did not keep it; {remedy}"
        console_of_stdout().print(text, soft_wrap=True)


def _with_time(columns: Sequence[str], baseline: str | None) -> list[str]:
    return [*columns, TIME] if baseline is not None else [*columns]


def _runs_json(folder: ResultsFolder, rows: RowTable, columns: Sequence[str]) -> Any:
    """Return the stored rows in a form that JSON can represent, with the columns of studies among `columns`."""
    if unknown := non_numeric_columns("--columns", columns):
        raise ConfigError(unknown)
    joined = list(with_evaluations(folder, rows, columns))
    return json.loads(json.dumps(joined, default=lambda value: value.isoformat()))


def _runs_table(summaries: Sequence[Summary], columns: Sequence[str]) -> TextTable:
    headings = ["arm", "runs", *columns, "config_id"]
    rows = [
        [summary.arm, summary.ended(), *(statistic_text(summary.columns[name]) for name in columns), summary.config_id]
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


def _draw_runs(
    folder: ResultsFolder,
    rows: RowTable,
    columns: Sequence[str],
    baseline: str | None,
    path: Path,
    width: float | None,
) -> None:
    from sweeps.plots.arms import arms_figure

    summaries = summaries_of(folder, rows, columns, baseline)
    with figure_errors(path):
        files = arms_figure(summaries, _with_time(columns, baseline), path, title=folder.sweep, width=width)
    print_figures(files)
