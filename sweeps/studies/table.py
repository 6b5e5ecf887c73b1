"""What studies found of the runs of a sweep: beside the runs, a folder for each study, a row and table files a run.

`evaluations/<study>/<run_id>.parquet` holds one row of typed columns, `evaluations/<study>/<table>/<run_id>.parquet`
the rows of a table.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lagvae_core.errors import ValidationIssue
from lagvae_core.studies import STUDIES, Findings, Study
from sweeps.storage.provenance import now, provenance
from sweeps.storage.schema import OBJECTIVE_COLUMNS, SCHEMA_VERSION, fields_of
from sweeps.storage.table import ResultsFolder

__all__ = [
    "EVALUATION_COLUMNS",
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
    ("run_id", "str", "the run whose kept model was measured"),
    ("config_id", "str", "its configuration"),
    ("seed", "int", "its seed"),
    ("study", "str", "kind of the study"),
    ("settings", "str", "JSON: every field of the study"),
    ("seconds", "float", "wall time of the study"),
    ("device", "str", "of the measurement"),
    ("evaluated_at", "time", "end of the measurement, UTC"),
    ("lagvae_version", "str", ""),
    ("git_commit", "str", "of the code that measured, where it runs from a checkout"),
    ("git_dirty", "bool", "whether that checkout had changes"),
)
"""The columns that every study's row has before its own."""


def evaluation_schema(study: type[Study]) -> pa.Schema:
    own = ((column.name, column.kind) for column in study.columns)
    every = ((name, kind) for name, kind, _ in EVALUATION_COLUMNS)
    return pa.schema([*fields_of(every), *fields_of(own)], metadata={"lagvae_schema": SCHEMA_VERSION})


def study_of(column: str) -> type[Study] | None:
    """The study that finds the numeric column of this name."""
    return _NUMERIC.get(column)


def _numeric() -> dict[str, type[Study]]:
    found: dict[str, type[Study]] = {}
    for study in STUDIES.values():
        found |= {column.name: study for column in study.columns if column.kind in ("float", "int")}
    return found


_NUMERIC = _numeric()


def non_numeric_columns(option: str, columns: Iterable[str]) -> list[ValidationIssue]:
    """A mistake if any of `columns` is a numeric column neither of the runs nor of a study; else nothing."""
    known = [*OBJECTIVE_COLUMNS, *_NUMERIC]
    unknown = [name for name in columns if name not in known]
    if not unknown:
        return []
    near = list(dict.fromkeys(n for name in unknown for n in difflib.get_close_matches(name, known, n=2)))
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return [
        ValidationIssue(
            option, "must be numeric columns of the table", f"{hint}Known: {', '.join(known)}.", ", ".join(unknown)
        )
    ]


def write_evaluation(
    folder: ResultsFolder, run: Mapping[str, Any], study: Study, findings: Findings, *, seconds: float, device: str
) -> list[str]:
    """Write what `study` found of the run, in the place of what it found before; the names of the files.

    The row is written last: where it stands, its tables are there and of the same measurement.
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
        **checked(study, findings),
    }
    folder.write_table(row_name, pa.Table.from_pylist([row], schema=evaluation_schema(type(study))))
    return [row_name, *names]


def checked(study: Study, findings: Findings) -> dict[str, Any]:
    """The values, which must be those of the study's columns and finite."""
    declared = {column.name for column in study.columns}
    assert set(findings.values) == declared, f"{study.name()} found {sorted(findings.values)}, not {sorted(declared)}"
    wrong = [name for name, value in findings.values.items() if isinstance(value, float) and not math.isfinite(value)]
    assert not wrong, f"{study.name()} found numbers that are not finite: {wrong}"
    return findings.values


def with_evaluations(
    folder: ResultsFolder, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]
) -> list[Mapping[str, Any]]:
    """`rows` with those of `columns` added that studies find, by run; null where a run was not measured."""
    found = [dict(row) for row in rows]
    wanted: dict[str, list[str]] = {}
    for name in columns:
        study = study_of(name)
        if study is not None:
            wanted.setdefault(study.name(), []).append(name)
    for kind, names in wanted.items():
        measured = {row["run_id"]: row for row in _stored(folder, kind)}
        for row in found:
            evaluation = measured.get(row["run_id"], {})
            row |= {name: evaluation.get(name) for name in names}
    return list(found)


def several_settings(folder: ResultsFolder, columns: Iterable[str]) -> list[str]:
    """A warning for each study behind `columns` that measured some runs otherwise than others."""
    kinds = dict.fromkeys(study.name() for name in columns if (study := study_of(name)) is not None)
    found = []
    for kind in kinds:
        settings = {row["settings"] for row in _stored(folder, kind)}
        if len(settings) > 1:
            found.append(f"{kind} was measured in {len(settings)} ways, which do not compare: {'; '.join(settings)}")
    return found


def _stored(folder: ResultsFolder, kind: str) -> list[dict[str, Any]]:
    return folder.rows(f"evaluations/{kind}", evaluation_schema(STUDIES[kind]))
