"""Batches of sentences of similar lengths, padded to the longest sentence of the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lagvae_core.data.text.tokens import PAD, TokenBatch, TokenSplit

__all__ = ["padded", "padded_batches"]

JITTER = 0.1
"""Maximum relative change of a sentence's length in the key by which sentences are sorted before batching.

A larger value mixes lengths better and needs more padding.
"""


def padded_batches(split: TokenSplit, batch_size: int, seed: int) -> list[TokenBatch]:
    """Return every sentence once, in batches of exactly `batch_size` and one smaller batch for the remainder.

    The sentences are sorted by their length times a factor drawn from U(1 - JITTER, 1 + JITTER), then cut into batches.
    The position of the smaller batch is random, so that it can contain sentences of any length. The number of batches
    does not depend on the seed, and equal arguments give equal batches. A batch whose sentences have the same length is
    not padded.
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
    """Return the sentences `index_B` of `split` in one batch; `lengths_B` is None if all lengths are equal."""
    first_B = split.offsets[index_B]
    lengths_B = split.offsets[index_B + 1] - first_B
    position_L = np.arange(lengths_B.max())
    within_BL = position_L < lengths_B[:, None]
    tokens_BL = np.full(within_BL.shape, PAD, dtype=np.int64)
    tokens_BL[within_BL] = split.tokens[(first_B[:, None] + position_L)[within_BL]]
    lengths = None if within_BL.all() else torch.from_numpy(lengths_B)
    return TokenBatch(torch.from_numpy(tokens_BL), torch.from_numpy(index_B), lengths)
