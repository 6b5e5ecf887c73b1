"""Bags of words: encoder features computed from a bag, and a head that predicts the bag from z.

Shape suffixes: B sentences, L tokens per sentence, S samples, W words (the vocabulary without `<pad>`, `<s>` and
`</s>`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lagvae_core.data import PAD, UNK, Batch, TokenBatch
from lagvae_core.models.model_config import Features

__all__ = ["BagFeatures", "BagHead", "word_counts"]


def word_counts(batch: Batch, vocabulary: int) -> Tensor:
    """Return the number of occurrences of each word in the encoder's input, [B, W].

    `<unk>` counts as a word because it replaces a word.
    """
    assert isinstance(batch, TokenBatch), "a bag of words needs a token batch"
    tokens_BL = batch.read.tokens_BL
    counts = torch.zeros(len(tokens_BL), vocabulary, device=tokens_BL.device)
    return counts.scatter_add_(1, tokens_BL, counts.new_ones(tokens_BL.shape))[:, UNK:]


class BagFeatures(Features):
    """Linear layer on the relative word frequencies of the encoder's input, [B, size].

    The output is computed as the mean of the weight rows of the words, plus a bias.
    """

    def __init__(self, size: int, vocabulary: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(vocabulary, size))
        self.bias = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise like `nn.Linear` with `vocabulary` inputs."""
        bound = 1.0 / math.sqrt(len(self.weight))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        assert isinstance(batch, TokenBatch), "a bag of words needs a token batch"
        tokens_BL = batch.read.tokens_BL
        words_BL = tokens_BL.masked_fill(tokens_BL < UNK, PAD)
        return functional.embedding_bag(words_BL, self.weight, mode="mean", padding_idx=PAD) + self.bias


class BagHead(nn.Module):
    """Map from z to word logits, [B, S, W]: one hidden tanh layer with PyTorch's default initialisation."""

    def __init__(self, latent_dim: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.Tanh(),
            nn.Linear(hidden, vocabulary - UNK),
        )

    def forward(self, z_BSZ: Tensor) -> Tensor:
        return self.layers(z_BSZ)  # type: ignore[no-any-return]

    def multinomial(self, batch: Batch, z_BSZ: Tensor) -> Tensor:
        """Return -sum_t log softmax(logits)[x_t] over all words x_t of each sentence, [B, S] [nats]."""
        counts_BW = word_counts(batch, self._vocabulary)
        log_p_BSW: Tensor = self(z_BSZ).log_softmax(2)
        return -(counts_BW[:, None] * log_p_BSW).sum(2)

    def bernoulli(self, batch: Batch, z_BSZ: Tensor) -> Tensor:
        """Return the negative log-likelihood of the set of words that are present, [B, S] [nats].

        Given z, words are present independently of each other.
        """
        logits_BSW = self(z_BSZ)
        present_BSW = (word_counts(batch, self._vocabulary) > 0).to(logits_BSW)[:, None].expand_as(logits_BSW)
        return functional.binary_cross_entropy_with_logits(logits_BSW, present_BSW, reduction="none").sum(2)
