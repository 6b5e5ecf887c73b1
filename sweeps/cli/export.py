"""`lagvae results export`: the table of runs as CSV or Parquet, and a LaTeX table of configurations."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.front import best_of_arms, front_of
from sweeps.analysis.pareto import Direction
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.statistics import summarise
from sweeps.analysis.stored import current_plan, stored_plan, stored_spec
from sweeps.cli.front import parse_objectives, unfinished_seeds
from sweeps.cli.latex import LatexRow, latex_table
from sweeps.cli.runs import version_of
from sweeps.cli.terminal import console_of_stdout, write_file
from sweeps.formatting import format_count
from sweeps.storage.schema import COST_COLUMNS, RUN_KEYS, metric_columns, runs_schema
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import evaluation_schema, non_numeric_columns, study_of, with_evaluations

__all__ = ["SELECTIONS", "Selection", "export_latex", "export_runs", "single_format"]

Selection: TypeAlias = Literal["front", "arms"]

SELECTIONS: tuple[Selection, ...] = ("front", "arms")
"""Values of `--rows`."""

COLUMNS = ("nll_elbo", "kl", "mi", "au")
"""Default columns of a LaTeX table; the objectives come before them."""

SELECTED = (*RUN_KEYS, "configuration", "status", "parameters")
"""Columns of a run that a file with selected columns has in addition."""


def single_format(files: Mapping[str, Path | None]) -> tuple[str, Path]:
    """Return the option and the file of the one format that is given.

    Args:
        files: The file of each option; None if the option is not given.

    Raises:
        ConfigError: There is not exactly one, or its file cannot be in its folder.
    """
    given = {option: path for option, path in files.items() if path is not None}
    if len(given) != 1:
        message, hint = "exactly one must be given", f"For example: {next(iter(files))} FILE."
        raise ConfigError([ValidationIssue(" or ".join(files), message, hint, ", ".join(given) or "none")])
    ((option, path),) = given.items()
    if path.is_dir() or not path.parent.is_dir():
        message = "must be a file, not a folder" if path.is_dir() else "must be a file in an existing folder"
        raise ConfigError([ValidationIssue(option, message, value=str(path))])
    return option, path


def export_runs(folder: ResultsFolder, option: str, path: Path, columns: Sequence[str] | None) -> None:
    """Write the table of runs: one row per run, whatever its status and version of the sweep.

    The column `version` is added: "current", or "earlier" for runs of an earlier version of the sweep.

    Args:
        folder: The results of the sweep.
        option: "--csv" or "--parquet".
        path: File to write.
        columns: Numeric columns of the runs or of studies, which follow those that identify a run; None for all columns
            of the runs.

    Raises:
        ConfigError: A column does not exist, the stored sweep file is invalid, or the file cannot be written.
    """
    if issues := non_numeric_columns("--columns", columns or ()):
        raise ConfigError(issues)
    rows = folder.runs()
    current = current_plan(stored_spec(folder), rows).rows
    versions = [version_of(row["run_id"] not in current) for row in rows]
    table = _table(with_evaluations(folder, rows, columns or ()), columns).append_column("version", pa.array(versions))
    write_file(option, path, _csv(table) if option == "--csv" else _parquet(table))
    _report(f"{format_count(table.num_rows, 'run')} with {format_count(table.num_columns, 'column')}", path)
    if earlier := versions.count("earlier"):
        console_of_stdout().print(f"{format_count(earlier, 'run')} of an earlier version: see the column version")


def export_latex(
    folder: ResultsFolder, path: Path, columns: Sequence[str] | None, objectives: str | None, rows: str
) -> None:
    """Write a LaTeX table with one row per configuration: those on the front, or the best one of each arm.

    Args:
        folder: The results of the sweep.
        path: File to write.
        columns: Numeric columns of the runs or of studies; None for the objectives and `COLUMNS`.
        objectives: Objectives of the front as text; None for those of the sweep. The first one decides which
            configuration of an arm is the best.
        rows: One of `SELECTIONS`.

    Raises:
        ConfigError: An option is invalid, no finished run has a value for the objectives, the stored sweep file is
            invalid, or the file cannot be written.
    """
    issues = non_numeric_columns("--columns", columns or ())
    if rows not in SELECTIONS:
        issues.append(ValidationIssue("--rows", f"must be {' or '.join(SELECTIONS)}", value=rows))
    if issues:
        raise ConfigError(issues)
    given = parse_objectives(objectives) if objectives is not None else None
    spec = stored_spec(folder)
    axes = given or spec.objectives
    names = list(dict.fromkeys(columns or (*axes, *COLUMNS)))
    plan = stored_plan(folder, spec, [*axes, *names, "device", "seconds_train", "cpu_seconds_train"])
    stored = with_evaluations(folder, plan.current, [*axes, *names])
    column, direction = next(iter(axes.items()))
    if rows == "arms":
        chosen = best_of_arms(stored, column, direction)
        caption = f"{folder.sweep}, the configuration of each arm with the best mean of {column} ({direction})"
    else:
        chosen = [row for row in front_of(stored, axes) if row.member]
        listed = ", ".join(f"{name} ({direction})" for name, direction in axes.items())
        caption = f"Pareto front of {folder.sweep} in {listed}"
    if not chosen:
        message = "must name a sweep with finished runs that have a value for the objectives"
        hint = "Run the sweep first, or choose other objectives with --objectives."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    config_ids = [row.config_id for row in chosen]
    of_chosen = stored.filter(stored.is_in("config_id", config_ids))
    summaries = {summary.config_id: summary for summary in summarise(of_chosen, names)}
    table = latex_table(
        [LatexRow(row.arm, row.config_id, row.parameters, row.n, summaries[row.config_id].columns) for row in chosen],
        {name: axes.get(name) or _direction_of(name) for name in names},
        command=_command(folder.sweep, path, {"--rows": rows, "--columns": columns, "--objectives": objectives}),
        caption=caption,
        label=folder.sweep,
    )
    write_file("--latex", path, table.encode())
    _report(format_count(len(chosen), "configuration"), path)
    console = console_of_stdout()
    for text in (*unfinished_seeds(stored, config_ids), *result_warnings_of(of_chosen)):
        console.print(f"warning, {text}", soft_wrap=True)


def _command(sweep: str, path: Path, options: Mapping[str, str | Sequence[str] | None]) -> str:
    """Return the command that writes a LaTeX table."""
    given = {option: value for option, value in options.items() if value is not None}
    values = {option: value if isinstance(value, str) else ",".join(value) for option, value in given.items()}
    words = [word for pair in values.items() for word in pair]
    return shlex.join(["lagvae", "results", "export", sweep, "--latex", path.name, *words])


def _direction_of(column: str) -> Direction | None:
    """Return the direction in which a column of the runs or of a study improves; None if it has none."""
    study = study_of(column)
    known = (*metric_columns(), *COST_COLUMNS, *(study.columns if study is not None else ()))
    return next((found.direction for found in known if found.name == column), None) or None


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> pa.Table:
    """Return rows as a typed table. Columns that the schema does not know, such as those of a plugin, come last."""
    schema = runs_schema()
    fields = {field.name: field for field in schema}
    for name in columns or ():
        if (study := study_of(name)) is not None:
            fields[name] = evaluation_schema(study).field(name)
    if columns is None:
        names = list(dict.fromkeys([*schema.names, *(name for row in rows for name in row)]))
    else:
        names = list(dict.fromkeys([*SELECTED, *columns]))
    arrays = [
        pa.array([row.get(name) for row in rows], fields[name].type if name in fields else None) for name in names
    ]
    return pa.table(dict(zip(names, arrays, strict=True)))


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _csv(table: pa.Table) -> bytes:
    """Return a table as CSV: null is empty, a list is JSON, a time is ISO 8601, and a truth value is true or false."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in table.to_pylist())
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list):
        return json.dumps(value)
    return value.isoformat() if hasattr(value, "isoformat") else value


def _report(content: str, path: Path) -> None:
    console_of_stdout().print(f"{content} written to {path}", soft_wrap=True)
