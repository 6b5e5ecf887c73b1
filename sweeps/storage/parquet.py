"""Parquet files with a checksum of the whole file, so that damage is never read as a different value."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["UNREADABLE", "DamagedFileError", "decode_table", "encode_table"]

KEY = b"lagvae_sha256"
"""Key of the checksum in the metadata of a file. Its value is the SHA-256 of the file with zeros as the value."""

ZEROS = b"0" * 64

WITHOUT_CHECKSUM = (None, b"1")
"""Versions of the schema (`lagvae_schema` in the metadata) whose files have no checksum."""

LIST = ".list."
"""What the path of a list in a file has between the names of the column and of its elements."""

MANY_ROWS = 1000
"""Number of rows from which a file is encoded for its size, and decoded in several threads."""

UNREADABLE = (pa.ArrowException, ArithmeticError, LookupError, OSError, ValueError)
"""Exceptions that Arrow raises if it reads a damaged file or converts its values."""


class DamagedFileError(ValueError):
    """The content is not a complete, unchanged Parquet file."""


def encode_table(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file with a checksum.

    Each page has a checksum of its own, which other readers can verify. Those checksums do not cover the metadata.
    """
    buffer = pa.BufferOutputStream()
    many = table.num_rows >= MANY_ROWS
    # The file of one run has only a few rows. Dictionaries and statistics of its values would be useless and take a
    # third of the file, and setting up a stronger compression for each column would double the time to read the file.
    # Statistics of the columns without values, two thirds of the row of a run, tell a reader that it need not decode
    # them.
    with pq.ParquetWriter(
        buffer,
        table.schema,
        compression="zstd" if many else "snappy",
        use_dictionary=many,
        write_statistics=many
        or [
            name
            for name, column in zip(table.schema.names, table.itercolumns(), strict=True)
            if column.null_count == table.num_rows
        ],
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({KEY: ZEROS})
    content: bytes = buffer.getvalue().to_pybytes()
    start = _checksum_start(content)
    assert start is not None
    assert content[start : start + len(ZEROS)] == ZEROS
    return content[:start] + _checksum(content, start) + content[start + len(ZEROS) :]


def decode_table(
    content: bytes,
    *,
    null_columns: bool = True,
    only: Collection[str] | None = None,
    dictionaries: Sequence[str] = (),
) -> pa.Table:
    """Return the table of a Parquet file, after comparing the file with its checksum.

    Files of earlier versions of lagvae and of other programs have no checksum.

    Args:
        content: The file.
        null_columns: Whether the table has the columns that hold only nulls according to their statistics. Decoding
            them takes as long as decoding values.
        only: Names of the columns that are decoded; None for all.
        dictionaries: Names of columns of texts whose different texts are decoded once. This saves time and memory in
            large files.

    Raises:
        DamagedFileError: The file is damaged, or was changed after it was written.
    """
    start = _checksum_start(content)
    if start is not None and content[start : start + len(ZEROS)] != _checksum(content, start):
        raise DamagedFileError("its content does not match its checksum")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(dictionaries))
        columns = None if null_columns else _columns_with_values(file.metadata)
        if only is not None:
            names = set(file.schema_arrow.names)
            paths = columns if columns is not None else _paths(file.metadata)
            columns = [path for path in paths if _column_of(path, names) in only]
        # Most files are so small that starting threads would take as long as reading.
        table = file.read(columns=columns, use_threads=file.metadata.num_rows >= MANY_ROWS)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DamagedFileError(f"it is not a readable Parquet file: {reason}") from None
    if start is None and (table.schema.metadata or {}).get(b"lagvae_schema") not in WITHOUT_CHECKSUM:
        raise DamagedFileError("its checksum is missing")
    return table


def _columns_with_values(metadata: pq.FileMetaData) -> list[str]:
    """Return the paths of the columns that may hold a value. Several row groups are not examined one by one."""
    if metadata.num_row_groups != 1:
        return _paths(metadata)
    group = metadata.row_group(0)
    chunks = [group.column(i) for i in range(metadata.num_columns)]
    return [chunk.path_in_schema for chunk in chunks if not _is_null(chunk)]


def _paths(metadata: pq.FileMetaData) -> list[str]:
    return [metadata.schema.column(i).path for i in range(metadata.num_columns)]


def _column_of(path: str, names: Collection[str]) -> str:
    """Return the name of the column with a path; a list has the path `name.list.element`."""
    return path if path in names else path.rpartition(LIST)[0]


def _is_null(column: pq.ColumnChunkMetaData) -> bool:
    """Return whether a column holds only nulls. An empty list counts as a null in the statistics of its column."""
    statistics = None if LIST in column.path_in_schema else column.statistics
    return statistics is not None and statistics.null_count == column.num_values


def _checksum_start(content: bytes) -> int | None:
    """Return the position of the checksum; None if the file has none."""
    position = content.rfind(KEY)
    # In the compact Thrift encoding of the metadata, two bytes separate a key from its value: field and length.
    return None if position < 0 else position + len(KEY) + 2


def _checksum(content: bytes, start: int) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(ZEROS)
    digest.update(view[start + len(ZEROS) :])
    return digest.hexdigest().encode()
