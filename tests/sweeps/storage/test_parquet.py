"""The checksum of a Parquet file: every change of the file is noticed."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.storage.parquet import KEY, DamagedFileError, decode_table, encode_table

TABLE = pa.table(
    {"run_id": ["a"], "nll_iw": [14.25], "au": pa.array([None], pa.int64()), "warnings": ['["ä"]']}
).replace_schema_metadata({"lagvae_schema": "2"})
CONTENT = encode_table(TABLE)


def plain(table: pa.Table) -> bytes:
    """Return a file as other programs and earlier versions of lagvae write it."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


def test_a_table_is_read_as_it_was_written():
    assert decode_table(CONTENT).equals(TABLE)


@pytest.mark.parametrize("write", [encode_table, plain])
def test_columns_that_hold_only_nulls_can_be_left_out(write):
    columns = {
        "free_bits.floor": pa.array([None, None], pa.float64()),
        "floor": pa.array([None, 0.5]),
        "free_bits": pa.array([False, None]),
        "text": pa.array([None, None], pa.string()),
        "empty": pa.array(["", None]),
        "list": pa.array([None, None], pa.list_(pa.float64())),
        "lists": pa.array([[1.0, 2.0], None], pa.list_(pa.float64())),
        "empty_list": pa.array([[], None], pa.list_(pa.float64())),
        "list_of_null": pa.array([[None], None], pa.list_(pa.float64())),
    }
    table = pa.table(columns)
    decoded = decode_table(write(table), null_columns=False)
    assert decoded.column_names == [name for name in columns if name not in ("free_bits.floor", "text")]
    assert decoded.equals(table.select(decoded.column_names).replace_schema_metadata(decoded.schema.metadata))


def test_row_groups_keep_all_columns():
    """In the first row group, the column `text` holds only nulls."""
    table = pa.table({"text": pa.array([None, "a"])})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=1)
    assert decode_table(buffer.getvalue().to_pybytes(), null_columns=False).equals(table)


def test_other_readers_can_verify_the_pages():
    assert pq.ParquetFile(pa.BufferReader(CONTENT), page_checksum_verification=True).read().equals(TABLE)


def test_no_changed_byte_changes_a_value():
    """Pages, metadata and the checksum itself: each position is changed once."""
    draw = random.Random(0)
    for position in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[position] ^= 1 << draw.randrange(8)
        with pytest.raises(DamagedFileError):
            decode_table(bytes(damaged))


@pytest.mark.parametrize("length", [0, 4, 100, len(CONTENT) - 1])
def test_a_truncated_file(length):
    with pytest.raises(DamagedFileError):
        decode_table(CONTENT[:length])


def test_appended_bytes():
    with pytest.raises(DamagedFileError):
        decode_table(CONTENT + b"PAR1")


@pytest.mark.parametrize("metadata", [None, {"lagvae_schema": "1"}])
def test_a_file_of_an_earlier_version_has_no_checksum(metadata):
    table = TABLE.replace_schema_metadata(metadata)
    content = plain(table)
    assert KEY not in content
    assert decode_table(content).equals(table)


def test_a_file_of_this_version_without_checksum():
    with pytest.raises(DamagedFileError, match="missing"):
        decode_table(plain(TABLE))
