"""What a measured number is called, what type it has and what it means: one declaration for table, docs and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DATA_COLUMNS", "LATENT_COLUMNS", "Column"]


@dataclass(frozen=True)
class Column:
    """A measured column. `kind` is its type in the table; null there means not measured."""

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
"""The measured columns that speak of z; null in a model without one."""

WORD_COLUMNS, PIXEL_COLUMNS = ("tokens", "ppl"), ("bits_per_dim",)
DATA_COLUMNS = (*WORD_COLUMNS, *PIXEL_COLUMNS)
"""The measured columns by which kinds of data tell a likelihood; null in the data of another kind."""
