"""Small Parquet files with a checksum of the whole file, so that damage is never read as a different value."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["UNREADABLE", "DamagedFileError", "decode_table", "encode_table"]

KEY = b"lagvae_sha256"
"""Key of the checksum in the metadata of a file. Its value is the SHA-256 of the file with zeros as the value."""

ZEROS = b"0" * 64

WITHOUT_CHECKSUM = (None, b"1")
"""Versions of the schema (`lagvae_schema` in the metadata) whose files have no checksum."""

UNREADABLE = (pa.ArrowException, ArithmeticError, LookupError, OSError, ValueError)
"""Exceptions that Arrow raises if it reads a damaged file or converts its values."""


class DamagedFileError(ValueError):
    """The content is not a complete, unchanged Parquet file."""


def encode_table(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file with a checksum.

    Each page has a checksum of its own, which other readers can verify. Those checksums do not cover the metadata.
    """
    buffer = pa.BufferOutputStream()
    # Each file has only a few rows. Dictionaries and statistics of its columns would be useless and take a third of
    # the file, and setting up a stronger compression for each column would double the time to read the file.
    with pq.ParquetWriter(
        buffer,
        table.schema,
        compression="snappy",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: ZEROS})
    content: bytes = buffer.getvalue().to_pybytes()
    start = _checksum_start(content)
    assert start is not None
    assert content[start : start + len(ZEROS)] == ZEROS
    return content[:start] + _checksum(content, start) + content[start + len(ZEROS) :]


def decode_table(content: bytes) -> pa.Table:
    """Return the table of a Parquet file, after comparing the file with its checksum.

    Files of earlier versions of lagvae and of other programs have no checksum.

    Raises:
        DamagedFileError: The file is damaged, or was changed after it was written.
    """
    start = _checksum_start(content)
    if start is not None and content[start : start + len(ZEROS)] != _checksum(content, start):
        raise DamagedFileError("its content does not match its checksum")
    try:
        # The files are so small that starting threads would take as long as reading.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DamagedFileError(f"it is not a readable Parquet file: {reason}") from None
    if start is None and (table.schema.metadata or {}).get(b"lagvae_schema") not in WITHOUT_CHECKSUM:
        raise DamagedFileError("its checksum is missing")
    return table


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
