"""Compaction: the rows of many runs move from files of their own into few compacted files, and back.

On a local disk, the new folder is prepared under a temporary name and exchanged with the old one in one step, so that
no Parquet reader sees a row twice at any moment. lagvae's reader also misses none; one that ignores files which vanish
while it lists the folder (DuckDB, Arrow) can miss rows in that moment. Where two folders cannot be exchanged (object
stores, most network file systems), the compacted files are written before the other files are removed. Until then both
exist, and lagvae's reader counts each run once (`ResultsFolder.read_table`), but other readers see rows twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweeps.storage.identifiers import RUN_ID
from sweeps.storage.parquet import DamagedFileError, decode_table, encode_table
from sweeps.storage.row_table import RowTable
from sweeps.storage.rows import decode_files, decode_runs
from sweeps.storage.schema import CURVES_SCHEMA, runs_schema
from sweeps.storage.table import ResultsFolder, is_compacted, stem

__all__ = ["FINAL", "CompactedPart", "compact", "exchange_folders", "files_of_runs", "remove_old_folder", "split"]

FINAL = frozenset({"finished", "stopped_early", "diverged"})
"""Statuses of runs that are compacted, because no driver writes their rows again."""

FILE_BYTES = 32 * 2**20
"""Size in memory from which a compacted file is complete [bytes]."""

BATCH_FILES = 1024
"""Number of files of single runs whose rows are joined at once."""


@dataclass(frozen=True)
class CompactedPart:
    """The compaction of one table.

    Args:
        part: Name of the subfolder.
        before: Number of its files before the compaction.
        after: Number of its files after it.
        unknown: Files that stay, because they have columns that the schema does not know.
    """

    part: str
    before: int
    after: int
    unknown: Sequence[str]


def compact(folder: ResultsFolder) -> list[CompactedPart]:
    """Compact the tables of runs and curves. Only the rows of runs with a `FINAL` status are compacted.

    Files that cannot be read, copies of rows, and files with unknown columns stay as they are. If there is nothing to
    compact, nothing is written.

    Args:
        folder: Folder of the sweep, which this process must have locked.

    Raises:
        StoreError: A file cannot be read, written or removed. No row is lost; compacting again completes the work.
    """
    runs = _Compaction(folder, "runs", runs_schema())
    parts = [runs.run(lambda rows: rows.is_in("status", FINAL))]
    final = runs.final_runs()
    curves = _Compaction(folder, "curves", CURVES_SCHEMA)
    return [*parts, curves.run(lambda rows: rows.is_in("run_id", final))]


def split(folder: ResultsFolder, run_ids: Collection[str]) -> None:
    """Move the rows of runs from compacted files to files of their own.

    Args:
        folder: Folder of the sweep, which this process must have locked.
        run_ids: Ids of the runs.

    Raises:
        StoreError: A file cannot be read or written. No row is lost.
    """
    for part, schema in _tables():
        for name in filter(is_compacted, folder.table_files(part)):
            try:
                table = decode_runs(folder.read(name) or b"", schema)
            except DamagedFileError:
                continue
            found = sorted(_run_ids(table).intersection(run_ids))
            for run_id in found:
                if not folder.holds(own := f"{part}/{run_id}.parquet"):
                    folder.write_table(own, _of_runs(table, [run_id]))
            if found:
                rest = _of_runs(table, found, inverted=True)
                if rest.num_rows:
                    content = encode_table(rest)
                    folder.write(f"{part}/{_name_of(content)}", content)
                folder.remove(name)


def files_of_runs(
    folder: ResultsFolder, part: str, schema: pa.Schema, run_ids: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield the id of each run that has rows in the subfolder `part`, and the content of a file with these rows alone.

    Args:
        folder: Folder of a sweep.
        part: Name of the subfolder.
        schema: Columns of the table.
        run_ids: Ids of the runs.

    Raises:
        StoreError: A file cannot be read.
    """
    for name, held in folder.read_table(part, schema, []).files.items():
        found = sorted(set(held).intersection(run_ids))
        content = folder.read(name) if found else None
        if content is not None and is_compacted(name):
            table = decode_runs(content, schema)
            yield from ((run_id, encode_table(_of_runs(table, [run_id]))) for run_id in found)
        elif content is not None:
            yield found[0], content


