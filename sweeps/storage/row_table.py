"""Rows as columns: what the analysis of large tables works with."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Groups", "RowTable"]

ROWS_AT_ONCE = 10_000
"""Number of rows that are converted to mappings at once."""


class RowTable(Sequence[dict[str, Any]]):
    """A sequence of rows that is stored as columns.

    As a sequence, it converts the rows to mappings, which takes a hundred times as long as reading columns. Texts are
    stored as dictionaries, each different text once.

    Args:
        table: The rows. No column occurs twice.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], names: Collection[str] | None = None) -> Self:
        """Return rows as a table. Those of a table are not copied.

        Args:
            rows: The rows.
            names: Names of the columns that are needed; None for all. A column that a row lacks is null.
        """
        if isinstance(rows, cls):
            return rows if names is None else rows.select(names)
        if names is None:
            names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
        return cls(pa.table(columns) if names else pa.table({"": pa.nulls(len(rows))}))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Self:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        position = range(len(self))[index]
        (row,) = self.take(np.array([position]))
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            part = self.table.slice(start, ROWS_AT_ONCE)
            names = part.schema.names
            for values in zip(*(_plain(column).to_pylist() for column in part.itercolumns()), strict=True):
                yield dict(zip(names, values, strict=True))

    def __contains__(self, row: object) -> bool:
        return any(row == other for other in self)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column; nulls if the rows lack it."""
        names = self.table.schema.names
        return self.table[name] if name in names else pa.chunked_array([pa.nulls(len(self))])

    def values(self, name: str) -> list[Any]:
        """Return the values of a column."""
        column = self.column(name)
        if not pa.types.is_dictionary(column.type):
            return list(column.to_pylist())
        codes_N, texts = self.codes(name)
        return [texts[code] for code in codes_N.tolist()]

    def floats(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers [N], with NaN in place of null."""
        column = self.column(name)
        if pa.types.is_null(column.type):
            return np.full(len(self), np.nan)
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)

    def ints(self, name: str, missing: int = -1) -> NDArray[np.int64]:
        """Return a column of whole numbers [N], with `missing` in place of null."""
        column = self.column(name).cast(pa.int64()).fill_null(missing)
        return np.asarray(column.to_numpy(), dtype=np.int64)

    def equals(self, name: str, value: str) -> NDArray[np.bool_]:
        """Return a mask [N] of the rows with a text in a column."""
        return self.is_in(name, [value])

    def is_in(self, name: str, values: Collection[str]) -> NDArray[np.bool_]:
        """Return a mask [N] of the rows with one of several texts in a column."""
        indices, dictionary = _encoded(self.column(name))
        is_wanted = pc.is_in(dictionary, pa.array(list(values), dictionary.type)).to_numpy(zero_copy_only=False)
        return np.append(is_wanted, False)[indices]  # the index of null is -1

    def codes(self, name: str) -> tuple[NDArray[np.int64], list[Any]]:
        """Return a number for each row, equal for equal values, and the values by number in order of appearance."""
        indices, dictionary = _encoded(self.column(name))
        codes_N, numbers = pd.factorize(indices)
        positions = pa.array(numbers, mask=numbers < 0)
        return codes_N.astype(np.int64), _plain(dictionary.take(positions)).to_pylist()

    def groups(self, *names: str) -> Groups:
        """Return the groups of rows with equal values in some columns, in order of first appearance."""
        codes_N = np.zeros(len(self), dtype=np.int64)
        for name in names:
            indices, dictionary = _encoded(self.column(name))
            # The numbers of each step are below the number of rows, so the product stays far below 2^63.
            codes_N = pd.factorize(codes_N * (len(dictionary) + 1) + indices + 1)[0].astype(np.int64)
        return Groups(codes_N, int(codes_N.max(initial=-1)) + 1)

    def select(self, names: Collection[str]) -> Self:
        """Return the rows with some columns; nulls if they lack them."""
        return type(self)(pa.table({name: self.column(name) for name in dict.fromkeys(names)}))

    def filter(self, mask_N: NDArray[np.bool_]) -> Self:
        """Return the rows where a mask [N] is true."""
        return self if mask_N.all() else type(self)(self.table.filter(pa.array(mask_N)))

    def take(self, positions: NDArray[np.int64]) -> Self:
        """Return the rows at some positions."""
        # Column by column, because the dictionaries of all chunks are joined.
        columns = (_taken(column, positions) for column in self.table.itercolumns())
        return type(self)(pa.table(dict(zip(self.table.schema.names, columns, strict=True))))

    def sorted_by(self, *names: str) -> Self:
        """Return the rows sorted by columns of texts or whole numbers; null counts as 0."""
        keys = [self._ranks(name) for name in reversed(names)]
        order_N = np.lexsort(keys) if len(self) else np.zeros(0, dtype=np.int64)
        return self if (np.diff(order_N) == 1).all() else self.take(order_N)

    def _ranks(self, name: str) -> NDArray[np.int64]:
        """Return whole numbers [N] in the order of the values of a column."""
        if pa.types.is_integer(self.column(name).type) or pa.types.is_null(self.column(name).type):
            return self.ints(name, missing=0)
        codes_N, texts = self.codes(name)
        rank_of = {text: rank for rank, text in enumerate(sorted(texts))}
        return np.array([rank_of[text] for text in texts], dtype=np.int64)[codes_N]

    def with_joined_texts(self) -> Self:
        """Return the rows with one dictionary per column of texts, which each reading of them would otherwise join."""
        with ThreadPoolExecutor() as threads:  # Arrow uses one
            columns = threads.map(lambda c: _combined(c) if pa.types.is_dictionary(c.type) else c, self.table.columns)
            return type(self)(pa.table(dict(zip(self.table.schema.names, columns, strict=True))))

    def with_column(self, name: str, values: pa.Array | pa.ChunkedArray) -> Self:
        """Return the rows with a column added or replaced."""
        names = self.table.schema.names
        if name in names:
            return type(self)(self.table.set_column(names.index(name), name, values))
        return type(self)(self.table.append_column(name, values))


