"""What is measured of a kind of data beside the default columns: what a trained model is asked to do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lagvae_core.columns import PIXEL_COLUMNS, WORD_COLUMNS, Column
from lagvae_core.data import InflectionBatch
from lagvae_core.metrics.inflection import SAMPLES, inflection_columns
from lagvae_core.strategies.slots import ExtraMetrics, Measurement

__all__ = [
    "DATA_SPECIFIC_METRICS",
    "DataSpecificMetrics",
    "data_specific_columns",
    "data_specific_metrics",
    "unavailable_columns",
]


@dataclass(frozen=True)
class DataSpecificMetrics:
    """The columns that only this kind of data has, and what measures them."""

    columns: tuple[Column, ...]
    protocol: Callable[[], ExtraMetrics]


class _Inflection(ExtraMetrics):
    def measure(self, measurement: Measurement) -> dict[str, Any]:
        batches = [batch for batch in measurement.batches if isinstance(batch, InflectionBatch)]
        return inflection_columns(measurement.model, batches, measurement.encoded, measurement.seed)


DATA_SPECIFIC_METRICS: dict[str, DataSpecificMetrics] = {
    "reinflection": DataSpecificMetrics(
        (
            Column(
                "accuracy",
                "float",
                "share of words inflected without a mistake, greedily from the mean of q(z|x)",
                "max",
            ),
            Column("accuracy_sampled", "float", f"the same from {SAMPLES} samples of q(z|x) each", "max"),
            Column(
                "accuracy_swapped",
                "float",
                "the same from the mean of another word: 0 if z alone carries the word, accuracy if it is idle",
            ),
            Column("levenshtein", "float", "mean unit-cost edit distance from the right form [code points]", "min"),
            Column("levenshtein_relative", "float", "mean of that distance over the length of the right form", "min"),
        ),
        _Inflection,
    ),
}
"""By kind of data; the others have no task of their own."""


def data_specific_columns() -> tuple[Column, ...]:
    """The columns of all tasks."""
    return tuple(column for task in DATA_SPECIFIC_METRICS.values() for column in task.columns)


def unavailable_columns(kind: str) -> frozenset[str]:
    """The columns that are null for data of this kind, whatever is trained."""
    tasks = {column.name for other, task in DATA_SPECIFIC_METRICS.items() if other != kind for column in task.columns}
    return frozenset(tasks).union(WORD_COLUMNS if kind == "images" else PIXEL_COLUMNS)


def data_specific_metrics(kind: str) -> tuple[ExtraMetrics, ...]:
    """What measures the task of data of this kind, if it has one."""
    return (DATA_SPECIFIC_METRICS[kind].protocol(),) if kind in DATA_SPECIFIC_METRICS else ()