def exchange_folders(first: Path, second: Path) -> None:
    """Exchange two folders in one step, which neither a reader nor a kill can divide.

    Raises:
        OSError: The system or the file system has no such step. Nothing has changed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    here, exchange = ctypes.c_int(-100), ctypes.c_uint(2)  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if rename(here, os.fsencode(first), here, os.fsencode(second), exchange) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def remove_old_folder(old: Path, new: Path) -> None:
    """Remove a folder that was exchanged with `new`.

    A reader may have opened the folder before the exchange and list it during the removal. It then opens the files by
    names in `new`. Hence files that also exist there are removed first: as long as the list is incomplete, it contains
    a file that does not exist, and the reader fails instead of missing rows.
    """
    with contextlib.suppress(OSError):
        kept = set(os.listdir(new))
        for name in sorted(os.listdir(old), key=lambda name: name not in kept):
            os.unlink(old / name)
    shutil.rmtree(old, ignore_errors=True)


def _tables() -> Iterator[tuple[str, pa.Schema]]:
    yield "runs", runs_schema()
    yield "curves", CURVES_SCHEMA


class _Compaction:
    """The compaction of one table. It holds the rows of one file at a time in memory.

    Args:
        folder: Folder of the sweep.
        part: Name of the subfolder.
        schema: Columns of the table.
    """

    def __init__(self, folder: ResultsFolder, part: str, schema: pa.Schema) -> None:
        self._folder, self._part, self._schema = folder, part, schema
        self._run_ids: set[str] = set()
        self._consumed: list[str] = []
        self._unknown: list[str] = []
        self._open: set[str] = set()

    def run(self, is_final: Callable[[RowTable], NDArray[np.bool_]]) -> CompactedPart:
        """Compact the rows of runs.

        Args:
            is_final: Returns a mask of the rows of runs that no driver writes again.
        """
        names = self._folder.table_files(self._part)
        compacted = list(filter(is_compacted, names))
        own = self._own_tables([name for name in names if RUN_ID.fullmatch(stem(name))], is_final)
        first = next(own, None)
        if first is not None or self._overlap(compacted):
            self._rewrite(itertools.chain([first] if first is not None else [], own), compacted)
        after = len(self._folder.table_files(self._part))
        return CompactedPart(self._part, len(names), after, self._unknown)

    def final_runs(self) -> set[str]:
        """Return the runs with compacted rows, unless a file of their own has a row that is not final."""
        final: set[str] = set()
        for _, content in self._folder.read_each(list(filter(is_compacted, self._folder.table_files(self._part)))):
            with contextlib.suppress(DamagedFileError):
                final |= _run_ids(decode_table(content or b"", only=["run_id"]))
        return final - self._open

    def _overlap(self, compacted: Sequence[str]) -> bool:
        """Return whether several compacted files have rows of one run, as a kill leaves them on some file systems."""
        seen: set[str] = set()
        for _, content in self._folder.read_each(compacted):
            with contextlib.suppress(DamagedFileError):
                run_ids = _run_ids(decode_table(content or b"", only=["run_id"]))
                if seen & run_ids:
                    return True
                seen |= run_ids
        return False

    def _rewrite(self, own: Iterable[pa.Table], compacted: Sequence[str]) -> None:
        local = self._folder.local_path
        place = self._part if local is None else f".{self._part}.tmp"
        if local is not None:
            shutil.rmtree(local / place, ignore_errors=True)
        written = []
        for table in _merged(itertools.chain(own, self._compacted_tables(compacted))):
            content = encode_table(table)
            written.append(_name_of(content))
            self._folder.write(f"{place}/{written[-1]}", content)
        if self._consumed and (local is None or not self._exchanged(local / place, local / self._part)):
            self._replace(place, written)
        if local is not None:
            remove_old_folder(local / place, local / self._part)

    def _own_tables(
        self, names: Sequence[str], is_final: Callable[[RowTable], NDArray[np.bool_]]
    ) -> Iterator[pa.Table]:
        """Yield the final rows of files of single runs. Such a file counts more than a compacted one."""
        for start in range(0, len(names), BATCH_FILES):
            contents = self._folder.read_each(names[start : start + BATCH_FILES])
            existing = ((name, content) for name, content in contents if content is not None)
            decoded = decode_files(existing, self._schema, several_runs=lambda name: False)
            rows, file_N = decoded.table, np.repeat(np.arange(len(decoded.names)), decoded.rows)
            own_F = np.array([stem(name) for name in decoded.names], dtype=object)
            is_taken_N = (own_F[file_N] == np.array(rows.values("run_id"), dtype=object)) & is_final(rows)
            self._open.update(own_F[np.unique(file_N[~is_taken_N])].tolist())
            unknown = [name for name in rows.table.schema.names if name not in self._schema.names]
            is_unknown_N = np.zeros(len(rows), dtype=bool)
            for name in unknown:
                is_unknown_N |= rows.column(name).is_valid().to_numpy()
            unknown_F = np.unique(file_N[is_unknown_N & is_taken_N])
            self._unknown += [decoded.names[file] for file in unknown_F.tolist()]
            is_taken_N &= ~np.isin(file_N, unknown_F)
            for file in np.unique(file_N[is_taken_N]).tolist():
                self._take(decoded.names[file], [own_F[file]])
            if is_taken_N.any():
                yield _with_schema(rows.filter(is_taken_N).table, self._schema)

    def _compacted_tables(self, compacted: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of compacted files that count."""
        for name, content in self._folder.read_each(compacted):
            try:
                table = decode_runs(content or b"", self._schema)
            except DamagedFileError:
                continue
            if set(table.schema.names).difference(self._schema.names):
                self._unknown.append(name)
                continue
            kept = _of_runs(table, self._run_ids, inverted=True)
            self._take(name, _run_ids(table))
            if kept.num_rows:
                yield _with_schema(kept, self._schema)

    def _take(self, name: str, run_ids: Iterable[str]) -> None:
        self._consumed.append(name)
        self._run_ids.update(run_ids)

    def _exchanged(self, staged: Path, folder: Path) -> bool:
        """Exchange the folder with the staged one, to which all other files are linked. Return whether this works."""
        consumed = {name.rpartition("/")[2] for name in self._consumed}
        try:
            kept = set(os.listdir(folder)) - consumed
            for name in kept:
                os.link(folder / name, staged / name, follow_symlinks=False)
            self._folder.guard()
            exchange_folders(staged, folder)
        except OSError:
            return False
        for name in set(os.listdir(staged)) - kept - consumed:
            os.rename(staged / name, folder / name)  # a file that another program has added in the meantime
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # before the old files are removed
        finally:
            os.close(descriptor)
        return True

    def _replace(self, place: str, written: Sequence[str]) -> None:
        """Put the written files in their place, and then remove those whose rows they hold.

        The compacted ones are removed first: as long as an outdated row may be in one of them, the file of its run
        counts.
        """
        kept = [f"{self._part}/{name}" for name in written]
        if place != self._part:
            for name in written:
                self._folder.move(f"{place}/{name}", f"{self._part}/{name}")
        for name in sorted(self._consumed, key=lambda name: not is_compacted(name)):
            if name not in kept:
                self._folder.remove(name)


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the tables joined to ones of at least `FILE_BYTES`, and then the rest."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(table.nbytes for table in waiting) >= FILE_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with all columns of `schema`. Those that an earlier version did not have are null."""
    names, rows = table.schema.names, table.num_rows
    arrays = [table[f.name].cast(f.type) if f.name in names else pa.nulls(rows, f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _run_ids(table: pa.Table) -> set[str]:
    return set(table["run_id"].unique().to_pylist())


def _of_runs(table: pa.Table, run_ids: Collection[str], *, inverted: bool = False) -> pa.Table:
    """Return the rows of some runs, or with `inverted` those of all others."""
    mask = pc.is_in(table["run_id"], value_set=pa.array(sorted(run_ids), pa.string()))
    return table.filter(pc.invert(mask) if inverted else mask)


def _name_of(content: bytes) -> str:
    """Return the name of a compacted file."""
    return f"compacted-{sha256(content).hexdigest()[:12]}.parquet"
