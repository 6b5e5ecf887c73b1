"""The Parquet tables: one row per run in runs/, and one row per epoch of each run in curves/."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from lagvae_core.errors import ConfigError, StoreError
from sweeps.storage.folder import SweepFolder
from sweeps.storage.identifiers import RUN_ID, SWEEP_NAME
from sweeps.storage.parquet import DamagedFileError, encode_table
from sweeps.storage.provenance import now
from sweeps.storage.rows import decode_rows
from sweeps.storage.schema import CURVES_SCHEMA, RUN_KEYS, RUNS_SCHEMA

__all__ = ["ResultsFolder", "StoredTable", "stem", "stored_sweeps"]


@dataclass(frozen=True)
class StoredTable:
    """The files of a table.

    Args:
        part: Name of the subfolder.
        files: Rows of each file that counts, by the name of the file. No two files hold rows of the same run.
        copies: Runs by the names of the files whose run has another file that counts.
        unreadable: Reasons by the names of the files that cannot be read.
    """

    part: str
    files: Mapping[str, list[dict[str, Any]]]
    copies: Mapping[str, str]
    unreadable: Mapping[str, str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that count."""
        return [row for rows in self.files.values() for row in rows]


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
        self.write(name, encode_table(table))

    def runs(self, *, set_aside: bool = False) -> list[dict[str, Any]]:
        """Return every row, sorted by arm, configuration and seed. A run has one row.

        Args:
            set_aside: Move the unreadable files of runs to the archive, so that repeating the runs does not overwrite
                them. Only the driver of the sweep may do so.
        """
        stored = self.read_table("runs", RUNS_SCHEMA)
        damaged = [name for name in stored.unreadable if RUN_ID.fullmatch(stem(name))]
        if set_aside and damaged:
            place = self.archive(damaged)
            hint = f"It was moved to {place}. A run of the sweep file that has no row is trained again."
            self._warn(stored, dict.fromkeys(damaged, hint))
        else:
            self._warn(stored)
        return sorted(stored.rows, key=lambda r: (r["arm"], r["configuration"] or 0, r["seed"]))

    def curve(self, run_id: str) -> list[dict[str, Any]]:
        """Return the stored epochs of one run with the columns of the curve; empty if there are none to read."""
        name = f"curves/{run_id}.parquet"
        content = None if self.unsafe(name) else self.read(name)
        if content is None:
            return []
        try:
            rows = decode_rows(content, CURVES_SCHEMA)
        except DamagedFileError:
            return []
        epochs = [{name: value for name, value in row.items() if name not in RUN_KEYS} for row in rows]
        return sorted(epochs, key=lambda epoch: epoch["epoch"])

    def curves(self) -> list[dict[str, Any]]:
        """Return every epoch of every run, sorted by run and epoch."""
        return sorted(self.rows("curves", CURVES_SCHEMA), key=lambda r: (r["run_id"], r["epoch"]))

    def rows(self, part: str, schema: pa.Schema) -> list[dict[str, Any]]:
        """Return the rows in the subfolder `part` (see `read_table`), and warn about the files that do not count."""
        stored = self.read_table(part, schema)
        self._warn(stored)
        return stored.rows

    def read_table(self, part: str, schema: pa.Schema) -> StoredTable:
        """Read every file in the subfolder `part`. This is the only reader of rows.

        If several files hold rows of one run, as a synchronising tool leaves them, one of them counts: the file with
        the name of the run, or else the first in the order of the names.

        Args:
            part: Name of the subfolder.
            schema: Columns of the table; see `decode_rows`.

        Raises:
            StoreError: A file cannot be accessed. It is not skipped, because the driver would then repeat its run.
        """
        names = [name for name in self.files(part) if name.endswith(".parquet") and not name.startswith(f"{part}/.")]
        unreadable = {name: reason for name in names if (reason := self.unsafe(name)) is not None}
        files: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for name, content in self.read_each([name for name in names if name not in unreadable]):
            if content is None:
                continue
            try:
                rows = decode_rows(content, schema)
            except DamagedFileError as error:
                unreadable[name] = str(error)
            else:
                files.setdefault(rows[0]["run_id"], {})[name] = rows
        counted: dict[str, list[dict[str, Any]]] = {}
        copies: dict[str, str] = {}
        for run_id, files_of_run in files.items():
            first, *others = sorted(files_of_run, key=lambda name: (stem(name) != run_id, name))
            counted[first] = files_of_run[first]
            copies |= dict.fromkeys(others, run_id)
        return StoredTable(part, counted, copies, unreadable)

    def archive(self, names: Iterable[str]) -> str:
        """Move files to a new subfolder of `archive/`, where no command reads them, and return its name.

        Raises:
            StoreError: A file cannot be moved.
        """
        place = f"archive/{now():%Y%m%dT%H%M%S.%fZ}"
        for name in names:
            self.move(name, f"{place}/{name}")
        return place

    def _warn(self, stored: StoredTable, hints: Mapping[str, str] = MappingProxyType({})) -> None:
        """Warn about the files of a table that do not count, with `hints` by name in place of the usual hint."""
        place = f"{self.root}/{self.sweep}"
        for name, reason in stored.unreadable.items():
            hint = hints.get(name, f"Restore it from a backup, or move it: {self._remedy('--unreadable')}.")
            warnings.warn(f"{place}/{name} is not counted: {reason}. {hint}", stacklevel=3)
        if stored.copies:
            count = f"{len(stored.copies)} of the files hold copies of rows and are not counted"
            names = ", ".join(stored.copies)
            warnings.warn(f"{place}: {count} ({names}). To move them: {self._remedy('--copies')}.", stacklevel=3)

    def _remedy(self, option: str) -> str:
        return f"`lagvae results archive {self.sweep} {option} --results {shlex.quote(self.results)}`"


def stored_sweeps(results: str) -> list[str]:
    """Return the names of the sweeps that have a table in `results`, which is a path or URI.

    Folders that cannot be entered are left out with a warning.
    """
    sweeps = []
    for name in ResultsFolder(results, "").folders():
        try:
            if SWEEP_NAME.fullmatch(name) and ResultsFolder(results, name).exists():
                sweeps.append(name)
        except (ConfigError, StoreError) as error:
            warnings.warn(f"{name} is left out. {error}", stacklevel=2)
    return sweeps


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def stem(name: str) -> str:
    """Return the name of a Parquet file without its folder and extension."""
    return name.rpartition("/")[2].removesuffix(".parquet")
