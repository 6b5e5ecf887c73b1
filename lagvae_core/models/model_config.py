"""What the setting of every model is: plain data that builds an encoder and a decoder for a domain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lagvae_core.models.decoder import Decoder, DecoderOptions
from lagvae_core.models.gaussian import Gaussian
from lagvae_core.settings import FrozenConfig

__all__ = ["Features", "ModelConfig", "TokenEncoder", "TokenModel"]


class Features(nn.Module):
    """What an encoder may know of an example beside its last state: `forward(batch)` gives [B, size]."""

    size: int


class TokenEncoder(nn.Module, ABC):
    """An encoder of words: their embeddings, and what it makes of embedded sentences."""

    embedding: nn.Embedding

    @abstractmethod
    def read(self, words_LBE: Tensor) -> Gaussian:
        """q(z|x), both parameters [B, Z], from embedded sentences of one length."""


class ModelConfig(FrozenConfig, ABC):
    """Sizes and start of an encoder and a decoder. A subclass gives `kind` a literal default.

    `data_kinds` names the kinds of data that it models.
    """

    data_kinds: ClassVar[frozenset[str]]
    kind: Any
    latent_dim: Annotated[int, Field(ge=1, le=4096, description="dimensions of z")] = 32

    @abstractmethod
    def encoder(self, domain: Any, features: Features | None) -> nn.Module:
        """Batch -> Gaussian over z, freshly initialised from torch's global generator."""

    @abstractmethod
    def decoder(self, domain: Any, stream: torch.Generator, options: DecoderOptions) -> Decoder:
        """p(x|z), freshly initialised; `stream` feeds its dropout, `wiring` is what strategies change around it."""

    def warnings(self) -> Iterator[str]:
        """What may be run but should be known."""
        yield from ()

    @property
    def input_rate(self) -> float:
        """Dropout on what the decoder reads, where no strategy says otherwise."""
        return 0.0

    @property
    @abstractmethod
    def small(self) -> bool:
        """Whether it is faster on one core than on several."""


SMALL_HIDDEN = 256
"""Recurrent models below this many hidden units are faster on one core than on several."""


class TokenModel(ModelConfig):
    """A recurrent encoder and decoder of tokens."""

    hidden: Annotated[int, Field(ge=1, le=65536, description="recurrent units, of encoder and decoder")] = 1024
    embedding: Annotated[int, Field(ge=1, le=65536, description="size of the word embeddings")] = 512
    dropout_in: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's embeddings")] = 0.5
    dropout_out: Annotated[float, Field(ge=0, lt=1, description="dropout on the decoder's outputs")] = 0.5

    @property
    def input_rate(self) -> float:
        return self.dropout_in

    @property
    def small(self) -> bool:
        return self.hidden < SMALL_HIDDEN
