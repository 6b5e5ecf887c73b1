"""The columns of the table."""

from __future__ import annotations

import pyarrow as pa

from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from sweeps.storage.schema import CURVES_SCHEMA, ENDED, metric_columns, objective_columns, runs_schema


def test_columns_are_unique_and_typed():
    for schema in (runs_schema(), CURVES_SCHEMA):
        assert len(set(schema.names)) == len(schema.names)
        assert not any(pa.types.is_null(field.type) for field in schema)


def test_every_metric_and_every_tunable_field_has_a_column():
    names = set(runs_schema().names)
    assert {column.name for column in metric_columns()} <= names
    assert {f"{kind}.{field}" for kind, s in CATALOGUE.items() for field, _, _ in tunables(s)} <= names
    assert {column.name for s in CATALOGUE.values() for column in s.columns} <= names


def test_counts_are_integers_and_measurements_are_floats():
    types = {field.name: field.type for field in runs_schema()}
    assert {types[name] for name in ("seed", "attempt", "au", "iw_k", "n", "encoder_steps")} == {pa.int64()}
    assert {types[name] for name in ("nll_iw", "kl", "mi", "seconds", "beta_vae.beta")} == {pa.float64()}
    assert types["mean_variance"] == pa.list_(pa.float64())
    assert types["started_at"] == pa.timestamp("us", tz="UTC")


def test_objectives_are_numeric():
    types = {field.name: field.type for field in runs_schema()}
    assert {types[name] for name in objective_columns()} == {pa.float64(), pa.int64()}
    assert {"nll_iw", "au", "seconds"} <= set(objective_columns())
    assert not {"seed", "configuration", "attempt"} & set(objective_columns())


def test_final_statuses():
    assert set(ENDED) == {"finished", "stopped_early", "diverged", "out_of_memory", "failed"}
