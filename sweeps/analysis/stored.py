"""Reading a stored sweep: its sweep file, its current plan and rows, and their summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.analysis.curves import Curve, curves_of
from sweeps.analysis.statistics import Summary, summarise
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.storage.plugins import HASH_NAME, load_stored_plugins
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, with_evaluations

__all__ = ["PLAN_COLUMNS", "arm_order", "current_plan", "stored_curves", "stored_plan", "stored_spec", "summaries_of"]

PLAN_COLUMNS = ("parameters", "history", "started_at", "data_fingerprint", "lagvae_version", "seconds", "warnings")
"""Columns of a run that a plan and the warnings about results need, besides those that identify it."""


def stored_spec(folder: ResultsFolder) -> SweepSpec:
    """Return the sweep as the latest driver stored it.

    Its plugins must be loaded or trusted (see `load_stored_plugins`): the code in a results folder does not run by
    itself.

    Raises:
        ConfigError: The stored sweep file is missing or invalid, or a plugin is needed.
    """
    load_stored_plugins(folder, _latest_plugins(folder))
    content = folder.read("spec.yaml")
    if content is None:
        message, hint = "must name a sweep with a stored sweep file (spec.yaml)", "Run the sweep again to store it."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    try:
        return parse_spec(content.decode(), "spec.yaml", load=False)
    except UnicodeDecodeError:
        where, hint = f"{folder.root}/{folder.sweep}/spec.yaml", "Run the sweep again; this rewrites the file."
        raise ConfigError([ValidationIssue(where, "must be UTF-8 text", hint)]) from None


def _latest_plugins(folder: ResultsFolder) -> dict[str, str]:
    """Return the SHA-256 of each plugin of the latest driver, by name."""
    names = [name.rpartition("/")[2] for name in folder.files("plugins")]
    contents = {name: folder.read(f"plugins/{name}") for name in names if not HASH_NAME.fullmatch(name)}
    return {name: sha256(content).hexdigest() for name, content in contents.items() if content is not None}


def current_plan(spec: SweepSpec, rows: Sequence[Mapping[str, Any]], earlier: Plan | None = None) -> Plan:
    """Return the plan of `spec`, given the stored rows and the data of the latest run; see `Plan` for `earlier`."""
    table = RowTable.of(rows, ["started_at", "data_fingerprint"])
    fingerprint = ""
    if latest := pc.max(table.column("started_at")).as_py():
        is_latest = pc.equal(table.column("started_at"), latest).fill_null(False)
        fingerprint = table.filter(is_latest.to_numpy())[0].get("data_fingerprint") or ""
    return Plan(spec, fingerprint, rows, earlier=earlier)


def stored_plan(folder: ResultsFolder, spec: SweepSpec, columns: Sequence[str]) -> Plan:
    """Return the plan of `spec` and the stored rows, which have only the columns that a plan needs and `columns`.

    Args:
        folder: The folder of the sweep.
        spec: The sweep.
        columns: Further columns of the rows; those of studies are ignored (see `with_evaluations`).
    """
    return current_plan(spec, folder.run_table(only=[*PLAN_COLUMNS, *columns]))


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
    table = RowTable.of(rows)
    arms = table.codes("arm")[1]
    if baseline is not None and baseline not in arms:
        hint = f"{did_you_mean(baseline, arms)} The stored arms are {', '.join(arms)}.".strip()
        issues.append(ValidationIssue("--baseline", f"must be an arm of {folder.sweep}", hint, baseline))
    if issues:
        raise ConfigError(issues)
    spec = stored_spec(folder)
    is_current_N = current_plan(spec, table).is_current_N
    summaries = []
    for earlier in (False, True):
        of_version = table.filter(is_current_N != earlier)
        summarised = summarise(with_evaluations(folder, of_version, columns), columns, baseline)
        summarised.sort(key=arm_order(spec))
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
    runs = folder.run_table(only=PLAN_COLUMNS)
    unfinished = runs.filter(~runs.is_in("status", ENDED))
    statuses = dict(zip(unfinished.values("run_id"), unfinished.values("status"), strict=True))
    earlier_ids = runs.filter(~current_plan(spec, runs).is_current_N).column("run_id")
    table = RowTable.of(rows)
    is_earlier_N = pc.is_in(table.column("run_id").cast(pa.string()), earlier_ids.combine_chunks()).to_numpy()
    curves, others = (curves_of(table.filter(is_earlier_N == earlier), columns, statuses) for earlier in (False, True))
    curves.sort(key=arm_order(spec))
    others.sort(key=arm_order(spec))
    return [*curves, *(replace(curve, name=f"{curve.name} (earlier)", earlier=True) for curve in others)]


class OfArm(Protocol):
    """A result about one arm, such as a summary or a curve."""

    @property
    def arm(self) -> str:
        """Name of the arm."""


def arm_order(spec: SweepSpec) -> Callable[[OfArm], int]:
    """Return a function that gives the position of an arm in the sweep file; arms that are not in it come last."""
    positions = {arm.name: position for position, arm in enumerate(spec.arms)}
    return lambda result: positions.get(result.arm, len(positions))
