"""The columns of the table: names, types and meanings, declared once."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any

import pyarrow as pa

from lagvae_core.columns import Column
from lagvae_core.evaluation.data_specific_metrics import data_specific_columns
from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from lagvae_core.training.record import CURVE_COLUMNS, METRIC_COLUMNS

if typing.TYPE_CHECKING:
    pass


__all__ = [
    "COST_COLUMNS",
    "CURVES_SCHEMA",
    "ENDED",
    "IDENTITY",
    "OBJECTIVE_COLUMNS",
    "PROVENANCE",
    "RUNS_SCHEMA",
    "SCHEMA_VERSION",
    "fields_of",
    "is_integral",
    "metric_columns",
    "tunable_columns",
]

SCHEMA_VERSION = "1"
ENDED = ("finished", "stopped_early", "diverged", "out_of_memory", "failed")
"""States that a run does not leave by itself. `running` and `interrupted` ones are taken up again."""

_TYPES = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "floats": pa.list_(pa.float64())}


def metric_columns() -> tuple[Column, ...]:
    """The default columns, then those of each kind of data, then those of each strategy."""
    return (
        *METRIC_COLUMNS,
        *data_specific_columns(),
        *(column for strategy in CATALOGUE.values() for column in strategy.columns),
    )


COST_COLUMNS: tuple[Column, ...] = (
    Column("seconds", "float", "wall time of the trial, interruptions excluded", "min"),
    Column("seconds_train", "float", "of that, training", "min"),
    Column(
        "cpu_seconds_train", "float", "processor time of training, which hardly grows where runs share a machine", "min"
    ),
    Column("seconds_validate", "float", "of that, validation after each epoch"),
    Column("seconds_evaluate", "float", "of that, the final measurement"),
    Column("encoder_steps", "int", "encoder updates", "min"),
    Column("decoder_steps", "int", "decoder updates", "min"),
    Column("peak_memory_bytes", "int", "most memory taken by the worker (on CUDA, by the allocator)", "min"),
)

IDENTITY = (
    ("sweep", "str", "name of the sweep"),
    ("arm", "str", "name of the arm"),
    ("run_id", "str", "config_id and seed; unique in the table"),
    ("config_id", "str", "hash of the full configuration without its seed, and of the data"),
    ("configuration", "int", "number of the configuration in its arm, from 0"),
    ("seed", "int", "seed of the run: a replicate of its configuration"),
    ("attempt", "int", "how often the run was started, from 1"),
    ("status", "str", "running, finished, stopped_early, diverged, out_of_memory, failed or interrupted"),
    ("stop_reason", "str", "why it ended, a sentence"),
    ("error_class", "str", "class of the exception that ended it"),
    ("traceback", "str", "the last lines of its traceback"),
    ("history", "str", "JSON: status, error, host and end of every earlier attempt"),
    ("warnings", "str", "JSON: what should be known of the configuration"),
    ("parameters", "str", "JSON: the searched fields of this configuration"),
    ("config", "str", "JSON: the full configuration"),
)

PROVENANCE = (
    ("started_at", "time", "start of this attempt, UTC"),
    ("ended_at", "time", "end of this attempt, UTC"),
    ("data_fingerprint", "str", "SHA-256 of the data's content"),
    ("spec_hash", "str", "hash of the sweep file"),
    ("lagvae_version", "str", ""),
    ("git_commit", "str", "of the code, where it runs from a checkout"),
    ("git_dirty", "bool", "whether that checkout had changes"),
    ("python_version", "str", ""),
    ("torch_version", "str", ""),
    ("ray_version", "str", ""),
    ("host", "str", ""),
    ("device", "str", "of the training"),
    ("threads", "int", "cores that the run was given"),
)


def fields_of(entries: Iterable[tuple[str, str]]) -> list[pa.Field]:
    """Arrow's fields of names and kinds."""
    extra = {"time": pa.timestamp("us", tz="UTC"), "bool": pa.bool_()}
    return [pa.field(name, (_TYPES | extra)[kind]) for name, kind in entries]


def is_integral(annotation: Any) -> bool:
    """Whether the numbers that a field of this type takes are whole; words and None beside them do not matter."""
    numbers = set(_number_types(annotation))
    return numbers == {int}


def _number_types(annotation: Any) -> Iterator[type]:
    if typing.get_origin(annotation) is Annotated:
        yield from _number_types(typing.get_args(annotation)[0])
    elif isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union:
        for member in typing.get_args(annotation):
            yield from _number_types(member)
    elif annotation in (int, float):
        yield annotation


def tunable_columns() -> Iterator[tuple[str, str]]:
    """`kind.field` and its type in the table (float, int or str) for every tunable field of the catalogue."""
    for kind, strategy in CATALOGUE.items():
        for field, annotation, tunable in tunables(strategy):
            if any(isinstance(choice, str) for choice in tunable.choices):
                yield f"{kind}.{field}", "str"
            else:
                yield f"{kind}.{field}", "int" if is_integral(annotation) else "float"


RUNS_SCHEMA: pa.Schema = pa.schema(
    [
        *fields_of((name, kind) for name, kind, _ in IDENTITY),
        *fields_of(tunable_columns()),
        *fields_of((c.name, c.kind) for c in (*metric_columns(), *COST_COLUMNS)),
        *fields_of((name, kind) for name, kind, _ in PROVENANCE),
    ],
    metadata={"lagvae_schema": SCHEMA_VERSION},
)

CURVES_SCHEMA: pa.Schema = pa.schema(
    [
        *fields_of(
            (name, kind) for name, kind, _ in IDENTITY if name in ("sweep", "arm", "run_id", "config_id", "seed")
        ),
        *fields_of((c.name, c.kind) for c in CURVE_COLUMNS),
    ],
    metadata={"lagvae_schema": SCHEMA_VERSION},
)

OBJECTIVE_COLUMNS: list[str] = [c.name for c in (*metric_columns(), *COST_COLUMNS) if c.kind in ("float", "int")]
