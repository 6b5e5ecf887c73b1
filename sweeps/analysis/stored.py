"""A stored sweep as it stands: its spec, its plan, its rows and their summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.statistics import Summary, summarise
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, with_evaluations

__all__ = ["current_plan", "current_rows", "stored_spec", "summaries_of"]


def stored_spec(folder: ResultsFolder) -> SweepSpec:
    """The sweep file as the last driver stored it beside its rows."""
    text = folder.read("spec.yaml")
    if text is None:
        raise ConfigError(
            [ValidationIssue("SWEEP", "must have its spec.yaml beside runs/", "Run the sweep again.", folder.sweep)]
        )
    try:
        return parse_spec(text.decode(), "spec.yaml")
    except UnicodeDecodeError:
        raise ConfigError([ValidationIssue("spec.yaml", "not valid UTF-8", "Run the sweep again.")]) from None


def current_plan(spec: SweepSpec, folder: ResultsFolder) -> Plan:
    """The stored rows against the sweep as its file stands, over the data of its latest run."""
    rows = folder.runs()
    latest = max(rows, key=lambda row: row["started_at"], default=None)
    return Plan(spec, latest["data_fingerprint"] if latest is not None else "", rows)


def current_rows(spec: SweepSpec, folder: ResultsFolder) -> list[Mapping[str, Any]]:
    """The rows of the current plan; those of older versions of the sweep are left out."""
    return list(current_plan(spec, folder).rows.values())


def summaries_of(
    folder: ResultsFolder, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], baseline: str | None
) -> list[Summary]:
    """The configurations of the stored rows, in the order of the sweep's arms."""
    issues: list[ValidationIssue] = []
    issues += non_numeric_columns("--columns", columns)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if baseline is not None and baseline not in arms:
        issues.append(
            ValidationIssue("--baseline", f"must be an arm of {folder.sweep}", f"Stored: {', '.join(arms)}.", baseline)
        )
    if issues:
        raise ConfigError(issues)
    order = [arm.name for arm in stored_spec(folder).arms]
    summaries = summarise(with_evaluations(folder, rows, columns), columns, baseline)
    return sorted(summaries, key=lambda s: order.index(s.arm) if s.arm in order else len(order))
