"""The Parquet tables: one row per run in runs/, and one row per epoch of each run in curves/.

A run has a file of its own, or its rows are in a compacted file with those of other runs (`sweeps.storage.compaction`).
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue, did_you_mean
from sweeps.storage.folder import FileVersion, SweepFolder
from sweeps.storage.identifiers import RUN_ID, SWEEP_NAME
from sweeps.storage.parquet import DamagedFileError, encode_table
from sweeps.storage.provenance import now
from sweeps.storage.row_table import RowTable
from sweeps.storage.rows import RUN, DecodedFiles, decode_files, decode_rows
from sweeps.storage.schema import CURVES_SCHEMA, RUN_KEYS, runs_schema

__all__ = [
    "KnownFiles",
    "ResultsFolder",
    "StoredTable",
    "find_sweep",
    "is_compacted",
    "stem",
    "stored_sweeps",
    "table_of",
]

COMPACTED = re.compile(r"compacted-[0-9a-f]{12}")
"""Name of a file with the rows of several runs."""

LISTINGS = 5
"""How often a folder is listed until no file vanishes while it is read, because the folder is being compacted."""


@dataclass(frozen=True, eq=False)
class StoredTable:
    """The files of a table.

    Args:
        part: Name of the subfolder.
        rows: The rows that count [N], in the order of the files. No two files hold rows of the same run.
        names: Names of the files that can be read.
        file_N: Position in `names` of the file of each row.
        copies: Runs by the names of the files whose run has another file that counts. A compacted file whose runs were
            written again is no copy.
        unreadable: Reasons by the names of the files that cannot be read.
    """

    part: str
    rows: RowTable
    names: Sequence[str]
    file_N: NDArray[np.int64]
    copies: Mapping[str, str]
    unreadable: Mapping[str, str]

    @property
    def files(self) -> dict[str, list[str]]:
        """Ids of the runs whose rows count in each file, by the name of the file."""
        files: dict[str, dict[str, None]] = {}
        for file, run_id in zip(self.file_N.tolist(), self.rows.values("run_id"), strict=True):
            files.setdefault(self.names[file], {})[run_id] = None
        return {name: list(run_ids) for name, run_ids in files.items()}

    def sorted_runs(self) -> RowTable:
        """Return the rows of runs, which have the column `configuration`, by arm, configuration and seed."""
        return self.rows.sorted_by("arm", "configuration", "seed")


@dataclass(eq=False)
class KnownFiles:
    """The files of a table that have been read, for the next reading.

    Args:
        versions: Version of each file by its name; None if it is read again in any case.
        files: The files that can be read, whether or not their rows count; None before the first reading.
        unreadable: Reasons by the names of the files that cannot be read.
    """

    versions: dict[str, FileVersion | None] = field(default_factory=dict)
    files: DecodedFiles | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def update(
        self,
        versions: Mapping[str, FileVersion | None],
        read: DecodedFiles,
        unsafe: Mapping[str, str],
        failed: Mapping[str, str],
        vanished: Collection[str],
    ) -> None:
        """Replace the files that were read again, and leave out those that are gone.

        Args:
            versions: Versions of the files that are listed now.
            read: Those that were read.
            unsafe: Reasons by the names of those that must not be read.
            failed: Reasons by the names of those that cannot be accessed now.
            vanished: Names of those that are gone.
        """
        new = {*read.names, *read.unreadable, *unsafe, *failed, *vanished}
        kept = versions.keys() - new
        self.files = read if self.files is None else self.files.replaced(kept, read)
        reasons = {name: reason for name, reason in self.unreadable.items() if name in kept}
        self.unreadable = {**reasons, **unsafe, **failed, **read.unreadable}
        self.versions = {name: None if name in failed else version for name, version in versions.items()}
        for name in vanished:
            del self.versions[name]


class ResultsFolder(SweepFolder):
    """A sweep's folder with its table: Parquet files in runs/ and curves/, one per run until they are compacted."""

    def exists(self) -> bool:
        """Return whether the sweep has a table."""
        return self.holds_folder("runs")

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Write the row of one run, replacing the previous one."""
        self.write_table(f"runs/{row['run_id']}.parquet", table_of([dict(row)], runs_schema()))

    def write_curve(self, run: Mapping[str, Any], epochs: list[dict[str, Any]]) -> None:
        """Write the epochs of one run, replacing the previous ones.

        Args:
            run: Row of the run.
            epochs: One mapping per epoch, with the columns of the curve.
        """
        keys = {name: run[name] for name in RUN_KEYS}
        rows = [keys | epoch for epoch in epochs]
        self.write_table(f"curves/{run['run_id']}.parquet", table_of(rows, CURVES_SCHEMA))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Replace the Parquet file `name` as a whole."""
        self.write(name, encode_table(table))

    def runs(self, *, set_aside: bool = False, only: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Return every row as a mapping, sorted by arm, configuration and seed; see `run_table`."""
        return list(self.run_table(set_aside=set_aside, only=only))

    def run_table(self, *, set_aside: bool = False, only: Collection[str] | None = None) -> RowTable:
        """Return every row, sorted by arm, configuration and seed. A run has one row.

        Args:
            set_aside: Move the unreadable files of runs to the archive, so that repeating the runs does not overwrite
                them. Only the driver of the sweep may do so.
            only: Names of the columns that the rows have, besides those that identify a run; None for all. Reading a
                few columns of many compacted runs takes a small part of the time and memory.
        """
        names = None if only is None else {*only, "configuration"}
        stored = self.read_table("runs", runs_schema(), names)
        damaged = [name for name in stored.unreadable if RUN_ID.fullmatch(stem(name))]
        if set_aside and damaged:
            place = self.archive(damaged)
            hint = f"It was moved to {place}. A run of the sweep file that has no row is trained again."
            self._warn(stored, dict.fromkeys(damaged, hint))
        else:
            self._warn(stored)
        return stored.sorted_runs()

    def curve(self, run_id: str) -> list[dict[str, Any]]:
        """Return the stored epochs of one run with the columns of the curve; empty if there are none to read."""
        name = f"curves/{run_id}.parquet"
        content = None if self.unsafe(name) else self.read(name)
        try:
            if content is not None:
                rows = decode_rows(content, CURVES_SCHEMA)
            elif any(map(is_compacted, self.files("curves"))):
                table = self.read_table("curves", CURVES_SCHEMA).rows
                rows = list(table.filter(table.is_in("run_id", [run_id])))
            else:
                return []
        except DamagedFileError:
            return []
        epochs = [{name: value for name, value in row.items() if name not in RUN_KEYS} for row in rows]
        return sorted(epochs, key=lambda epoch: epoch["epoch"])

    def curves(self) -> list[dict[str, Any]]:
        """Return every epoch of every run as a mapping, sorted by run and epoch."""
        return list(self.curve_table())

    def curve_table(self, only: Collection[str] | None = None) -> RowTable:
        """Return every epoch of every run, sorted by run and epoch.

        Args:
            only: Names of the columns that the rows have, besides those that identify them; None for all.
        """
        return self.rows("curves", CURVES_SCHEMA, only).sorted_by("run_id", "epoch")

    def rows(self, part: str, schema: pa.Schema, only: Collection[str] | None = None) -> RowTable:
        """Return the rows in the subfolder `part` (see `read_table`), and warn about the files that do not count."""
        stored = self.read_table(part, schema, only)
        self._warn(stored)
        return stored.rows

    def read_table(
        self,
        part: str,
        schema: pa.Schema,
        only: Collection[str] | None = None,
        known: KnownFiles | None = None,
    ) -> StoredTable:
        """Read every file in the subfolder `part`. This is the only reader of rows.

        If several files hold rows of one run, one of them counts: the file with the name of the run, or else a
        compacted file, or else the first in the order of the names. Copies are left by synchronising tools.

        Args:
            part: Name of the subfolder.
            schema: Columns of the table; see `decode_files`.
            only: Names of the columns that the rows have; see `decode_files`.
            known: What earlier calls have read; this call updates it. Files that have not changed since are not read
                again, and a file that cannot be accessed counts as unreadable.

        Raises:
            StoreError: The table or, without `known`, a file cannot be accessed. Such a file is not skipped, because
                the driver would then repeat its run.
        """
        current = KnownFiles() if known is None else known
        for attempt in range(LISTINGS):
            versions = self._table_versions(part, stat=known is not None)
            new = [name for name, v in versions.items() if v is None or current.versions.get(name) != v]
            unreadable = {name: reason for name in new if (reason := self.unsafe(name)) is not None}
            safe = [name for name in new if name not in unreadable]
            vanished: list[str] = []
            failed: dict[str, str] = {}
            contents = self._contents(safe, vanished, failed if known is not None else None)
            decoded = decode_files(contents, schema, only, several_runs=is_compacted)
            current.update(versions, decoded, unreadable, failed, vanished)
            listed = versions or attempt > 0  # the first list is empty if a compaction has just emptied its old folder
            if listed and not vanished:
                break
        assert current.files is not None
        return _resolve(part, current.files, current.unreadable)

    def _contents(
        self, names: Sequence[str], vanished: list[str], failed: dict[str, str] | None
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files.

        Args:
            names: Names of the files.
            vanished: Receives the names of those that do not exist.
            failed: Receives the reasons why files cannot be accessed; None if this is an error.

        Raises:
            StoreError: A file cannot be accessed.
        """

        def on_failure(name: str, reason: str) -> None:
            assert failed is not None
            failed[name] = f"it cannot be accessed ({reason})"

        for name, content in self.read_each(names, on_failure if failed is not None else None):
            if content is None:
                vanished.append(name)
            else:
                yield name, content

    def _table_versions(self, part: str, *, stat: bool) -> dict[str, FileVersion | None]:
        """Return the names of the files of a table with their versions, or with None unless `stat`."""
        if not stat:
            return dict.fromkeys(self.table_files(part))
        return {name: version for name, version in self.versions(part).items() if _is_table_file(part, name)}

    def table_files(self, part: str) -> list[str]:
        """Return the names of the Parquet files in the subfolder `part`, sorted, without hidden ones."""
        return [name for name in self.files(part) if _is_table_file(part, name)]

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


def find_sweep(results: str, sweep: str) -> ResultsFolder:
    """Return the folder of a stored sweep.

    Raises:
        ConfigError: The sweep is not stored in `results`; the message lists the stored sweeps.
    """
    folder = ResultsFolder(results, sweep)
    if SWEEP_NAME.fullmatch(sweep) and folder.exists():
        return folder
    stored = stored_sweeps(results)
    hint = f"The stored sweeps are {', '.join(stored)}." if stored else "No sweep is stored there. Check --results."
    hint = f"{did_you_mean(sweep, stored)} {hint}".strip()
    raise ConfigError([ValidationIssue("SWEEP", f"must be a sweep that is stored in {results}", hint, sweep)])


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table. Columns that a row lacks are null."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"columns without a declaration: {sorted(unknown)}"
    return pa.Table.from_pylist(rows, schema=schema)


def _is_table_file(part: str, name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(f"{part}/.")


def stem(name: str) -> str:
    """Return the name of a Parquet file without its folder and extension."""
    return name.rpartition("/")[2].removesuffix(".parquet")


def is_compacted(name: str) -> bool:
    """Return whether a file is a compacted one, by its name."""
    return COMPACTED.fullmatch(stem(name)) is not None


def _resolve(part: str, decoded: DecodedFiles, unreadable: Mapping[str, str]) -> StoredTable:
    """Return the rows of each file that count (see `StoredTable`)."""
    names, table = decoded.names, decoded.table
    file_N = np.repeat(np.arange(len(names)), decoded.rows)
    runs = table.groups(*RUN)
    if len(runs) == len(table):
        return StoredTable(part, table, names, file_N, {}, unreadable)
    # One number for each run of each file.
    held_P = pd.unique(file_N * len(runs) + runs.codes_N)
    held_files_P, held_runs_P = np.divmod(held_P, max(1, len(runs)))
    is_repeated_P = np.bincount(held_runs_P, minlength=len(runs))[held_runs_P] > 1
    chosen_G = np.full(len(runs), -1)
    copies: dict[str, str] = {}
    files_of_run: dict[int, list[int]] = {}
    for file, run in zip(held_files_P[is_repeated_P].tolist(), held_runs_P[is_repeated_P].tolist(), strict=True):
        files_of_run.setdefault(run, []).append(file)
    run_ids = table.take(runs.first_G[list(files_of_run)]).values("run_id")
    for (run, files), run_id in zip(files_of_run.items(), run_ids, strict=True):
        chosen_G[run], of_run = _chosen(run_id, {names[file]: file for file in files})
        copies |= of_run
    counted_N = (chosen_G[runs.codes_N] == file_N) | (chosen_G[runs.codes_N] < 0)
    counted_names = {names[file] for file in pd.unique(file_N[counted_N]).tolist()}
    copies = {name: copies[name] for name in names if name in copies and name not in counted_names}
    return StoredTable(part, table.filter(counted_N), names, file_N[counted_N], copies, unreadable)


def _chosen(run_id: str, files: Mapping[str, int]) -> tuple[int, dict[str, str]]:
    """Return the file with the rows of a run that count, and the run by the names of its copies.

    Args:
        run_id: Id of the run.
        files: The files with rows of the run, by name.
    """
    own = [name for name in files if stem(name) == run_id]
    counted = own[0] if own else min(files, key=lambda name: (not is_compacted(name), name))
    copies = {name: run_id for name in files if name != counted and not (own and is_compacted(name))}
    return files[counted], copies
