"""The stored findings of studies.

`evaluations/<study>/<run_id>.parquet` holds one row of typed columns. `evaluations/<study>/<table>/<run_id>.parquet`
holds the rows of one of the study's tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lagvae_core.errors import ValidationIssue, did_you_mean
from lagvae_core.studies import STUDIES, Findings, Study
from sweeps.storage.provenance import now, provenance
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import SCHEMA_VERSION, fields_of, objective_columns
from sweeps.storage.table import ResultsFolder

__all__ = [
    "EVALUATION_COLUMNS",
    "checked_values",
    "evaluation_schema",
    "non_numeric_columns",
    "several_settings",
    "study_of",
    "with_evaluations",
    "write_evaluation",
]

KEYS = ("sweep", "arm", "run_id", "config_id", "seed")
EVALUATION_COLUMNS = (
    ("sweep", "str", "name of the sweep"),
    ("arm", "str", "name of the arm"),
    ("run_id", "str", "id of the run whose model was measured"),
    ("config_id", "str", "id of the run's configuration"),
    ("seed", "int", "seed of the run"),
    ("study", "str", "kind of the study"),
    ("settings", "str", "all fields of the study, as JSON"),
    ("seconds", "float", "wall time of the study [s]"),
    ("device", "str", "device that the study ran on"),
    ("evaluated_at", "time", "end of the measurement, UTC"),
    ("lagvae_version", "str", "version of lagvae that ran the study"),
    ("git_commit", "str", "commit of the code that ran the study, if the code ran from a checkout"),
    ("git_dirty", "bool", "whether that checkout had uncommitted changes"),
)
"""Name, type and meaning of the columns that all studies share. In a row, the columns of the study follow them."""


def evaluation_schema(study: type[Study]) -> pa.Schema:
    """Return the schema of the rows of `study`."""
    common = ((name, kind) for name, kind, _ in EVALUATION_COLUMNS)
    specific = ((column.name, column.kind) for column in study.columns)
    return pa.schema([*fields_of(common), *fields_of(specific)], metadata={"lagvae_schema": SCHEMA_VERSION})


def study_of(column: str) -> type[Study] | None:
    """Return the study that measures the numeric column `column`; None if no study does."""
    return _studies_by_column().get(column)


def _studies_by_column() -> dict[str, type[Study]]:
    studies = STUDIES.values()
    return {column.name: study for study in studies for column in study.columns if column.kind in ("float", "int")}


def non_numeric_columns(option: str, columns: Iterable[str]) -> list[ValidationIssue]:
    """Return an issue about `option` if any of `columns` is not a numeric column of the runs or of a study."""
    known = [*objective_columns(), *_studies_by_column()]
    unknown = [name for name in columns if name not in known]
    if not unknown:
        return []
    suggestions = dict.fromkeys(filter(None, (did_you_mean(name, known, count=2) for name in unknown)))
    hint = " ".join([*suggestions, f"Known columns: {', '.join(known)}."])
    return [ValidationIssue(option, "must name numeric columns of the table", hint, ", ".join(unknown))]


def write_evaluation(
    folder: ResultsFolder, run: Mapping[str, Any], study: Study, findings: Findings, *, seconds: float, device: str
) -> list[str]:
    """Write the findings of a study about one run. They replace earlier findings of this study about the run.

    The row is written last, so that a row never exists without the tables of the same measurement.

    Args:
        folder: The folder of the sweep.
        run: The row of the run.
        study: The study.
        findings: What the study measured.
        seconds: Wall time of the study [s].
        device: Device of the measurement.

    Returns:
        The names of the written files, relative to the folder. The first file contains the row.
    """
    kind, run_id = study.name(), run["run_id"]
    row_name = f"evaluations/{kind}/{run_id}.parquet"
    folder.remove(row_name)
    names = []
    for table in {**dict.fromkeys(study.tables), **dict.fromkeys(findings.tables)}:
        name = f"evaluations/{kind}/{table}/{run_id}.parquet"
        if table in findings.tables:
            columns = findings.tables[table]
            rows = len(next(iter(columns.values()), ()))
            folder.write_table(name, pa.table({"run_id": [run_id] * rows, **columns}))
            names.append(name)
        else:
            folder.remove(name)
    origin = provenance()
    row = {name: run[name] for name in KEYS} | {
        "study": kind,
        "settings": json.dumps(study.model_dump(mode="json", exclude={"kind"}), sort_keys=True),
        "seconds": seconds,
        "device": device,
        "evaluated_at": now(),
        **{name: origin.get(name) for name in ("lagvae_version", "git_commit", "git_dirty")},
        **checked_values(study, findings),
    }
    folder.write_table(row_name, pa.Table.from_pylist([row], schema=evaluation_schema(type(study))))
    return [row_name, *names]


def checked_values(study: Study, findings: Findings) -> dict[str, Any]:
    """Return the values of `findings`, after checking that they are finite and match the columns of the study."""
    declared = {column.name for column in study.columns}
    assert set(findings.values) == declared, (
        f"{study.name()} measured {sorted(findings.values)}, but declares {sorted(declared)}"
    )
    values = findings.values.items()
    not_finite = [name for name, value in values if isinstance(value, float) and not math.isfinite(value)]
    assert not not_finite, f"{study.name()} measured values that are not finite: {not_finite}"
    return findings.values


def with_evaluations(folder: ResultsFolder, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> RowTable:
    """Return `rows` with the columns of studies among `columns` added; unmeasured values are null."""
    table = RowTable.of(rows)
    columns_of_study: dict[str, list[str]] = {}
    for name in columns:
        study = study_of(name)
        if study is not None:
            columns_of_study.setdefault(study.name(), []).append(name)
    for kind, names in columns_of_study.items():
        evaluations = _stored(folder, kind, names)
        positions = pc.index_in(table.column("run_id").cast(pa.string()), evaluations.column("run_id").combine_chunks())
        for name in names:
            table = table.with_column(name, evaluations.column(name).take(positions))
    return table


def several_settings(folder: ResultsFolder, columns: Iterable[str]) -> list[str]:
    """Return a warning for each study that measures any of `columns` and ran with different fields on some runs."""
    kinds = dict.fromkeys(study.name() for name in columns if (study := study_of(name)) is not None)
    stored = {kind: set(_stored(folder, kind, ["settings"]).values("settings")) for kind in kinds}
    return [
        f"{kind} ran with {len(settings)} different settings, so its values are not comparable: "
        + "; ".join(sorted(settings))
        for kind, settings in stored.items()
        if len(settings) > 1
    ]


def _stored(folder: ResultsFolder, kind: str, columns: Iterable[str]) -> RowTable:
    return folder.rows(f"evaluations/{kind}", evaluation_schema(STUDIES[kind]), set(columns))
