"""Replacement of dropped words in the history that the decoder reads in training.

Shape suffixes: B examples, T tokens that the decoder reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from lagvae_core.data.text.tokens import UNK, History

__all__ = ["Replacement", "conceal"]

Replacement = Literal["unk", "zero"]
"""What the decoder reads instead of a dropped word: the word `<unk>`, or a vector of zeros."""


def conceal(history: History, dropped_BT: Tensor, replacement: Replacement) -> History:
    """Return `history` with `replacement` in place of each word for which `dropped_BT` (bool) is true."""
    if replacement == "unk":
        return replace(history, tokens_BT=history.tokens_BT.masked_fill(dropped_BT, UNK))
    blank_BT = dropped_BT if history.blank_BT is None else dropped_BT | history.blank_BT
    return replace(history, blank_BT=blank_BT)
