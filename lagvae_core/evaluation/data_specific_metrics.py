"""Metrics and columns that belong to one kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lagvae_core.columns import Column
from lagvae_core.data import DATA_SOURCES, InflectionBatch, Unit, VectorBatch
from lagvae_core.data.images.arrays import BITS_PER_DIM
from lagvae_core.data.text.tokens import PERPLEXITY, TOKENS
from lagvae_core.data.vectors.arrays import NATS_PER_FEATURE
from lagvae_core.metrics.inflection import INFLECTION_COLUMNS, inflection_columns
from lagvae_core.metrics.vectors import VECTOR_COLUMNS, vector_columns
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = [
    "DATA_COLUMNS",
    "DATA_SPECIFIC_METRICS",
    "DataSpecificMetrics",
    "data_specific_columns",
    "data_specific_metrics",
    "unavailable_columns",
]

_BY_UNIT: dict[Unit, tuple[str, ...]] = {
    "word": (TOKENS.name, PERPLEXITY.name),
    "pixel": (BITS_PER_DIM.name,),
    "feature": (NATS_PER_FEATURE.name,),
}

DATA_COLUMNS: tuple[str, ...] = tuple(name for names in _BY_UNIT.values() for name in names)
"""Names of the default likelihood columns that exist only for some kinds of data and are null for the others."""


@dataclass(frozen=True)
class DataSpecificMetrics:
    """Columns that exist for only one kind of data, and the extra metrics that compute them."""

    columns: tuple[Column, ...]
    extra_metrics: Callable[[], ExtraMetrics]


class _Inflection(ExtraMetrics):
    def measure(self, measurement: Measurement) -> dict[str, Any]:
        batches = [batch for batch in measurement.batches if isinstance(batch, InflectionBatch)]
        return inflection_columns(measurement.model, batches, measurement.encoded, measurement.seed)


class _Vectors(ExtraMetrics):
    def measure(self, measurement: Measurement) -> dict[str, Any]:
        batches = [batch for batch in measurement.batches if isinstance(batch, VectorBatch)]
        return vector_columns(measurement.model, batches, measurement.encoded)


DATA_SPECIFIC_METRICS: dict[str, DataSpecificMetrics] = {
    "reinflection": DataSpecificMetrics(INFLECTION_COLUMNS, _Inflection),
    "vectors": DataSpecificMetrics(VECTOR_COLUMNS, _Vectors),
    "linear_gaussian": DataSpecificMetrics(VECTOR_COLUMNS, _Vectors),
}
"""Data-specific metrics by kind of data. Kinds that are not listed have none."""


def data_specific_columns() -> tuple[Column, ...]:
    """Return the data-specific columns of all kinds of data."""
    return tuple(dict.fromkeys(column for specific in DATA_SPECIFIC_METRICS.values() for column in specific.columns))


def unavailable_columns(kind: str) -> frozenset[str]:
    """Return the names of the columns that are null for this kind of data, for every model."""
    source = DATA_SOURCES.get(kind, DATA_SOURCES["synthetic"])
    family = source.family or kind
    own = DATA_SPECIFIC_METRICS[family].columns if family in DATA_SPECIFIC_METRICS else ()
    likelihood = {name for unit, names in _BY_UNIT.items() if unit != source.unit for name in names}
    return frozenset(column.name for column in data_specific_columns() if column not in own) | likelihood


def data_specific_metrics(kind: str) -> tuple[ExtraMetrics, ...]:
    """Return the extra metrics of this kind of data; empty if it has none."""
    return (DATA_SPECIFIC_METRICS[kind].extra_metrics(),) if kind in DATA_SPECIFIC_METRICS else ()
