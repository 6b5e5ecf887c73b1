"""Declarations of measured columns, which the table, the docs and the help use: name, type, meaning and direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Column"]


@dataclass(frozen=True)
class Column:
    """A measured column of the table. Null means "not measured".

    Args:
        name: Name of the column.
        kind: Type of its values.
        doc: Meaning of its values.
        direction: Whether smaller ("min") or larger ("max") values are better; "" if neither is.
    """

    name: str
    kind: Literal["float", "int", "floats"]
    doc: str
    direction: Literal["min", "max", ""] = ""
