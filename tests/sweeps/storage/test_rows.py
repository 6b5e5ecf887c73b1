"""Rows of a stored file: identifiers, JSON and types are checked before anything uses them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from sweeps.storage.parquet import DamagedFileError, encode_table
from sweeps.storage.rows import decode_files, decode_rows
from sweeps.storage.schema import CURVES_SCHEMA, runs_schema

A = "a" * 12
RUN = {"sweep": "s", "arm": "vae", "run_id": f"{A}-0", "config_id": A, "seed": 0, "attempt": 1, "status": "finished"}
EPOCH = {name: RUN[name] for name in ("sweep", "arm", "run_id", "config_id", "seed")} | {"epoch": 1, "step": 4}


def decoded(*rows: dict[str, Any], schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    schema = runs_schema() if schema is None else schema
    names = [name for name in schema.names if any(name in row for row in rows)]
    table = pa.Table.from_pylist(list(rows), pa.schema([schema.field(name) for name in names]))
    return decode_rows(encode_table(table), schema)


def test_a_row_has_all_columns():
    (row,) = decoded(RUN)
    assert list(row) == runs_schema().names
    assert {name: row[name] for name in RUN} == RUN


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("run_id", "../../../x"),
        ("run_id", f"{A}-1"),
        ("run_id", None),
        ("config_id", "b" * 12),
        ("config_id", "A" * 12),
        ("sweep", "../s"),
        ("arm", "\x1b[31mvae"),
        ("arm", "a\u202eb"),
        ("arm", ""),
        ("seed", -1),
        ("status", "done"),
        ("attempt", None),
        ("configuration", -1),
        ("threads", 0),
        ("history", "[1]"),
        ("history", "[{}]"),
        ("warnings", "{}"),
        ("parameters", "[]"),
        ("parameters", '{"a": [1]}'),
        ("parameters", '{"a": NaN}'),
        ("config", "[" * 100_000),
        ("config", "{bad"),
        ("plugins", "{bad"),
        ("plugins", '{"../x.py": "' + "0" * 64 + '"}'),
        ("plugins", '{"x.py": "../../x"}'),
    ],
)
def test_an_invalid_value(column, value):
    with pytest.raises(DamagedFileError):
        decoded(RUN | {column: value})


@pytest.mark.parametrize("rows", [[], [RUN, RUN], [RUN, RUN | {"run_id": f"{A}-1", "seed": 1}]])
def test_a_file_holds_one_run(rows):
    with pytest.raises(DamagedFileError):
        decoded(*rows)


def test_a_file_of_a_curve_holds_one_row_per_epoch():
    epochs = [EPOCH, EPOCH | {"epoch": 2, "step": 8}]
    assert [row["epoch"] for row in decoded(*epochs, schema=CURVES_SCHEMA)] == [1, 2]
    with pytest.raises(DamagedFileError):
        decoded(EPOCH, EPOCH, schema=CURVES_SCHEMA)


def test_nan_and_infinity_are_null_also_in_lists():
    (row,) = decoded(RUN | {"nll_iw": float("nan"), "kl": float("-inf"), "mean_variance": [1.0, float("nan")]})
    assert (row["nll_iw"], row["kl"], row["mean_variance"]) == (None, None, None)


@pytest.mark.parametrize("values", [pa.array([14.0], pa.float32()), pa.array([14], pa.int32()), pa.array(["14.0"])])
def test_columns_of_another_type_are_cast(values):
    table = pa.Table.from_pylist([RUN]).append_column("nll_iw", values)
    assert decode_rows(encode_table(table), runs_schema())[0]["nll_iw"] == 14.0


def test_other_forms_of_strings_are_cast():
    table = pa.Table.from_pylist([RUN])
    kinds = {"arm": pa.large_string(), "sweep": pa.dictionary(pa.int32(), pa.string())}
    for name, kind in kinds.items():
        table = table.set_column(table.schema.names.index(name), name, table[name].cast(kind))
    assert decode_rows(encode_table(table), runs_schema())[0]["arm"] == "vae"


@pytest.mark.parametrize(
    "values",
    [pa.array(["many"]), pa.array([[1.0]]), pa.array([b"\xff\xfe"]), pa.array([{"a": 1}]), pa.array([1.5e300])],
)
def test_columns_that_cannot_be_cast(values):
    table = pa.Table.from_pylist([RUN]).append_column("au", values)
    with pytest.raises(DamagedFileError):
        decode_rows(encode_table(table), runs_schema())


def test_text_that_is_not_utf8():
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.Table.from_pylist([RUN]).append_column("host", text)
    with pytest.raises(DamagedFileError):
        decode_rows(encode_table(table), runs_schema())


def test_a_time_that_python_cannot_represent():
    time = pa.array([2**62], pa.timestamp("us", tz="UTC"))
    table = pa.Table.from_pylist([RUN]).append_column("started_at", time)
    with pytest.raises(DamagedFileError):
        decode_rows(encode_table(table), runs_schema())


def test_a_column_that_occurs_twice():
    table = pa.Table.from_pylist([RUN]).append_column("arm", pa.array(["vae"]))
    with pytest.raises(DamagedFileError):
        decode_rows(encode_table(table), runs_schema())


class TestSeveralFiles:
    """Files of single runs are checked together."""

    @staticmethod
    def files(*rows: dict[str, Any], column: Any = None) -> list[tuple[str, bytes]]:
        tables = [pa.Table.from_pylist([row]) for row in rows]
        tables = [t.append_column("extra", pa.array([column[i]])) if column else t for i, t in enumerate(tables)]
        return [(f"{number}.parquet", encode_table(table)) for number, table in enumerate(tables)]

    @staticmethod
    def decoded(files: list[tuple[str, bytes]]) -> Any:
        return decode_files(files, runs_schema(), several_runs=lambda name: False)

    def test_only_the_invalid_ones_are_left_out(self):
        other = RUN | {"run_id": f"{A}-1", "seed": 1}
        found = self.decoded([*self.files(RUN, RUN | {"status": "done"}, other), ("x.parquet", b"PAR1")])
        assert found.table.values("run_id") == [f"{A}-0", f"{A}-1"]
        assert (list(found.names), list(found.rows)) == (["0.parquet", "2.parquet"], [1, 1])
        assert "status" in found.unreadable["1.parquet"]
        assert set(found.unreadable) == {"1.parquet", "x.parquet"}

    def test_a_run_may_have_a_copy_but_a_file_may_not_have_two_runs(self):
        two = pa.Table.from_pylist([RUN, RUN | {"run_id": f"{A}-1", "seed": 1}])
        found = self.decoded([*self.files(RUN, RUN), ("two.parquet", encode_table(two))])
        assert list(found.rows) == [1, 1]
        assert set(found.unreadable) == {"two.parquet"}

    @pytest.mark.parametrize(
        ("column", "values"), [((1, 2.5), [1.0, 2.5]), ((1, "x"), ["1", "x"]), (("x", "y"), ["x", "y"])]
    )
    def test_a_column_of_a_plugin_may_have_several_types(self, column, values):
        found = self.decoded(self.files(RUN, RUN, column=column))
        assert found.table.values("extra") == values
        assert found.table.table.schema.names[-1] == "extra"
