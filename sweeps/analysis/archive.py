"""Files of a sweep that can be moved to its archive: rows of earlier versions, copies, and unreadable files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from lagvae_core.studies import STUDIES
from sweeps.analysis.stored import current_plan, stored_spec
from sweeps.storage.folder import checkpoint_name, model_name
from sweeps.storage.schema import CURVES_SCHEMA, runs_schema
from sweeps.storage.table import ResultsFolder, StoredTable, stem
from sweeps.studies.table import evaluation_schema

__all__ = ["copies", "orphan_runs", "orphans", "unreadable"]


def orphan_runs(folder: ResultsFolder) -> set[str]:
    """Return the ids of the runs that the stored sweep file does not plan.

    Raises:
        ConfigError: The stored sweep file is missing or invalid.
    """
    return _orphan_runs(folder, folder.read_table("runs", runs_schema()))


def _orphan_runs(folder: ResultsFolder, runs: StoredTable) -> set[str]:
    return {row["run_id"] for row in current_plan(stored_spec(folder), runs.rows).others}


def orphans(folder: ResultsFolder) -> list[str]:
    """Return the files of the runs that the stored sweep file does not plan: rows, curves, findings and weights.

    Their rows must be in files of their own (see `sweeps.storage.compaction.split`).

    Raises:
        ConfigError: The stored sweep file is missing or invalid.
    """
    runs = folder.read_table("runs", runs_schema())
    run_ids = _orphan_runs(folder, runs)
    files = [name for part, _ in _tables(folder) for name in folder.files(part) if stem(name) in run_ids]
    files += [name for part in _tables_of_studies() for name in folder.files(part) if stem(name) in run_ids]
    weights = [name for run_id in run_ids for name in (model_name(run_id), checkpoint_name(run_id))]
    files += [name for name in weights if folder.holds(name)]
    # The rows follow, so that an interrupted command can be repeated.
    rows = [name for name, held in runs.files.items() if run_ids.issuperset(held)]
    rows += [name for name, run_id in runs.copies.items() if run_id in run_ids]
    return [*(name for name in dict.fromkeys(files) if name not in rows), *rows]


def copies(folder: ResultsFolder) -> list[str]:
    """Return the files with rows of a run of which another file counts."""
    return [name for part, schema in _tables(folder) for name in folder.read_table(part, schema).copies]


def unreadable(folder: ResultsFolder) -> list[str]:
    """Return the files of the tables that cannot be read."""
    return [name for part, schema in _tables(folder) for name in folder.read_table(part, schema).unreadable]


def _tables(folder: ResultsFolder) -> Iterator[tuple[str, pa.Schema]]:
    """Yield the subfolder and the schema of every table."""
    yield "runs", runs_schema()
    yield "curves", CURVES_SCHEMA
    for kind, study in STUDIES.items():
        if folder.holds_folder(f"evaluations/{kind}"):
            yield f"evaluations/{kind}", evaluation_schema(study)


def _tables_of_studies() -> Iterator[str]:
    """Yield the subfolders of the further tables of studies, which no command reads."""
    for kind, study in STUDIES.items():
        for table in study.tables:
            yield f"evaluations/{kind}/{table}"
