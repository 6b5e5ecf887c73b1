"""Generate a sweep of any number of runs, with the values of one real run, three seeds per configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from lagvae_core import train
from lagvae_core.config.trial import format_run_id
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.storage.parquet import encode_table
from sweeps.storage.provenance import now, provenance
from sweeps.storage.schema import CURVES_SCHEMA, RUN_KEYS, runs_schema
from sweeps.storage.table import ResultsFolder

__all__ = ["NAME", "generate_sweep"]

NAME = "generated"
"""Name of the sweep."""

SEEDS = 3
FINGERPRINT = "0" * 64
ROWS_OF_A_FILE = 12_600
"""Rows of a compacted file; `compact` writes about as many."""

EPOCHS = 3
"""Epochs of each curve."""


def generate_sweep(results: str, runs: int, trial: dict[str, Any], *, compacted: bool) -> ResultsFolder:
    """Write a sweep of two arms, of which every 50th run diverged.

    Args:
        results: Folder of the results.
        runs: Number of runs.
        trial: Values of a trial that takes little time.
        compacted: Write compacted files, and no file per run.
    """
    folder = ResultsFolder(results, NAME)
    folder.prepare()
    spec = _spec(runs // (2 * SEEDS), trial)
    folder.write("spec.yaml", spec.source.encode())
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for row, curve in _runs(spec):
        rows.append(row)
        curves += curve
        if not compacted:
            _write(folder, f"runs/{row['run_id']}.parquet", [row], runs_schema())
            _write(folder, f"curves/{row['run_id']}.parquet", curve, CURVES_SCHEMA)
            rows, curves = [], []
        elif len(rows) == ROWS_OF_A_FILE:
            _write_compacted(folder, rows, curves)
            rows, curves = [], []
    if rows:
        _write_compacted(folder, rows, curves)
    return folder


def _spec(configurations: int, trial: dict[str, Any]) -> SweepSpec:
    values = {
        "name": NAME,
        "trial": trial,
        "arms": {
            "vae": {"strategies": [], "space": {"training.momentum": {"low": 0.0, "high": 0.9}}},
            "beta": [{"kind": "beta_vae", "beta": {"low": 0.1, "high": 1.0}}],
        },
        "space": {"training.learning_rate": {"low": 1e-3, "high": 1.0, "log": True}},
        "objectives": {"nll_iw": "min", "mi": "max"},
        "search": {"sampler": "random", "configurations": configurations, "seeds": SEEDS, "seed": 0},
    }
    return parse_spec(yaml.safe_dump(values, sort_keys=False))


def _runs(spec: SweepSpec) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield the row and the curve of each run, one configuration of each arm after the other."""
    rng, plan = np.random.default_rng(0), Plan(spec, FINGERPRINT, [])
    record = train(spec.trial_config(spec.arms[0], spec.arms[0].probe(), 0)).to_json()
    measured = record["metrics"] | record["cost"] | provenance()
    start = now()
    number = 0
    for arm, index in plan.order():
        parameters = {d.name: float(rng.uniform(*d.probes())) for d in arm.dimensions}
        config = spec.trial_config(arm, parameters, 0)
        config_id = config.config_id(FINGERPRINT)
        rate, excess, noise = rng.gamma(2.0), rng.gamma(2.0) / 2, rng.normal(scale=0.05, size=(SEEDS, 2))
        for seed in range(SEEDS):
            number += 1
            row = {
                **measured,
                **parameters,
                "sweep": NAME,
                "arm": arm.name,
                "run_id": format_run_id(config_id, seed),
                "config_id": config_id,
                "configuration": index,
                "seed": seed,
                "attempt": 1,
                "status": "finished",
                "parameters": json.dumps(parameters),
                "config": config.model_copy(update={"seed": seed}).model_dump_json(),
                "started_at": start + timedelta(seconds=number),
                "ended_at": start + timedelta(seconds=number + 1),
                "data_fingerprint": FINGERPRINT,
                "spec_hash": spec.hash,
                "device": "cpu",
                "threads": 1,
                "gpus": 0.0,
                "nll_iw": 20.0 + 0.3 * rate**2 + excess + noise[seed, 0],
                "valid_nll_elbo": 22.0 + noise[seed, 0],
                "mi": max(0.0, rate + noise[seed, 1]),
            }
            if number % 50 == 0:
                row |= {"status": "diverged", "nll_iw": None, "mi": None, "stop_reason": "the loss is not finite"}
            keys = {name: row[name] for name in RUN_KEYS}
            yield row, [keys | epoch | {"epoch": i + 1} for i, epoch in enumerate(record["curve"][:EPOCHS])]


def _write_compacted(folder: ResultsFolder, rows: list[dict[str, Any]], curves: list[dict[str, Any]]) -> None:
    name = f"compacted-{hashlib.sha256(rows[0]['run_id'].encode()).hexdigest()[:12]}.parquet"
    _write(folder, f"runs/{name}", rows, runs_schema())
    _write(folder, f"curves/{name}", curves, CURVES_SCHEMA)


def _write(folder: ResultsFolder, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write a file without flushing it, which would take most of the time."""
    assert folder.local_path is not None
    Path(folder.local_path / name).write_bytes(encode_table(pa.Table.from_pylist(rows, schema=schema)))
