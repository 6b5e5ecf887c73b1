"""The columns of the table, with their names, types and descriptions."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel

from lagvae_core.columns import Column
from lagvae_core.data import DATA_SOURCES
from lagvae_core.evaluation.data_specific_metrics import data_specific_columns
from lagvae_core.models import MODELS
from lagvae_core.settings import TrainingConfig, tunables
from lagvae_core.strategies import CATALOGUE
from lagvae_core.training.record import CURVE_COLUMNS, METRIC_COLUMNS

__all__ = [
    "COST_COLUMNS",
    "CURVES_SCHEMA",
    "ENDED",
    "IDENTITY",
    "PROVENANCE",
    "RUN_KEYS",
    "SCHEMA_VERSION",
    "SEARCHABLE_DATA",
    "STATUSES",
    "field_columns",
    "fields_of",
    "is_integral",
    "metric_columns",
    "objective_columns",
    "runs_schema",
    "trial_columns",
    "tunable_columns",
]

SCHEMA_VERSION = "2"
"""Version of the files. Files of version 2 have a checksum (see `sweeps.storage.parquet`)."""

ENDED = ("finished", "stopped_early", "diverged", "out_of_memory", "failed")
"""Final values of `status`. Runs that are `running` or `interrupted` are resumed."""

STATUSES = frozenset({*ENDED, "running", "interrupted"})
"""All values of `status`."""

RUN_KEYS = ("sweep", "arm", "run_id", "config_id", "seed")
"""Columns that identify a run in tables with several rows per run, such as the curves."""

SEARCHABLE_DATA = ("batching", "partition")
"""Fields of the data that a sweep can search. All others change the examples, and with them the meaning of the NLL."""

_TYPES = {"float": pa.float64(), "int": pa.int64(), "str": pa.string(), "floats": pa.list_(pa.float64())}


def metric_columns() -> tuple[Column, ...]:
    """Return the columns of metrics: the general ones, then those of each kind of data and of each strategy.

    Strategies that measure the same quantity share its column, which occurs once.
    """
    of_strategies = dict.fromkeys(column for strategy in CATALOGUE.values() for column in strategy.columns)
    return (*METRIC_COLUMNS, *data_specific_columns(), *of_strategies)


COST_COLUMNS: tuple[Column, ...] = (
    Column("seconds", "float", "wall time of the trial without interruptions", "min"),
    Column("seconds_train", "float", "wall time of training, included in seconds", "min"),
    Column(
        "cpu_seconds_train",
        "float",
        "processor time of training, which hardly increases when runs share a machine",
        "min",
    ),
    Column("seconds_validate", "float", "wall time of validation after each epoch, included in seconds"),
    Column("seconds_evaluate", "float", "wall time of the final evaluation, included in seconds"),
    Column("encoder_steps", "int", "number of encoder updates", "min"),
    Column("decoder_steps", "int", "number of decoder updates", "min"),
    Column("peak_memory_bytes", "int", "peak memory of the worker process; on CUDA, of PyTorch's allocator", "min"),
)

IDENTITY = (
    ("sweep", "str", "name of the sweep"),
    ("arm", "str", "name of the arm"),
    ("run_id", "str", "config_id and seed; unique in the table"),
    ("config_id", "str", "hash of the full configuration without its seed, and of the data"),
    ("configuration", "int", "number of the configuration in its arm, from 0"),
    ("seed", "int", "seed of the run, which is a replicate of its configuration"),
    ("attempt", "int", "number of times that the run was started"),
    ("status", "str", "running, finished, stopped_early, diverged, out_of_memory, failed or interrupted"),
    ("stop_reason", "str", "reason why the run ended, as a sentence"),
    ("error_class", "str", "class of the exception that ended the run"),
    ("traceback", "str", "last lines of the traceback of that exception"),
    ("history", "str", "JSON: status, error, host and end time of every earlier attempt"),
    ("warnings", "str", "JSON: warnings about the configuration and, once the run has finished, about its result"),
    ("parameters", "str", "JSON: searched fields of the configuration"),
    ("config", "str", "JSON: full configuration"),
)

PROVENANCE = (
    ("started_at", "time", "start of this attempt, UTC"),
    ("ended_at", "time", "end of this attempt, UTC"),
    ("data_fingerprint", "str", "SHA-256 of the content of the data; of generated data, of their fields and version"),
    ("spec_hash", "str", "hash of the content of the sweep file, ignoring comments and layout"),
    ("plugins", "str", "JSON: SHA-256 of each plugin that defines a part of the configuration, by name; null: none"),
    ("lagvae_version", "str", "version of lagvae"),
    ("git_commit", "str", "commit of the code, if it runs from a checkout"),
    ("git_dirty", "bool", "whether that checkout had uncommitted changes"),
    ("python_version", "str", "version of Python"),
    ("torch_version", "str", "version of PyTorch"),
    ("ray_version", "str", "version of Ray"),
    ("host", "str", "host of the worker process"),
    ("device", "str", "device used for training"),
    ("threads", "int", "number of CPU cores of the run"),
    ("gpus", "float", "number of GPUs of the run; below 1, its fraction of a GPU"),
)


def fields_of(entries: Iterable[tuple[str, str]]) -> list[pa.Field]:
    """Return Arrow fields for pairs of column name and kind."""
    extra = {"time": pa.timestamp("us", tz="UTC"), "bool": pa.bool_()}
    return [pa.field(name, (_TYPES | extra)[kind]) for name, kind in entries]


def is_integral(annotation: Any) -> bool:
    """Return whether the only numbers that a field of this type accepts are whole numbers."""
    return set(_number_types(annotation)) == {int}


def _number_types(annotation: Any) -> Iterator[type]:
    if typing.get_origin(annotation) is Annotated:
        yield from _number_types(typing.get_args(annotation)[0])
    elif isinstance(annotation, UnionType) or typing.get_origin(annotation) is typing.Union:
        for member in typing.get_args(annotation):
            yield from _number_types(member)
    elif annotation in (int, float):
        yield annotation


def trial_columns() -> Iterator[tuple[str, str, str]]:
    """Yield the name `section.field`, the type and the description of each field of a trial that a sweep can search.

    A model has only some of the fields of all models; a field that several have gets one column.
    """
    of_section: dict[str, list[type[BaseModel]]] = {
        "training": [TrainingConfig],
        "model": list(MODELS.values()),
        "data": list(DATA_SOURCES.values()),
    }
    seen = set()
    for section, configs in of_section.items():
        for config in configs:
            for field, info in config.model_fields.items():
                name = f"{section}.{field}"
                kind = _column_type(info.annotation)
                skipped = section == "data" and field not in SEARCHABLE_DATA
                if kind is not None and not skipped and name not in seen:
                    seen.add(name)
                    yield name, kind, info.description or ""


def _column_type(annotation: Any) -> str | None:
    """Return the type of the column of a field; None if its values are no single numbers or words."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _column_type(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return "str"
    if origin is typing.Union or isinstance(annotation, UnionType):
        kinds = {_column_type(member) for member in typing.get_args(annotation) if member is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    return {bool: "bool", int: "int", float: "float", str: "str"}.get(annotation)


def tunable_columns() -> Iterator[tuple[str, str]]:
    """Yield the column name `kind.field` and its type (float, int or str) for every tunable field of any strategy."""
    for kind, strategy in CATALOGUE.items():
        for field, annotation, tunable in tunables(strategy):
            if any(isinstance(choice, str) for choice in tunable.choices):
                yield f"{kind}.{field}", "str"
            else:
                yield f"{kind}.{field}", "int" if is_integral(annotation) else "float"


def runs_schema() -> pa.Schema:
    """Return the schema of the rows of runs. It has columns for the classes of the plugins that are loaded."""
    return _tables_of(_loaded_classes()).schema


def objective_columns() -> tuple[str, ...]:
    """Return the names of the columns that a sweep can optimise."""
    return _tables_of(_loaded_classes()).objectives


def field_columns() -> Mapping[str, str]:
    """Return the columns of searched fields (`section.field` and `kind.field`) with their types."""
    return _tables_of(_loaded_classes()).fields


@dataclass(frozen=True)
class _Tables:
    schema: pa.Schema
    objectives: tuple[str, ...]
    fields: Mapping[str, str]


def _loaded_classes() -> tuple[type[BaseModel], ...]:
    return (*CATALOGUE.values(), *MODELS.values(), *DATA_SOURCES.values())


@functools.lru_cache(maxsize=4)
def _tables_of(classes: tuple[type[BaseModel], ...]) -> _Tables:
    """Return what depends on `classes`, those that are loaded now."""
    fields = {name: kind for name, kind, _ in trial_columns()} | dict(tunable_columns())
    schema = pa.schema(
        [
            *fields_of((name, kind) for name, kind, _ in IDENTITY),
            *fields_of(fields.items()),
            *fields_of((c.name, c.kind) for c in (*metric_columns(), *COST_COLUMNS)),
            *fields_of((name, kind) for name, kind, _ in PROVENANCE),
        ],
        metadata={"lagvae_schema": SCHEMA_VERSION},
    )
    objectives = tuple(c.name for c in (*metric_columns(), *COST_COLUMNS) if c.kind in ("float", "int"))
    return _Tables(schema, objectives, fields)


CURVES_SCHEMA: pa.Schema = pa.schema(
    [
        *fields_of((name, kind) for name, kind, _ in IDENTITY if name in RUN_KEYS),
        *fields_of((c.name, c.kind) for c in CURVE_COLUMNS),
    ],
    metadata={"lagvae_schema": SCHEMA_VERSION},
)
