"""Checks of the rows of stored files: identifiers, columns with JSON, and types."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweeps.storage.column_checks import CHECKS, is_run_id
from sweeps.storage.parquet import UNREADABLE, DamagedFileError, decode_table
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import RUN_KEYS

__all__ = ["RUN", "DecodedFiles", "decode_files", "decode_rows", "decode_runs"]

ALWAYS = frozenset({*RUN_KEYS, "attempt", "status", "epoch", "step"})
"""Columns that a row always has, because they identify it or are checked."""

RUN = ("config_id", "seed")
"""Columns that follow from `run_id`, and by which runs are compared much faster."""

TEXT = pa.dictionary(pa.int32(), pa.string())
"""Type of a column of texts in memory: each different text once."""

TIMES = tuple(pa.scalar(datetime(year, 1, 2, tzinfo=UTC), pa.timestamp("us", tz="UTC")) for year in (1, 9999))
"""The first and the last time that Python can represent in every time zone."""

BATCH_FILES = 256
"""Number of files of single runs that are checked together."""

MAX_SEED = 10**16 - 1
"""Largest seed that a `run_id` can contain."""


@dataclass(frozen=True)
class DecodedFiles:
    """The rows of several files.

    Args:
        table: The rows, in the order of the files.
        names: Names of the files that can be read.
        rows: Number of rows of each of these files.
        unreadable: Reasons by the names of the files that cannot be read.
    """

    table: RowTable
    names: Sequence[str]
    rows: Sequence[int]
    unreadable: Mapping[str, str]

    def replaced(self, kept: Collection[str], others: DecodedFiles) -> DecodedFiles:
        """Return the files `kept` of these, followed by others."""
        is_kept_F = np.array([name in kept for name in self.names], dtype=bool)
        table = self.table.filter(np.repeat(is_kept_F, self.rows))
        names = [*(name for name in self.names if name in kept), *others.names]
        rows = [*(rows for name, rows in zip(self.names, self.rows, strict=True) if name in kept), *others.rows]
        return DecodedFiles(RowTable(_concatenated([table.table, others.table.table])), names, rows, others.unreadable)


def decode_files(
    files: Iterable[tuple[str, bytes]],
    schema: pa.Schema,
    only: Collection[str] | None = None,
    *,
    several_runs: Callable[[str], bool],
) -> DecodedFiles:
    """Return the rows of files of a table, with the columns of `schema`.

    Columns of `schema` that the files lack are null. Other columns of the files, such as those of a plugin that is not
    loaded, follow those of `schema`. NaN and infinity, which lagvae never writes, are null.

    Args:
        files: Name and content of each file. It holds one row per run, or one row per run and epoch if the table has a
            column `epoch`.
        schema: Columns of the table.
        only: Names of the columns that the rows have, besides those that identify them; None for all.
        several_runs: Whether the file of a name may hold the rows of several runs.
    """
    names = [name for name in schema.names if only is None or name in only or name in ALWAYS]
    with ThreadPoolExecutor(pa.cpu_count()) as threads:
        decoder = _Decoder(schema, names, threads, all_columns=only is None)
        for name, content in files:
            decoder.add(name, content, several_runs=several_runs(name))
        return decoder.end()


def decode_rows(
    content: bytes, schema: pa.Schema, only: Collection[str] | None = None, *, several_runs: bool = False
) -> list[dict[str, Any]]:
    """Return the rows of one file of a table as mappings; see `decode_files`.

    Raises:
        DamagedFileError: The file is damaged, or was not written by lagvae.
    """
    decoded = decode_files([("", content)], schema, only, several_runs=lambda name: several_runs)
    for reason in decoded.unreadable.values():
        raise DamagedFileError(reason)
    return list(decoded.table)


def decode_runs(content: bytes, schema: pa.Schema) -> pa.Table:
    """Return the table of a file that may hold the rows of several runs, after the same checks as `decode_files`.

    Raises:
        DamagedFileError: The file is damaged, or was not written by lagvae.
    """
    table = decode_table(content)
    _checked(table, schema, schema.names, [table.num_rows], several_runs=True)
    return table


@dataclass
class _Decoded:
    """The rows of some files, after all checks, and why others cannot be read; see `DecodedFiles`."""

    tables: list[pa.Table] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, others: _Decoded) -> None:
        """Add other files after these."""
        self.tables += others.tables
        self.rows |= others.rows
        self.unreadable |= others.unreadable


class _Decoder:
    """Decodes files in threads, while the next ones are read.

    Files of single runs are checked together, because each check takes as long for one as for many.

    Args:
        schema: Columns of the table.
        names: Names of the columns of `schema` that the rows have.
        threads: The threads.
        all_columns: Whether the rows also have the columns that `schema` does not know.
    """

    def __init__(self, schema: pa.Schema, names: Sequence[str], threads: Executor, *, all_columns: bool) -> None:
        self._schema, self._names, self._all_columns = schema, names, all_columns
        self._texts = [name for name in names if _in_memory(schema.field(name)).type == TEXT]
        self._threads = threads
        self._waiting: dict[str, bytes] = {}
        self._decoding: deque[Future[_Decoded]] = deque()
        self._decoded = _Decoded()

    def add(self, name: str, content: bytes, *, several_runs: bool) -> None:
        """Decode a file. One of a single run waits for others."""
        if several_runs:
            self._submit(self._decode_compacted, name, content)
            return
        self._waiting[name] = content
        if len(self._waiting) == BATCH_FILES:
            self._decode_waiting()

    def end(self) -> DecodedFiles:
        """Return the rows of all files."""
        self._decode_waiting()
        while self._decoding:
            self._take_decoded()
        decoded = self._decoded
        empty = pa.schema([_in_memory(self._schema.field(name)) for name in self._names]).empty_table()
        known = RowTable(_concatenated([empty, *decoded.tables])).with_joined_texts()
        return DecodedFiles(known, list(decoded.rows), list(decoded.rows.values()), decoded.unreadable)

    def _decode_waiting(self) -> None:
        files, self._waiting = self._waiting, {}
        if files:
            self._submit(self._decode_single_runs, files)

    def _submit(self, decode: Callable[..., _Decoded], *arguments: Any) -> None:
        """Let a thread decode files, and hold no more contents of files in memory than threads can decode."""
        self._decoding.append(self._threads.submit(decode, *arguments))
        if len(self._decoding) > pa.cpu_count():
            self._take_decoded()

    def _take_decoded(self) -> None:
        self._decoded.add(self._decoding.popleft().result())

    def _decode_compacted(self, name: str, content: bytes) -> _Decoded:
        try:
            table = self._columns(content, self._texts)
            table = _checked(table, self._schema, self._names, [table.num_rows], several_runs=True)
        except DamagedFileError as error:
            return _Decoded(unreadable={name: str(error)})
        return _Decoded([table], {name: table.num_rows})

    def _decode_single_runs(self, files: Mapping[str, bytes]) -> _Decoded:
        tables: dict[str, pa.Table] = {}
        decoded = _Decoded()
        for name, content in files.items():
            try:
                tables[name] = self._columns(content)
            except DamagedFileError as error:
                decoded.unreadable[name] = str(error)
        if tables:
            self._check(tables, decoded)
        return decoded

    def _columns(self, content: bytes, dictionaries: Sequence[str] = ()) -> pa.Table:
        only = None if self._all_columns else self._names
        return decode_table(content, null_columns=False, only=only, dictionaries=dictionaries)

    def _check(self, files: Mapping[str, pa.Table], decoded: _Decoded) -> None:
        """Add the rows of files that are valid. If one of several is not, check each alone."""
        rows = {name: table.num_rows for name, table in files.items()}
        try:
            table = _checked(_joined(files), self._schema, self._names, list(rows.values()), several_runs=False)
        except DamagedFileError as error:
            if len(files) == 1:
                decoded.unreadable |= dict.fromkeys(files, str(error))
                return
            for name, alone in files.items():
                self._check({name: alone}, decoded)
            return
        decoded.add(_Decoded([table], rows))


def _joined(files: Mapping[str, pa.Table]) -> pa.Table:
    """Return the tables as one. Columns that a table lacks are null."""
    if len(files) == 1:
        return next(iter(files.values()))
    try:
        return pa.concat_tables(list(files.values()), promote_options="default").combine_chunks()
    except UNREADABLE as error:
        raise DamagedFileError(f"their columns differ: {error}") from None


def _checked(
    table: pa.Table, schema: pa.Schema, names: Collection[str], rows: Sequence[int], *, several_runs: bool
) -> pa.Table:
    """Return the table of one or more files with the types of `schema`, after all checks.

    Args:
        table: The rows of the files, one file after the other.
        schema: Columns of the table.
        names: Names of the columns that the rows must have.
        rows: Number of rows of each file.
        several_runs: Whether a file may hold the rows of several runs.

    Raises:
        DamagedFileError: A file is damaged, or was not written by lagvae.
    """
    try:
        table.validate(full=True)
        if len(set(table.schema.names)) < table.num_columns:
            raise ValueError("a column occurs twice")
        fields = {field.name: field for field in schema}
        columns = {
            name: _conformed(table[name], fields.get(name, table.schema.field(name))) for name in table.schema.names
        }
    except UNREADABLE as error:
        raise DamagedFileError(f"its columns cannot be read: {error}") from None
    table = pa.table(columns)
    for name, check in CHECKS.items():
        present = name in columns
        if (present or name in names) and not check(columns[name] if present else pa.nulls(1)):
            raise DamagedFileError(f"its column {name} is missing or invalid")
    keys = RowTable(table)
    _check_run_ids(keys)
    if not _hold_runs(keys, rows, several_runs=several_runs):
        raise DamagedFileError("it does not hold the rows of one run")
    return table


def _hold_runs(keys: RowTable, rows: Sequence[int], *, several_runs: bool) -> bool:
    """Return whether each file holds the rows of one run, or of several, and no epoch twice; see `_checked`."""
    runs = keys.groups(*RUN)
    if 0 in rows or len(runs) == len(keys):  # most tables of runs have one row per run
        return 0 not in rows and (several_runs or len(rows) == len(keys))
    file_N = np.repeat(np.arange(len(rows)), rows)
    runs_of_files = RowTable(pa.table({"file": file_N, "run": runs.codes_N})).groups("file", "run")
    epochs = RowTable(pa.table({"run": runs_of_files.codes_N, "epoch": keys.column("epoch")})).groups("run", "epoch")
    return len(epochs) == len(keys) and (several_runs or len(runs_of_files) == len(rows))


def _check_run_ids(rows: RowTable) -> None:
    """Raise a DamagedFileError unless each `run_id` is that of its `config_id` and seed, which are valid."""
    if "run_id" not in rows.table.schema.names:
        raise DamagedFileError("its column run_id is missing or invalid")
    run_ids, config_ids = (rows.column(name).cast(pa.string()) for name in ("run_id", "config_id"))
    expected = pc.binary_join_element_wise(config_ids, rows.column("seed").cast(pa.string()), "-")
    if not pc.all(pc.equal(run_ids, expected), min_count=0).as_py() or rows.ints("seed").max(initial=0) > MAX_SEED:
        if all(map(is_run_id, run_ids.to_pylist())):
            raise DamagedFileError("its run_id is not that of its config_id and seed")
        raise DamagedFileError("its column run_id is missing or invalid")


def _conformed(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column with the type of `field` in memory, and null in place of NaN and infinity.

    Raises:
        ArrowException: The values cannot be converted.
    """
    kind = _in_memory(field).type
    if column.type != kind:
        column = column.cast(field.type)
        column = column.dictionary_encode() if kind == TEXT else column
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        low, high = (bound.cast(kind) for bound in TIMES)
        if not pc.all(pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high)), min_count=0).as_py():
            raise ValueError(f"{field.name} has a time before the year 1 or after 9999")
    if pa.types.is_floating(kind):
        is_finite = pc.is_finite(column)
        if not pc.all(is_finite, min_count=0).as_py():
            return pc.if_else(is_finite, column, pa.scalar(None, kind))
    elif pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        is_finite = pc.is_finite(pc.list_flatten(column))
        if not pc.all(is_finite, min_count=0).as_py():
            return pa.chunked_array([pa.array(map(_finite_list, column.to_pylist()), kind)])
    return column


def _finite_list(values: list[float | None] | None) -> list[float | None] | None:
    """Replace a list with null if a number in it is NaN or infinity."""
    return None if any(value is not None and not math.isfinite(value) for value in values or ()) else values


def _in_memory(field: pa.Field) -> pa.Field:
    """Return a field with the type of its column in memory. Every `run_id` is different, so it stays as it is."""
    text = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
    return pa.field(field.name, TEXT) if is_text and field.name != "run_id" else field


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Return tables as one. A column that has a type of its own in some of them, which no type covers, becomes text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        types: dict[str, set[pa.DataType]] = {}
        for field in (field for table in tables for field in table.schema if not pa.types.is_null(field.type)):
            types.setdefault(field.name, set()).add(field.type)
        mixed = {name for name, of_name in types.items() if len(of_name) > 1}
        return pa.concat_tables([_with_texts(table, mixed) for table in tables], promote_options="default")


def _with_texts(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names.intersection(table.schema.names):
        texts = [None if value is None else str(value) for value in table[name].to_pylist()]
        table = table.set_column(table.schema.names.index(name), name, pa.array(texts).cast(TEXT))
    return table
