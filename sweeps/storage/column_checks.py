"""Checks of the columns that the code relies on: identifiers, JSON and counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.storage.identifiers import CONFIG_ID, RUN_ID, SWEEP_NAME, is_arm_name, is_plugin_name
from sweeps.storage.schema import STATUSES

__all__ = ["CHECKS", "is_run_id"]

SCALARS = (bool, int, float, str)


def _json(text: str) -> Any:
    def reject(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text, parse_constant=reject)


def _is_json(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check of a value that is null or JSON whose value is valid."""

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


def _is_plugins(value: Any) -> bool:
    """Return whether the value maps names to hashes, which become parts of paths."""
    return isinstance(value, Mapping) and all(
        isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha) and is_plugin_name(name)
        for name, sha in value.items()
    )


def _whole(least: int, most: int = 2**63 - 1, *, nullable: bool = False) -> Callable[[pa.ChunkedArray], bool]:
    """Return a check of a column of whole numbers from `least` to `most`."""

    def check(column: pa.ChunkedArray) -> bool:
        if pa.types.is_null(column.type) or column.null_count == len(column):
            return nullable
        if not pa.types.is_integer(column.type) or (column.null_count and not nullable):
            return False
        bounds = pc.min_max(column).as_py()
        return bool(least <= bounds["min"] and bounds["max"] <= most)

    return check


def is_run_id(value: Any) -> bool:
    """Return whether a value has the form of a `run_id`."""
    return isinstance(value, str) and bool(RUN_ID.fullmatch(value))


def _each(is_valid: Callable[[Any], bool], pattern: str | None = None) -> Callable[[pa.ChunkedArray], bool]:
    """Return a check of a column that applies a check to each different value, which makes large tables fast.

    Args:
        is_valid: The check of a value.
        pattern: A regular expression of RE2. Texts that match it as a whole are valid without the check.
    """

    def check(column: pa.ChunkedArray) -> bool:
        try:
            values = pc.unique(column)
            values = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
            if pattern is not None and pa.types.is_string(values.type):
                matching = pc.match_substring_regex(values, f"^(?:{pattern})$").fill_null(False)
                values = values.filter(pc.invert(matching))
            return all(map(is_valid, values.to_pylist()))
        except (pa.ArrowException, TypeError):
            return False  # the column of another program has an unexpected type

    return check


_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_WORD = r'"[^"\\\x00-\x1f]*"'
_ITEM = rf"{_WORD}: (?:{_NUMBER}|{_WORD}|true|false)"
_PARAMETERS = rf"\{{(?:{_ITEM}(?:, {_ITEM})*)?\}}"
"""The usual form of `parameters`. In a large table, almost every configuration has others."""

CHECKS: Mapping[str, Callable[[pa.ChunkedArray], bool]] = {
    "sweep": _each(lambda value: isinstance(value, str) and bool(SWEEP_NAME.fullmatch(value))),
    "arm": _each(is_arm_name),
    "config_id": _each(lambda value: isinstance(value, str) and bool(CONFIG_ID.fullmatch(value)), CONFIG_ID.pattern),
    "seed": _whole(0),
    "epoch": _whole(0),
    "step": _whole(0),
    "configuration": _whole(0, nullable=True),
    "attempt": _whole(1),
    "threads": _whole(1, 2**16 - 1, nullable=True),
    "status": _each(lambda value: value in STATUSES),
    "history": _each(_is_json(_is_history)),
    "plugins": _each(_is_json(_is_plugins)),
    "warnings": _each(_is_json(lambda value: isinstance(value, list))),
    "parameters": _each(_is_json(_is_parameters), _PARAMETERS),
    "config": _each(_is_json(lambda value: isinstance(value, Mapping))),
}
"""Validity of the columns that the code relies on; `run_id` follows from `config_id` and `seed`."""
