"""The Parquet table: one typed row a run, one a run and epoch. Written by the driver alone, whole files at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.storage.folder import SweepFolder
from sweeps.storage.schema import CURVES_SCHEMA, RUNS_SCHEMA

__all__ = ["ResultsFolder", "stored_sweeps"]

KEYS = ("arm", "run_id", "seed")
"""What every row of a table says that has these columns."""


class ResultsFolder(SweepFolder):
    """A sweep's folder with its table: a Parquet file a run in runs/ and curves/."""

    def exists(self) -> bool:
        """Whether the sweep has a table."""
        return self.holds_folder("runs")

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Write the row of one run, replacing the one before."""
        self.write_table(f"runs/{row['run_id']}.parquet", _table([dict(row)], RUNS_SCHEMA))

    def write_curve(self, run: Mapping[str, Any], epochs: list[dict[str, Any]]) -> None:
        """Write the epochs of one run, replacing those before."""
        keys = {name: run[name] for name in ("sweep", "arm", "run_id", "config_id", "seed")}
        rows = [keys | epoch for epoch in epochs]
        self.write_table(f"curves/{run['run_id']}.parquet", _table(rows, CURVES_SCHEMA))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Replace the Parquet file `name` as a whole."""
        buffer = pa.BufferOutputStream()
        # A file is one row, or a few: a dictionary and statistics of each column are a third of it and help nobody, and
        # to set up a stronger compression for each column takes as long as all the rest of reading.
        pq.write_table(table, buffer, compression="snappy", use_dictionary=False, write_statistics=False)
        self.write(name, buffer.getvalue().to_pybytes())

    def runs(self) -> list[dict[str, Any]]:
        """Every row, in the order of arm, configuration and seed. A damaged file is passed over with a warning."""
        rows = self.rows("runs", RUNS_SCHEMA)
        return sorted(rows, key=lambda r: (r["arm"], r["configuration"] or 0, r["seed"]))

    def curves(self) -> list[dict[str, Any]]:
        """Every epoch of every run, by run and epoch."""
        return sorted(self.rows("curves", CURVES_SCHEMA), key=lambda r: (r["run_id"], r["epoch"]))

    def rows(self, part: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """The rows of every file in the folder `part`, with the columns of `schema`."""
        rows: list[dict[str, Any]] = []
        names = [name for name in self.files(part) if name.endswith(".parquet") and not name.startswith(f"{part}/.")]
        # What cannot be read now is no damage, and an exception: whoever takes a row for missing repeats its run.
        for name, content in self.read_each(names):
            if content is None:
                continue
            path = f"{self.root}/{self.sweep}/{name}"
            try:
                # One small file after another, where setting threads to work takes as long as the reading.
                table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
            except (pa.ArrowInvalid, OSError) as error:
                warnings.warn(f"{path} is not readable as Parquet and is passed over ({error}).", stacklevel=2)
                continue
            empty = dict.fromkeys(schema.names)
            found = [empty | {k: _finite(v) for k, v in row.items() if k in empty} for row in table.to_pylist()]
            if any(row[key] is None for row in found for key in KEYS if key in empty):
                warnings.warn(f"{path} is no table of lagvae and is passed over.", stacklevel=2)
                continue
            rows += found
        return rows


def stored_sweeps(results: str) -> list[str]:
    """The names of the sweeps below `results`, a path or URI."""
    return [name for name in ResultsFolder(results, "").folders() if ResultsFolder(results, name).exists()]


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def _finite(value: Any) -> Any:
    """Null in the place of NaN and infinity, which lagvae never writes."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
