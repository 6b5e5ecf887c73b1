"""Orders of examples that all have one shape, and their division into batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut", "ordered"]


def ordered(
    examples: int, labels: tuple[str, ...] | None, *, by_label: bool = False, seed: int | None = None
) -> list[NDArray[np.int64]]:
    """Return the indices of all examples, in one array or in one array per label.

    Args:
        examples: Number of examples.
        labels: One label per example; used only if `by_label`.
        by_label: Whether to return one array per label.
        seed: Seed for shuffling the indices; None for the order of the split.
    """
    order = np.arange(examples) if seed is None else np.random.default_rng(seed).permutation(examples)
    if not by_label:
        return [order]
    assert labels is not None, "examples without labels cannot be grouped by label"
    label_N = np.unique(np.array(labels), return_inverse=True)[1]
    order = order[np.argsort(label_N[order], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(label_N[order])) + 1)


def cut(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut `order` into arrays of `size` indices; the last array may be smaller."""
    assert size > 0, "a batch holds at least one example"
    return [order[first : first + size] for first in range(0, len(order), size)]