class Groups:
    """Rows that belong together.

    Args:
        codes_N: Number of the group of each row, from 0.
        groups: Number of groups.
    """

    def __init__(self, codes_N: NDArray[np.int64], groups: int) -> None:
        self.codes_N = codes_N
        self.count_G = np.bincount(codes_N, minlength=groups)

    @functools.cached_property
    def order_N(self) -> NDArray[np.int64]:
        """Positions of the rows, one group after the other."""
        return np.argsort(self.codes_N, kind="stable")

    @functools.cached_property
    def start_G(self) -> NDArray[np.int64]:
        """Position in `order_N` of the first row of each group."""
        return np.cumsum(self.count_G) - self.count_G

    def __len__(self) -> int:
        return len(self.count_G)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yield the positions of the rows of each group, in order."""
        yield from np.split(self.order_N, self.start_G[1:]) if len(self) else ()

    @property
    def first_G(self) -> NDArray[np.int64]:
        """Position of the first row of each group."""
        first_G: NDArray[np.int64] = self.order_N[self.start_G]
        return first_G

    def by_size(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the groups of each size n: their numbers [K], and the positions of their rows [K, n]."""
        for size in np.unique(self.count_G[self.count_G > 0]).tolist():
            groups_K = np.flatnonzero(self.count_G == size)
            yield groups_K, self.order_N[self.start_G[groups_K][:, None] + np.arange(size)]


def _encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Return the position of each value in a dictionary, -1 for null, and the dictionary."""
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, dtype=np.int64), pa.array([], pa.string())
    array = _combined(column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
    indices = array.indices.fill_null(-1) if array.null_count else array.indices
    return indices.to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary


def _taken(column: pa.ChunkedArray, positions: NDArray[np.int64]) -> pa.Array | pa.ChunkedArray:
    if not pa.types.is_dictionary(column.type):
        return column.combine_chunks().take(pa.array(positions))
    array = _combined(column)
    return pa.DictionaryArray.from_arrays(array.indices.take(pa.array(positions)), array.dictionary)


def _combined(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a column of a dictionary type as one array, which joins the dictionaries of all chunks."""
    array = column.combine_chunks()  # `unify_dictionaries` takes ten times as long
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks else pa.array([], column.type)
    return array


def _plain(column: Any) -> Any:
    """Return a column with texts in place of the positions in a dictionary."""
    return pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
