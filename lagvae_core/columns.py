"""Declaration of a measured column (name, type, meaning, direction), for the table, the documentation and the help."""

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
        direction: Whether smaller ("min") or larger ("max") values are better; "" if neither.
    """

    name: str
    kind: Literal["float", "int", "floats"]
    doc: str
    direction: Literal["min", "max", ""] = ""
