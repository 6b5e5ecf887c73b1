"""Random damage of stored files: a row is read as it was written, or it is not read."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import invoke
from fuzzing import BOUNDED
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import play, spec_of

from sweeps.storage.parquet import DamagedFileError, encode_table
from sweeps.storage.rows import decode_rows
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

ROWS = play(spec_of())[0]
TABLE = pa.Table.from_pylist([ROWS[0] | {"nll_iw": 14.25, "mean_variance": [0.5, 0.25]}], schema=runs_schema())
CONTENT = encode_table(TABLE)
STORED = decode_rows(CONTENT, runs_schema())


def without_checksum() -> bytes:
    """Return a file as version 0.1.0 wrote it."""
    buffer = pa.BufferOutputStream()
    table = TABLE.replace_schema_metadata({"lagvae_schema": "1"})
    pq.write_table(table, buffer, compression="snappy", use_dictionary=False, write_statistics=False)
    return buffer.getvalue().to_pybytes()


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """Return `content` after one to three damages: changed, lost, repeated or inserted bytes."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([1, 2, 16, 512, 4096, 2**20])))
        kind = draw(st.sampled_from(["flip", "zero", "lose", "repeat", "insert"]))
        middle = content[start:end]
        if kind == "flip":
            middle = bytes([middle[0] ^ (1 << draw(st.integers(0, 7)))]) + middle[1:] if middle else b"\x01"
        elif kind == "zero":
            middle = bytes(len(middle))
        elif kind == "lose":
            middle = b""
        elif kind == "repeat":
            middle = middle * 2
        else:
            middle = draw(st.binary(min_size=1, max_size=32)) + middle
        content = content[:start] + middle + content[end:]
    return content


VALUES = st.none() | st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans()


@BOUNDED
@given(damages(CONTENT))
def test_damage_is_never_read_as_another_value(content):
    with contextlib.suppress(DamagedFileError):
        assert decode_rows(content, runs_schema()) == STORED


@BOUNDED
@given(damages(without_checksum()))
def test_damage_of_a_file_without_checksum_is_no_other_exception(content):
    with contextlib.suppress(DamagedFileError):
        decode_rows(content, runs_schema())


def written(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    if not folder.exists():
        folder.prepare()
        folder.write("spec.yaml", spec_of().source.encode())
        for row in ROWS:
            folder.write_run(row)
    return folder


def check_verbs(tmp_path: Path, *verbs: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for verb in verbs:
            ended = invoke("results", verb, "tiny", folder=tmp_path)
            assert ended.returncode in (0, 2), ended
            assert "Traceback" not in ended.stderr


@pytest.mark.slow
@settings(BOUNDED, max_examples=100)
@given(content=damages(CONTENT))
def test_no_verb_fails_on_a_damaged_row(tmp_path, content):
    folder = written(tmp_path)
    folder.write(f"runs/{ROWS[0]['run_id']}.parquet", content)
    check_verbs(tmp_path, "show")


@pytest.mark.slow
@settings(BOUNDED, max_examples=100)
@given(changes=st.dictionaries(st.sampled_from(runs_schema().names), VALUES, min_size=1, max_size=5))
def test_no_verb_fails_on_a_row_with_any_values(tmp_path, changes: dict[str, Any]):
    folder = written(tmp_path)
    columns = {name: pa.array([value]) for name, value in (ROWS[0] | changes).items()}
    folder.write_table(f"runs/{ROWS[0]['run_id']}.parquet", pa.table(columns))
    check_verbs(tmp_path, "show", "pareto")
