"""The Parquet tables: one row per run in runs/, and one row per epoch of each run in curves/."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.storage.folder import SweepFolder
from sweeps.storage.schema import CURVES_SCHEMA, RUN_KEYS, RUNS_SCHEMA

__all__ = ["ResultsFolder", "stored_sweeps"]

REQUIRED = ("arm", "run_id", "seed")
"""Columns that are never null in any table that contains them."""


class ResultsFolder(SweepFolder):
    """A sweep's folder with its table: one Parquet file per run in runs/ and one in curves/."""

    def exists(self) -> bool:
        """Return whether the sweep has a table."""
        return self.holds_folder("runs")

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Write the row of one run, replacing the previous one."""
        self.write_table(f"runs/{row['run_id']}.parquet", _table([dict(row)], RUNS_SCHEMA))

    def write_curve(self, run: Mapping[str, Any], epochs: list[dict[str, Any]]) -> None:
        """Write the epochs of one run, replacing the previous ones.

        Args:
            run: Row of the run.
            epochs: One mapping per epoch, with the columns of the curve.
        """
        keys = {name: run[name] for name in RUN_KEYS}
        rows = [keys | epoch for epoch in epochs]
        self.write_table(f"curves/{run['run_id']}.parquet", _table(rows, CURVES_SCHEMA))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Replace the Parquet file `name` as a whole."""
        buffer = pa.BufferOutputStream()
        # Each file has only a few rows. Dictionaries and statistics of its columns would be useless and take a third of
        # the file, and setting up a stronger compression for each column would double the time to read the file.
        pq.write_table(table, buffer, compression="snappy", use_dictionary=False, write_statistics=False)
        self.write(name, buffer.getvalue().to_pybytes())

    def runs(self) -> list[dict[str, Any]]:
        """Return every row, sorted by arm, configuration and seed. Damaged files are skipped with a warning."""
        rows = self.rows("runs", RUNS_SCHEMA)
        return sorted(rows, key=lambda r: (r["arm"], r["configuration"] or 0, r["seed"]))

    def curves(self) -> list[dict[str, Any]]:
        """Return every epoch of every run, sorted by run and epoch."""
        return sorted(self.rows("curves", CURVES_SCHEMA), key=lambda r: (r["run_id"], r["epoch"]))

    def rows(self, part: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """Return the rows of every file in the subfolder `part`, with the columns of `schema`.

        Columns of `schema` that a file lacks are null; columns that are not in `schema` are dropped. A damaged file is
        skipped with a warning.

        Raises:
            StoreError: A file cannot be accessed. It is not skipped, because the driver would then repeat its run.
        """
        rows: list[dict[str, Any]] = []
        names = [name for name in self.files(part) if name.endswith(".parquet") and not name.startswith(f"{part}/.")]
        for name, content in self.read_each(names):
            if content is None:
                continue
            path = f"{self.root}/{self.sweep}/{name}"
            try:
                # The files are so small that starting threads would take as long as reading.
                table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
            except (pa.ArrowInvalid, OSError) as error:
                hint = "Restore it from a backup, or delete it."
                message = f"{path} was skipped because it is not a readable Parquet file ({error}). {hint}"
                warnings.warn(message, stacklevel=2)
                continue
            empty = dict.fromkeys(schema.names)
            rows_of_file = [empty | {k: _finite(v) for k, v in row.items() if k in empty} for row in table.to_pylist()]
            if any(row[column] is None for row in rows_of_file for column in REQUIRED if column in empty):
                hint = "Move it out of this folder."
                warnings.warn(f"{path} was skipped because it was not written by lagvae. {hint}", stacklevel=2)
                continue
            rows += rows_of_file
        return rows


def stored_sweeps(results: str) -> list[str]:
    """Return the names of the sweeps that have a table in `results`, which is a path or URI."""
    return [name for name in ResultsFolder(results, "").folders() if ResultsFolder(results, name).exists()]


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which lagvae never writes, with null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
