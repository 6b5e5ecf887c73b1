"""Rows as columns: the same rows, groups and order as those of mappings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sweeps.storage.row_table import RowTable

ROWS = [
    {"arm": "b", "seed": 1, "nll": 2.5},
    {"arm": None, "seed": 0, "nll": None},
    {"arm": "a", "seed": 1, "nll": 1.0},
    {"arm": "b", "seed": None, "nll": 3.5},
    {"arm": "b", "seed": 1, "nll": 4.0},
]


@pytest.fixture(params=["plain", "dictionary", "chunks"])
def table(request: pytest.FixtureRequest) -> RowTable:
    """The rows, with texts as such, each text once, and in chunks with dictionaries of their own."""
    plain = RowTable.of(ROWS)
    if request.param == "plain":
        return plain
    encoded = plain.with_column("arm", plain.column("arm").dictionary_encode())
    if request.param == "dictionary":
        return encoded
    halves = [RowTable.of(rows) for rows in (ROWS[:2], ROWS[2:])]
    return RowTable(pa.concat_tables([h.with_column("arm", h.column("arm").dictionary_encode()).table for h in halves]))


def test_it_is_a_sequence_of_the_rows(table):
    assert list(table) == ROWS
    assert (table[0], table[-1], list(table[1:3])) == (ROWS[0], ROWS[-1], ROWS[1:3])
    assert ROWS[2] in table
    with pytest.raises(IndexError):
        table[5]


def test_columns(table):
    assert table.values("arm") == ["b", None, "a", "b", "b"]
    assert table.values("missing") == [None] * 5
    np.testing.assert_array_equal(table.floats("nll"), [2.5, np.nan, 1.0, 3.5, 4.0])
    assert np.isnan(table.floats("missing")).all()
    assert table.ints("seed").tolist() == [1, 0, 1, -1, 1]
    assert table.is_in("arm", ("a", "c")).tolist() == [False, False, True, False, False]
    codes, texts = table.codes("arm")
    assert (codes.tolist(), texts) == ([0, 1, 2, 0, 0], ["b", None, "a"])


def test_groups_are_in_the_order_of_their_first_rows(table):
    groups = table.groups("arm", "seed")
    assert [positions.tolist() for positions in groups] == [[0, 4], [1], [2], [3]]
    assert groups.first_G.tolist() == [0, 1, 2, 3]
    by_size = [(numbers.tolist(), positions.tolist()) for numbers, positions in groups.by_size()]
    assert by_size == [([1, 2, 3], [[1], [2], [3]]), ([0], [[0, 4]])]
    assert len(RowTable.of([]).groups("arm")) == 0


def test_it_is_sorted_like_a_list(table):
    named = table.filter(np.array([row["arm"] is not None for row in ROWS]))
    expected = sorted((row for row in ROWS if row["arm"] is not None), key=lambda row: (row["arm"], row["seed"] or 0))
    assert list(named.sorted_by("arm", "seed")) == expected
