"""Reasons why a column of the table has no value in any finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lagvae_core.evaluation.data_specific_metrics import unavailable_columns
from lagvae_core.strategies import CATALOGUE
from sweeps.analysis.statistics import TIME, Summary
from sweeps.studies.table import study_of

__all__ = ["NEEDED", "empty_columns", "missing_columns"]

NEEDED = ("config", "lagvae_version")
"""Columns of a run by which reasons are found, besides its status."""


def missing_columns(sweep: str, rows: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]) -> list[str]:
    """Return a sentence for each column without a value in any finished run, with the reason.

    Args:
        sweep: Name of the sweep.
        rows: Rows of runs.
        summaries: Summaries of these rows; their columns are checked.

    Returns:
        The sentences; one for all columns if there are rows but none of a finished run.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        return ["no run has finished, so no column has a value"] if rows else []
    return [f"{name} has no value: {_reason(sweep, finished, name)}" for name in empty_columns(summaries)]


def empty_columns(summaries: Sequence[Summary]) -> list[str]:
    """Return the names of the columns without a value in any summary."""
    names = dict.fromkeys(name for summary in summaries for name in summary.columns if name != TIME)
    return [name for name in names if all(summary.columns[name] is None for summary in summaries)]


def _reason(sweep: str, rows: Sequence[Mapping[str, Any]], column: str) -> str:
    if (study := study_of(column)) is not None:
        return f"no run was evaluated; `lagvae evaluate --sweep {sweep} --what {study.name()}` measures it"
    configs = [json.loads(row["config"] or "{}") for row in rows]
    kinds = set().union(*(_kinds([config.get("data")]) for config in configs))
    if kinds and all(column in unavailable_columns(kind) for kind in kinds):
        return f"it is not measured for {' and '.join(sorted(kinds))} data"
    stacks = [_kinds(config.get("strategies")) for config in configs]
    used = set().union(*stacks)
    measuring = [kind for kind, strategy in CATALOGUE.items() if column in {c.name for c in strategy.columns}]
    if measuring and not used.intersection(measuring):
        return f"it is measured only with {' or '.join(measuring)}"
    refusing = {kind for kind in used if kind in CATALOGUE and column in CATALOGUE[kind].unmeasured}
    if refusing and all(stack & refusing for stack in stacks):
        return f"it is not measured with {' or '.join(sorted(refusing))}"
    versions = " and ".join(sorted({row["lagvae_version"] or "of unknown version" for row in rows}))
    return f"it is not defined for these runs, or lagvae {versions}, which trained them, did not measure it yet"


def _kinds(parts: Any) -> set[str]:
    """Return the kinds of some parts of a stored configuration, which may be in the form of another version."""
    parts = parts if isinstance(parts, list) else []
    return {str(part["kind"]) for part in parts if isinstance(part, Mapping) and "kind" in part}
