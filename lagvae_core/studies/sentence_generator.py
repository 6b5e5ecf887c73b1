"""A trained model of sentences as something that speaks: z goes in, sentences come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lagvae_core.data import TokenDataset, Vocabulary
from lagvae_core.metrics.decoding import Decoded, DecodingMethod, decode_all
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["SentenceGenerator", "sentence_data"]


def sentence_data(trained: TrainedModel) -> TokenDataset:
    """The data of a model of sentences."""
    assert isinstance(trained.dataset, TokenDataset), "a study of sentences was given other data"
    return trained.dataset


@dataclass(frozen=True, eq=False)
class SentenceGenerator:
    """The decoder of a trained model, and how its words are spelt."""

    decoder: TokenDecoder
    vocabulary: Vocabulary

    @classmethod
    def of(cls, trained: TrainedModel) -> SentenceGenerator:
        assert isinstance(trained.model.decoder, TokenDecoder), "a study of sentences was given another decoder"
        return cls(trained.model.decoder, sentence_data(trained).vocabulary)

    def generate(
        self,
        decoding: DecodingMethod,
        z_NZ: Tensor,
        index_N: Tensor,
        progress: Callable[[int], None] = lambda sentences: None,
    ) -> list[Decoded]:
        """One sentence for each z (see `decode_all`), wherever z lies and in whatever precision."""
        return decode_all(decoding, self.decoder, z_NZ.to(self.decoder.output.weight), index_N, progress=progress)

    def decode_ids(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        return [self.vocabulary.decode(words) for words in sentences]

    @property
    def device(self) -> torch.device:
        return self.decoder.output.weight.device
