"""Where sentences come from: `DataConfig` is one of the sources, `load()` gives its `TokenDataset`."""

from typing import Annotated

from pydantic import Field

from lagvae_core.data.batching import (
    BOS,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    History,
    Partition,
    TokenBatch,
    TokenDataset,
    TokenSplit,
    Vocabulary,
)
from lagvae_core.data.synthetic import SyntheticData
from lagvae_core.data.text import TextData

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "DataConfig",
    "History",
    "Partition",
    "SyntheticData",
    "TextData",
    "TokenBatch",
    "TokenDataset",
    "TokenSplit",
    "Vocabulary",
]

DataConfig = Annotated[SyntheticData | TextData, Field(discriminator="kind")]
