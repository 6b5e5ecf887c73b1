"""Declarations of measured columns: name, type, meaning and direction. The table, the docs and the help use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DATA_COLUMNS", "LATENT_COLUMNS", "PIXEL_COLUMNS", "WORD_COLUMNS", "Column"]


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


LATENT_COLUMNS = (
    "kl",
    "kl_train",
    "mi",
    "mi_se",
    "mi_cap",
    "mi_batch",
    "mi_batch_cap",
    "kl_agg",
    "au",
    "mean_variance",
    "kl_by_dimension",
)
"""Columns about the latent variable z; null for a model without one."""

WORD_COLUMNS = ("tokens", "ppl")
"""Likelihood columns of data made of words or characters."""

PIXEL_COLUMNS = ("bits_per_dim",)
"""Likelihood columns of images."""

DATA_COLUMNS = (*WORD_COLUMNS, *PIXEL_COLUMNS)
"""Likelihood columns that belong to one kind of data; null for the other kinds."""
