"""Tabulated runs: the stored curves and metrics of a sweep, which stand in for training.

A table is one Parquet file with one row per run of a finished sweep. A search over the same space draws runs with the
same identities, so each of its runs can be replayed by the clock of a simulation (`search.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.storage.schema import COST_COLUMNS, OBJECTIVE_COLUMNS
from sweeps.storage.table import ResultsFolder

__all__ = ["Table", "TabulatedRun", "write_table"]

CURVE = tuple(column.name for column in CURVE_COLUMNS)
COSTS = tuple(column.name for column in COST_COLUMNS)


@dataclass(frozen=True)
class TabulatedRun:
    """One run of a table.

    Args:
        metrics: Values of numeric columns at the end of the run.
        costs: Values of the columns of cost.
        curve: One mapping per epoch, with the columns of the curve.
    """

    metrics: Mapping[str, Any]
    costs: Mapping[str, Any]
    curve: tuple[Mapping[str, Any], ...]


class Table:
    """The runs of a tabulated sweep.

    Args:
        path: File of the table.

    Attributes:
        fingerprint: Fingerprint of the data of the sweep.
        spec: Text of the sweep file.
        runs: The runs by `run_id`.
    """

    def __init__(self, path: Path | str) -> None:
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        self.fingerprint, self.spec = metadata["fingerprint"], metadata["spec"]
        self.runs = {row["run_id"]: _run(row) for row in table.to_pylist()}


def _run(row: Mapping[str, Any]) -> TabulatedRun:
    curves = {name: row[f"curve.{name}"] for name in CURVE}
    curve = tuple(dict(zip(CURVE, values, strict=True)) for values in zip(*curves.values(), strict=True))
    metrics = {name: value for name, value in row.items() if name in OBJECTIVE_COLUMNS and name not in COSTS}
    return TabulatedRun(metrics, {name: row[name] for name in COSTS}, curve)


def write_table(folder: ResultsFolder, path: Path) -> None:
    """Write the finished runs of a stored sweep as a table."""
    rows = [row for row in folder.runs() if row["status"] == "finished"]
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for epoch in folder.curves():
        curves.setdefault(epoch["run_id"], []).append(epoch)
    measured = [name for name in OBJECTIVE_COLUMNS if any(row[name] is not None for row in rows)]
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("run_id", *measured, *COSTS)}
    for name in CURVE:
        columns[f"curve.{name}"] = [[epoch[name] for epoch in curves[row["run_id"]]] for row in rows]
    spec = folder.read("spec.yaml")
    assert spec is not None
    table = pa.table(columns).replace_schema_metadata({"fingerprint": rows[0]["data_fingerprint"], "spec": spec})
    pq.write_table(table, path, compression="zstd")
