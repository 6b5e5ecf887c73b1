"""What a measured number is called, what type it has and what it means: one declaration for table, docs and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Column"]


@dataclass(frozen=True)
class Column:
    """A measured column. `kind` is its type in the table; null there means not measured."""

    name: str
    kind: Literal["float", "int", "floats"]
    doc: str
    sense: Literal["min", "max", ""] = ""
