"""How words of the past are kept from the decoder in training. Shape suffixes: B examples, T tokens read."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from lagvae_core.data.text.tokens import UNK, History

__all__ = ["Replacement", "conceal"]

Replacement = Literal["unk", "zero"]
"""What the decoder reads in the place of a dropped word: `<unk>`, or a vector of zeros."""


def conceal(history: History, dropped_BT: Tensor, replacement: Replacement) -> History:
    """`history` without the words where `dropped_BT` (bool) is true."""
    if replacement == "unk":
        return replace(history, tokens_BT=history.tokens_BT.masked_fill(dropped_BT, UNK))
    blank_BT = dropped_BT if history.blank_BT is None else dropped_BT | history.blank_BT
    return replace(history, blank_BT=blank_BT)
