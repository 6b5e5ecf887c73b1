"""Generation of sentences from latent codes with a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lagvae_core.data import TokenDataset, Vocabulary
from lagvae_core.metrics.decoding import Decoded, DecodingMethod, decode_all
from lagvae_core.models.decoder import TokenDecoder
from lagvae_core.studies.trained_model import TrainedModel

__all__ = ["SentenceGenerator", "sentence_data"]


def sentence_data(trained: TrainedModel) -> TokenDataset:
    """Return the data set of a model of sentences."""
    assert isinstance(trained.dataset, TokenDataset), "this study needs a model of sentences"
    return trained.dataset


@dataclass(frozen=True, eq=False)
class SentenceGenerator:
    """The decoder of a trained model and the vocabulary of its words."""

    decoder: TokenDecoder
    vocabulary: Vocabulary

    @classmethod
    def of(cls, trained: TrainedModel) -> SentenceGenerator:
        """Return the generator of a model of sentences."""
        assert isinstance(trained.model.decoder, TokenDecoder), "this study needs a model that decodes words"
        return cls(trained.model.decoder, sentence_data(trained).vocabulary)

    def generate(
        self,
        decoding: DecodingMethod,
        z_NZ: Tensor,
        index_N: Tensor,
        progress: Callable[[int], None] = lambda sentences: None,
    ) -> list[Decoded]:
        """Return one sentence for each z.

        Args:
            decoding: The decoding method.
            z_NZ: Latent codes, on any device and in any precision.
            index_N: Indices of the sentences, which determine their random draws.
            progress: Called with the number of sentences that are done.
        """
        return decode_all(decoding, self.decoder, z_NZ.to(self.decoder.output.weight), index_N, progress=progress)

    def decode_ids(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """Return sentences, given as word ids, as text."""
        return [self.vocabulary.decode(words) for words in sentences]
