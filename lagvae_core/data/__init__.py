"""Kinds of data. `DataConfig` is the union of their configurations; `DataConfig.load()` returns a `Dataset`."""

from typing import Annotated

from pydantic import Field

from lagvae_core.data.base import Batch, Batching, Dataset, DataSource, Domain, Partition, Split
from lagvae_core.data.images.arrays import ImageBatch, ImageDataset, ImageDomain, ImageSplit
from lagvae_core.data.images.source import ImageData
from lagvae_core.data.reinflection.arrays import InflectionBatch, InflectionDataset, InflectionDomain, InflectionHistory
from lagvae_core.data.reinflection.source import ReinflectionData
from lagvae_core.data.synthetic import SyntheticData
from lagvae_core.data.text.source import TextData
from lagvae_core.data.text.tokens import (
    BOS,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    History,
    Ragged,
    TextDomain,
    TokenBatch,
    TokenDataset,
    TokenSplit,
    Vocabulary,
)

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "Batch",
    "Batching",
    "DataConfig",
    "DataSource",
    "Dataset",
    "Domain",
    "History",
    "ImageBatch",
    "ImageData",
    "ImageDataset",
    "ImageDomain",
    "ImageSplit",
    "InflectionBatch",
    "InflectionDataset",
    "InflectionDomain",
    "InflectionHistory",
    "Partition",
    "Ragged",
    "ReinflectionData",
    "Split",
    "SyntheticData",
    "TextData",
    "TextDomain",
    "TokenBatch",
    "TokenDataset",
    "TokenSplit",
    "Vocabulary",
]

DataConfig = Annotated[SyntheticData | TextData | ReinflectionData | ImageData, Field(discriminator="kind")]
