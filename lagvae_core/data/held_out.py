"""Splits that are drawn from the training examples because the data have none of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lagvae_core.errors import ValidationIssue
from lagvae_core.randomness import derive_seed
from lagvae_core.settings import AddedField, FrozenConfig

__all__ = ["HeldOut", "held_out_remedy"]


def held_out_remedy(split: str) -> str:
    """Return the advice, a part of a sentence, for data that lack `split`."""
    return f"set data.held_out=0.1 to use a random tenth of train as {split}"


class HeldOut(FrozenConfig):
    """Fields of kinds of data that can draw a missing validation or test split from the training examples.

    Every training example has a uniform draw of its own, which depends only on `held_out_seed` and the position of the
    example. The bounds of its split include the draw, so the splits are disjoint.
    """

    held_out: Annotated[
        float | None,
        Field(
            gt=0,
            lt=0.5,
            description="probability with which each training example is drawn for valid, and for test, if the data "
            "lack them; so their sizes vary; null: the data must have both",
        ),
        AddedField(),
    ] = None
    held_out_seed: Annotated[int, Field(ge=0, description="seed of the draw of `held_out`"), AddedField()] = 0

    def held_out_bounds(self, missing: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Return the bounds of the draws of train and of each missing split: at least the first, below the second."""
        share = self.held_out or 0.0
        bounds = {"train": (share * len(missing), 1.0)}
        return bounds | {split: (i * share, (i + 1) * share) for i, split in enumerate(missing)}

    def held_out_draws_seed(self, file: int = 0) -> int:
        """Return the seed of the draws of the examples of one training file."""
        return derive_seed(self.held_out_seed, "held_out", file)

    def held_out_indices(self, examples: int, missing: Sequence[str]) -> dict[str, NDArray[np.intp]]:
        """Return the indices of the training examples in train and in each missing split."""
        draws = np.random.default_rng(self.held_out_draws_seed()).random(examples)
        bounds = self.held_out_bounds(missing)
        return {split: np.flatnonzero((low <= draws) & (draws < high)) for split, (low, high) in bounds.items()}

    def held_out_remarks(self, missing: Sequence[str]) -> list[str]:
        """Return one remark for the report if splits are drawn, and none otherwise."""
        if self.held_out is None or not missing:
            return []
        return [f"{' and '.join(missing)} drawn from train ({self.held_out:.4g} each, seed {self.held_out_seed})"]

    def held_out_issues(self, missing: Sequence[str]) -> list[ValidationIssue]:
        """Return an issue if `held_out` is set although no split is missing."""
        if self.held_out is None or missing:
            return []
        message = "must be null if the data have train, valid and test"
        return [ValidationIssue("data.held_out", message, "Remove data.held_out.", self.held_out)]
