"""Matrices from the numeric columns of CSV, TSV and Parquet files.

This module imports pyarrow when a file is opened, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lagvae_core.data.files import refuse_placeholder
from lagvae_core.data.raw import Array, RawArrays
from lagvae_core.errors import DataError, ValidationIssue

__all__ = ["TABLES", "add_table", "read_table"]

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
"""Names of tables end in one of these."""

_SHOWN = 5
"""Largest number of columns that a message names."""


def read_table(raw: RawArrays, split: str, path: Path, label: str | None, ignored: tuple[str, ...]) -> None:
    """Read the table of one split into `raw.arrays`, or add issues that say what is wrong with it.

    All columns but `label` and `ignored` are features. The columns of valid and test may have another order than those
    of train, but must have the same names.

    Args:
        raw: The arrays read so far. `<split>_names` of it are the names of the features.
        split: The split that the file contains.
        path: The file.
        label: Column of labels; None for none.
        ignored: Columns to leave out.
    """
    try:
        table = _open(path)
    except DataError as error:
        raw.issues += error.issues
        return
    add_table(raw, split, path, table, label, ignored)


def add_table(raw: RawArrays, split: str, path: Path, table: Any, label: str | None, ignored: tuple[str, ...]) -> None:
    """Add an Arrow table, a pandas frame or a Hugging Face data set to `raw`, as `read_table` adds a file."""
    if hasattr(table, "with_format"):  # a Hugging Face data set
        table = table.with_format("arrow")[:]
    elif not hasattr(table, "schema"):
        import pyarrow

        table = pyarrow.Table.from_pandas(table, preserve_index=False)
    before = len(raw.issues)
    names = list(table.column_names)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        _add(raw, path, "must have different names of columns", f"Rename {_listed(twice)}.")
    elif not path.name.endswith(".parquet") and names and all(map(_is_number, names)):
        _add(raw, path, "must have names of columns in its first line", "Add a line such as x1,x2,x3.")
    for key, wanted in (("data.label_column", (label,) if label else ()), ("data.ignore", ignored)):
        missing = [name for name in wanted if name not in names]
        if missing:
            message = f"must name columns of {path}"
            raw.issues.append(ValidationIssue(key, message, f"Its columns are {_listed(names)}.", _listed(missing)))
    if len(raw.issues) > before:
        return
    features = [name for name in names if name != label and name not in ignored]
    columns = {name: values for name in features if (values := _values(table.column(name))) is not None}
    wrong = [name for name in features if name not in columns]
    if wrong:
        kinds = _listed([f"{name} ({table.schema.field(name).type})" for name in wrong])
        hint = f"Set data.ignore=[{_listed(wrong)}] to leave them out, or data.label_column to the column of labels."
        _add(raw, path, f"must contain only numbers, but columns are not numeric: {kinds}", hint)
        return
    if not features:
        _add(raw, path, "must have at least one column of numbers", "Add columns, or ignore fewer.")
        return
    expected = raw.arrays.get("train_names")
    order = features if expected is None else expected.tolist()
    if sorted(order) != sorted(features):
        odd = sorted({*order} ^ {*features})
        _add(raw, path, "must have the same columns as train", f"These are in only one of them: {_listed(odd)}.")
        return
    raw.arrays[f"{split}_names"] = np.array(order)
    raw.arrays[split] = np.column_stack([columns[name] for name in order])
    if label:
        raw.arrays[f"{split}_labels"] = np.array([str(value) for value in table.column(label).to_pylist()])


def _open(path: Path) -> Any:
    refuse_placeholder(path)
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError:
        message = "cannot be read because pyarrow is not installed"
        raise DataError(
            [ValidationIssue(str(path), message, "Run `pip install pyarrow`, or save an .npz file.")]
        ) from None
    try:
        if path.name.endswith(".parquet"):
            with path.open("rb"):
                return parquet.ParquetFile(path).read()
        delimiter = "\t" if ".tsv" in path.name else ","
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))
    except (pyarrow.ArrowException, OSError) as error:
        kind = "Parquet file" if path.name.endswith(".parquet") else "table with as many cells in every line"
        message = f"must be a complete and undamaged {kind} ({' '.join(str(error).split())[:200]})"
        raise DataError([ValidationIssue(str(path), message, "Write the file again.")]) from None


def _values(column: Any) -> Array | None:
    """Return the values of a column as float64, NaN where a value is missing; None if they are not numbers."""
    from pyarrow import types

    kind = column.type
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_decimal(kind):
        column, kind = column.cast("float64"), None
    elif types.is_boolean(kind):
        column, kind = column.cast("int8"), None
    if kind is not None and not (types.is_integer(kind) or types.is_floating(kind)):
        return None
    values: Array = column.cast("float64", safe=False).to_numpy()
    return values


def _add(raw: RawArrays, path: Path, message: str, hint: str) -> None:
    raw.issues.append(ValidationIssue(str(path), message, hint))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
