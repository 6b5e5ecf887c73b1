"""`lagvae results curves`: training curves as a table, JSON or a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.analysis.curves import Curve
from sweeps.analysis.statistics import statistic_text
from sweeps.analysis.stored import stored_curves
from sweeps.cli.plan import print_earlier_rows
from sweeps.cli.runs import version_of
from sweeps.cli.terminal import (
    TextTable,
    console_of_stdout,
    figure_errors,
    print_figures,
    print_json,
    print_whole,
)
from sweeps.storage.schema import CURVES_SCHEMA
from sweeps.storage.table import ResultsFolder

__all__ = ["print_curves"]

LEFT = ("arm", "unfinished", "version")
"""Headings of left-aligned columns."""

CURVES = ("valid_kl", "valid_mi", "valid_kl_agg")
"""Default columns of `lagvae results curves`: the columns shown in figure 5 of He et al. 2019."""


def print_curves(
    folder: ResultsFolder,
    columns: Sequence[str] | None,
    arms: Sequence[str] | None,
    *,
    as_json: bool,
    x: str,
    png: Path | None,
    width: float | None = None,
) -> None:
    """Print one line per configuration and epoch, with mean and standard error over its runs.

    Args:
        folder: The results of the sweep.
        columns: Columns of the curves; None for the default ones.
        arms: Arms to show; None for all.
        as_json: Print all stored rows of these arms as JSON instead of a table, each with the status of its run.
        x: Unit of the x axis of the figure: "epoch" or "step".
        png: File for a figure with one panel per column; None for no figure.
        width: Width of the figure [inches]; None for the default.

    Raises:
        ConfigError: A column or an arm does not exist, `x` is invalid, or the figure cannot be written.
    """
    names = columns or CURVES
    rows = folder.curve_table(None if as_json else [name for name in names if name in CURVES_SCHEMA.names])
    trained = rows.codes("arm")[1]
    if issues := [*_unknown_curves(names), *_invalid_x(x), *_unknown_arms(folder.sweep, arms or (), trained)]:
        raise ConfigError(issues)
    rows = rows.filter(rows.is_in("arm", arms or trained))
    curves = stored_curves(folder, rows, names)
    if png is not None:
        _draw_curves(folder, curves, names, x, png, width)
    if as_json:
        runs = folder.run_table(only=[])
        statuses = dict(zip(runs.values("run_id"), runs.values("status"), strict=True))
        print_json([row | {"status": statuses.get(row["run_id"])} for row in rows])
        return
    console = console_of_stdout()
    print_whole(console, _curves_table(curves, names))
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
            *(statistic_text(point.columns[name], 3) for name in columns),
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


def _draw_curves(
    folder: ResultsFolder, curves: Sequence[Curve], columns: Sequence[str], x: str, path: Path, width: float | None
) -> None:
    from sweeps.plots.curves import curves_figure

    with figure_errors(path):
        files = curves_figure(curves, columns, path, x=x, title=folder.sweep, width=width)
    print_figures(files)
