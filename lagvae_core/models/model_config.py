"""Base classes of model configurations, which build an encoder and a decoder for a domain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.errors import ValidationIssue
from lagvae_core.models.decoder import Decoder, DecoderOptions
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.settings import FrozenConfig

__all__ = ["Features", "ModelConfig", "RecurrentModel", "TokenEncoder", "TokenModel"]


class Features(nn.Module):
    """Additional features of each example for an encoder: `forward(batch)` returns [B, size]."""

    size: int


class TokenEncoder(nn.Module, ABC):
    """Encoder of token sequences: an embedding, and a map from embedded sentences to q(z|x)."""

    embedding: nn.Embedding

    @abstractmethod
    def read(self, words_LBE: Tensor) -> Gaussian:
        """Return the Gaussian over z for embedded sentences of equal length; both parameters are [B, Z]."""


class ModelConfig(FrozenConfig, ABC):
    """Sizes and initialisation of an encoder and a decoder. A subclass declares `kind` as a Literal with a default.

    Attributes:
        data_kinds: Kinds of data that the model supports.
        training_defaults: Defaults of `training` that differ from those of the kind of data, by field.
    """

    data_kinds: ClassVar[frozenset[str]]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    kind: Any
    latent_dim: Annotated[int, Field(ge=1, le=4096, description="number of dimensions of z")] = 32

    @abstractmethod
    def encoder(self, domain: Any, features: Features | None) -> nn.Module:
        """Return a new encoder, a map from a batch to a Gaussian over z.

        Its parameters are initialised from PyTorch's global random generator.
        """

    @abstractmethod
    def decoder(self, domain: Any, stream: torch.Generator, options: DecoderOptions) -> Decoder:
        """Return a new decoder p(x|z).

        Args:
            domain: Sizes of the data.
            stream: Random generator of the decoder's dropout.
            options: Modifications requested by strategies.
        """

    def warnings(self) -> Iterator[str]:
        """Yield a warning for each setting that is valid but has unexpected consequences."""
        yield from ()

    @property
    def has_gaussian_likelihood(self) -> bool:
        """Whether p(x|z) is a Gaussian with one variance for all features."""
        return False

    def domain_issues(self, domain: Any) -> Iterator[ValidationIssue]:
        """Yield the reasons why this model cannot model `domain`, the content of data of a supported kind."""
        yield from ()

    @property
    def input_rate(self) -> float:
        """Default dropout rate of the decoder's inputs; a strategy can replace it."""
        return 0.0

    @property
    @abstractmethod
    def small(self) -> bool:
        """Whether training is faster on one core than on several cores."""


class TokenModel(ModelConfig):
    """Encoder and decoder of token sequences.

    Attributes:
        dropout_in: Dropout rate of the decoder's input embeddings.
        dropout_out: Dropout rate of the decoder's outputs.
    """

    if TYPE_CHECKING:  # fields of the subclasses, after their sizes

        @property
        def dropout_in(self) -> float: ...
        @property
        def dropout_out(self) -> float: ...

    @property
    def dropout_rates(self) -> Mapping[str, float]:
        """All dropout rates of the decoder by the name of their field."""
        return {"dropout_in": self.dropout_in, "dropout_out": self.dropout_out}

    @property
    @abstractmethod
    def embedding_size(self) -> int:
        """Size of the word embeddings that the encoder reads."""

    @property
    @abstractmethod
    def state_size(self) -> int:
        """Number of hidden units from which the encoder computes q(z|x)."""

    @property
    def input_rate(self) -> float:
        return self.dropout_in


SMALL_HIDDEN = 256
"""Recurrent models with fewer hidden units than this are faster on one core than on several cores."""


class RecurrentModel(TokenModel):
    """Recurrent encoder and decoder of token sequences."""

    hidden: Annotated[
        int, Field(ge=1, le=65536, description="number of recurrent units in the encoder and in the decoder")
    ] = 1024
    embedding: Annotated[int, Field(ge=1, le=65536, description="size of the word embeddings")] = 512
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's input embeddings")] = 0.5
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout rate of the decoder's outputs")] = 0.5

    @property
    def embedding_size(self) -> int:
        return self.embedding

    @property
    def state_size(self) -> int:
        return self.hidden

    @property
    def small(self) -> bool:
        return self.hidden < SMALL_HIDDEN
