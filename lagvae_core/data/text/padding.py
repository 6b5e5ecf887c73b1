"""Batches of sentences of about one length, padded to that of the longest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lagvae_core.data.text.tokens import PAD, TokenBatch, TokenSplit

__all__ = ["padded", "padded_batches"]

JITTER = 0.1
"""By how much of its length, at most, a sentence is moved among the others before they are cut into batches. More of it
mixes lengths better and pads more."""


def padded_batches(split: TokenSplit, batch_size: int, seed: int) -> list[TokenBatch]:
    """Every sentence once, in batches of just `batch_size`, the rest of the division in one smaller batch.

    Sentences are sorted by length times a factor drawn from U(1 - JITTER, 1 + JITTER), and cut. The smaller batch lies
    anywhere among the others, so that no length is bound to it. How many batches there are does not depend on the seed,
    and equal arguments give equal batches. A batch in which all have one length is not padded.
    """
    assert batch_size > 0, "a batch holds at least one sentence"
    generator = np.random.default_rng(seed)
    order = np.argsort(split.lengths * generator.uniform(1 - JITTER, 1 + JITTER, len(split)), kind="stable")
    whole, rest = divmod(len(split), batch_size)
    sizes = [batch_size] * whole
    if rest:
        sizes.insert(int(generator.integers(whole + 1)), rest)
    return [padded(split, index) for index in np.split(order, np.cumsum(sizes)[:-1])]


def padded(split: TokenSplit, index_B: NDArray[np.int64]) -> TokenBatch:
    """The sentences `index_B` of `split` in one batch, without lengths where all have the same."""
    first_B = split.offsets[index_B]
    lengths_B = split.offsets[index_B + 1] - first_B
    place_L = np.arange(lengths_B.max())
    within_BL = place_L < lengths_B[:, None]
    tokens_BL = np.full(within_BL.shape, PAD, dtype=np.int64)
    tokens_BL[within_BL] = split.tokens[(first_B[:, None] + place_L)[within_BL]]
    lengths = None if within_BL.all() else torch.from_numpy(lengths_B)
    return TokenBatch(torch.from_numpy(tokens_BL), torch.from_numpy(index_B), lengths)
