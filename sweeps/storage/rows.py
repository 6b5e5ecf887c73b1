"""Checks of the rows of a stored file: identifiers, columns with JSON, and types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lagvae_core.config.trial import format_run_id
from sweeps.storage.identifiers import CONFIG_ID, RUN_ID, SWEEP_NAME, is_arm_name
from sweeps.storage.parquet import UNREADABLE, DamagedFileError, decode_table
from sweeps.storage.schema import STATUSES

__all__ = ["decode_rows"]

SCALARS = (bool, int, float, str)


def decode_rows(content: bytes, schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the rows of a file of a table, with the columns of `schema`.

    Columns of `schema` that the file lacks are null; columns that are not in `schema` are dropped. NaN and infinity,
    which lagvae never writes, are null.

    Args:
        content: The file. It holds one row, or one row per epoch if the table has a column `epoch`.
        schema: Columns of the table.

    Raises:
        DamagedFileError: The file is damaged, or was not written by lagvae.
    """
    table = decode_table(content)
    try:
        if not table.schema.equals(schema):
            table = _conformed(table, schema)
        empty: dict[str, Any] = dict.fromkeys(schema.names)
        rows = [empty | {name: _finite(value) for name, value in row.items()} for row in table.to_pylist()]
    except UNREADABLE as error:
        raise DamagedFileError(f"its columns cannot be read: {error}") from None
    for row in rows:
        for name, is_valid in _CHECKS.items():
            if name in row and not is_valid(row[name]):
                raise DamagedFileError(f"its column {name} is missing or invalid")
        if row["run_id"] != format_run_id(row["config_id"], row["seed"]):
            raise DamagedFileError("its run_id is not that of its config_id and seed")
    keys = {(row["run_id"], row.get("epoch")) for row in rows}
    if len(keys) != len(rows) or len({run_id for run_id, _ in keys}) != 1:
        raise DamagedFileError("it does not hold the rows of one run")
    return rows


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of `schema` that `table` has, cast to their types."""
    names = [name for name in table.schema.names if name in schema.names]
    fields = [schema.field(name) for name in names]
    return pa.Table.from_arrays([table[f.name].cast(f.type) for f in fields], schema=pa.schema(fields))


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, also in a list, with null."""
    if isinstance(value, list):
        return None if any(_finite(item) is None for item in value) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(text: str) -> Any:
    def reject(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text, parse_constant=reject)


def _is_json(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check of a column that is null or holds JSON whose value is valid."""

    def check(text: Any) -> bool:
        try:
            return not text or is_valid(_json(text))
        except (ValueError, RecursionError):
            return False

    return check


def _is_history(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(item, Mapping) and "status" in item for item in value)


def _is_parameters(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, SCALARS) for item in value.values())


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and value >= least


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "sweep": lambda value: isinstance(value, str) and bool(SWEEP_NAME.fullmatch(value)),
    "arm": is_arm_name,
    "config_id": lambda value: isinstance(value, str) and bool(CONFIG_ID.fullmatch(value)),
    "run_id": lambda value: isinstance(value, str) and bool(RUN_ID.fullmatch(value)),
    "seed": _is_count,
    "epoch": _is_count,
    "step": _is_count,
    "configuration": lambda value: value is None or _is_count(value),
    "attempt": lambda value: _is_count(value, 1),
    "threads": lambda value: value is None or 1 <= value < 2**16,
    "status": lambda value: value in STATUSES,
    "history": _is_json(_is_history),
    "warnings": _is_json(lambda value: isinstance(value, list)),
    "parameters": _is_json(_is_parameters),
    "config": _is_json(lambda value: isinstance(value, Mapping)),
}
"""Validity of the values of the columns that the code relies on."""
