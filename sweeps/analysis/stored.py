"""Reading a stored sweep: its sweep file, its current plan and rows, and their summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.analysis.curves import Curve, curves_of
from sweeps.analysis.statistics import Summary, summarise
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, with_evaluations

__all__ = ["current_plan", "stored_curves", "stored_spec", "summaries_of"]


def stored_spec(folder: ResultsFolder) -> SweepSpec:
    """Return the sweep as the latest driver stored it.

    Raises:
        ConfigError: The stored sweep file is missing or invalid.
    """
    content = folder.read("spec.yaml")
    if content is None:
        message, hint = "must name a sweep with a stored sweep file (spec.yaml)", "Run the sweep again to store it."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    try:
        return parse_spec(content.decode(), "spec.yaml")
    except UnicodeDecodeError:
        where, hint = f"{folder.root}/{folder.sweep}/spec.yaml", "Run the sweep again; this rewrites the file."
        raise ConfigError([ValidationIssue(where, "must be UTF-8 text", hint)]) from None


def current_plan(spec: SweepSpec, rows: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the plan of `spec`, given the stored rows and the data of the latest run."""
    started = [row for row in rows if row["started_at"] is not None]
    latest = max(started, key=lambda row: row["started_at"], default={})
    return Plan(spec, latest.get("data_fingerprint") or "", rows)


def summaries_of(
    folder: ResultsFolder, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], baseline: str | None
) -> list[Summary]:
    """Summarise the configurations of stored rows (see `summarise`), in the order of the arms in the sweep file.

    The rows that belong to the current plan come first. Rows of an earlier version of the sweep are summarised apart.

    Args:
        folder: The folder of the sweep.
        rows: Rows of its runs.
        columns: Names of numeric columns of the runs or of studies.
        baseline: Name of the arm for relative training times.

    Raises:
        ConfigError: A column is unknown or not numeric, or `baseline` is not a stored arm.
    """
    issues = non_numeric_columns("--columns", columns)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if baseline is not None and baseline not in arms:
        hint = f"{did_you_mean(baseline, arms)} The stored arms are {', '.join(arms)}.".strip()
        issues.append(ValidationIssue("--baseline", f"must be an arm of {folder.sweep}", hint, baseline))
    if issues:
        raise ConfigError(issues)
    spec = stored_spec(folder)
    current = current_plan(spec, rows).rows
    summaries = []
    for earlier in (False, True):
        of_version = [row for row in rows if (row["run_id"] not in current) == earlier]
        summarised = summarise(with_evaluations(folder, of_version, columns), columns, baseline)
        summarised.sort(key=_arm_order(spec))
        summaries += [replace(summary, earlier=earlier) for summary in summarised]
    return summaries


def stored_curves(folder: ResultsFolder, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Curve]:
    """Return the training curves of a stored sweep (see `curves_of`), in the order of the arms in the sweep file.

    Runs of an earlier version of the sweep have curves of their own, which come last, with "(earlier)" in their names.

    Args:
        folder: The folder of the sweep.
        rows: One row per run and epoch.
        columns: Names of columns of the curves.

    Raises:
        ConfigError: The stored sweep file is missing or invalid.
    """
    spec = stored_spec(folder)
    runs = folder.runs()
    statuses = {run["run_id"]: run["status"] for run in runs}
    of_others = {run["run_id"] for run in current_plan(spec, runs).others}
    curves, others = (
        curves_of([row for row in rows if (row["run_id"] in of_others) == earlier], columns, statuses)
        for earlier in (False, True)
    )
    curves.sort(key=_arm_order(spec))
    others.sort(key=_arm_order(spec))
    return [*curves, *(replace(curve, name=f"{curve.name} (earlier)", earlier=True) for curve in others)]


def _arm_order(spec: SweepSpec) -> Callable[[Summary | Curve], int]:
    """Return a function that gives the position of an arm in the sweep file; arms that are not in it come last."""
    positions = {arm.name: position for position, arm in enumerate(spec.arms)}
    return lambda result: positions.get(result.arm, len(positions))
