"""Kinds of data. `DATA_SOURCES` contains their configurations, whose method `load` returns a `Dataset`."""

from typing import Annotated

from lagvae_core.catalogue import Catalogue
from lagvae_core.data.base import Batch, Batching, Dataset, DataSource, Domain, Partition, Split, Unit
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
from lagvae_core.data.vectors.arrays import VectorBatch, VectorDataset, VectorDomain, VectorSplit
from lagvae_core.data.vectors.linear import LinearGaussianData
from lagvae_core.data.vectors.source import VectorData

__all__ = [
    "BOS",
    "DATA_SOURCES",
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
    "LinearGaussianData",
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
    "Unit",
    "VectorBatch",
    "VectorData",
    "VectorDataset",
    "VectorDomain",
    "VectorSplit",
    "Vocabulary",
]

DATA_SOURCES: Catalogue[DataSource] = Catalogue(
    DataSource,
    "kind of data",
    "lagvae.data",
    [SyntheticData, TextData, ReinflectionData, ImageData, VectorData, LinearGaussianData],
)
"""The configurations of all kinds of data by `kind`."""

DataConfig = Annotated[DataSource, DATA_SOURCES]
