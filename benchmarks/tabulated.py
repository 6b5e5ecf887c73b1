"""Tabulated runs: the stored curves and metrics of a sweep, which stand in for training.

A table is one Parquet file with one row per run of a finished sweep. A search over the same space draws runs with the
same identities, so each of its runs can be replayed: by the clock of a simulation (`search.py`), or in the workers of
the real driver (`replayed`).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from lagvae_core import EpochRecord, TrialConfig, TrialRecord
from lagvae_core.data import Dataset
from lagvae_core.training.record import CURVE_COLUMNS, Progress
from sweeps.execution import driver
from sweeps.execution.resources import NodeCapacity
from sweeps.execution.worker import train_run
from sweeps.storage.schema import COST_COLUMNS, objective_columns
from sweeps.storage.table import ResultsFolder

__all__ = ["Table", "TabulatedRun", "TabulatedTrial", "replayed", "write_table"]

CURVE = tuple(column.name for column in CURVE_COLUMNS)
COSTS = tuple(column.name for column in COST_COLUMNS)


@dataclass(frozen=True)
class TabulatedRun:
    """One run of a table.

    Args:
        metrics: Values of numeric columns at the end of the run.
        costs: Values of the columns of cost.
        curve: One mapping per epoch, with the columns of the curve.
    """

    metrics: Mapping[str, Any]
    costs: Mapping[str, Any]
    curve: tuple[Mapping[str, Any], ...]


class Table:
    """The runs of a tabulated sweep.

    Args:
        path: File of the table.

    Attributes:
        fingerprint: Fingerprint of the data of the sweep.
        spec: Text of the sweep file.
        runs: The runs by `run_id`.
    """

    def __init__(self, path: Path | str) -> None:
        table = pq.read_table(path)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        self.fingerprint, self.spec = metadata["fingerprint"], metadata["spec"]
        self.runs = {row["run_id"]: _run(row) for row in table.to_pylist()}


def _run(row: Mapping[str, Any]) -> TabulatedRun:
    curves = {name: row[f"curve.{name}"] for name in CURVE}
    curve = tuple(dict(zip(CURVE, values, strict=True)) for values in zip(*curves.values(), strict=True))
    metrics = {name: value for name, value in row.items() if name in objective_columns() and name not in COSTS}
    return TabulatedRun(metrics, {name: row[name] for name in COSTS}, curve)


def write_table(folder: ResultsFolder, path: Path) -> None:
    """Write the finished runs of a stored sweep as a table."""
    rows = [row for row in folder.runs() if row["status"] == "finished"]
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for epoch in folder.curves():
        curves.setdefault(epoch["run_id"], []).append(epoch)
    measured = [name for name in objective_columns() if any(row[name] is not None for row in rows)]
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("run_id", *measured, *COSTS)}
    for name in CURVE:
        columns[f"curve.{name}"] = [[epoch[name] for epoch in curves[row["run_id"]]] for row in rows]
    spec = folder.read("spec.yaml")
    assert spec is not None
    table = pa.table(columns).replace_schema_metadata({"fingerprint": rows[0]["data_fingerprint"], "spec": spec})
    pq.write_table(table, path, compression="zstd")


class TabulatedTrial:
    """Stands in for `lagvae_core.train`: reports the stored epochs of a run, and returns a record with its results.

    It has no checkpoints, so a run that was interrupted starts again.

    Args:
        path: File of the table, which each worker process reads once.
        time_scale: Factor on the stored times of the run, which it waits; 0 waits nowhere.
        any_run: Whether a run that the table lacks is replayed as one that it has, with no more epochs than it plans.
            Otherwise the table must have every run.
    """

    def __init__(self, path: Path | str, time_scale: float = 0.0, *, any_run: bool = False) -> None:
        self._path = path
        self._time_scale = time_scale
        self._any_run = any_run
        self._table: Table | None = None

    def __call__(
        self,
        config: TrialConfig,
        *,
        report: Callable[[EpochRecord], Any],
        progress: Callable[[Progress], None],
        dataset: Dataset,
        **options: Any,
    ) -> TrialRecord:
        """Replay a run; the arguments are those of `lagvae_core.train`, of which `options` have no effect."""
        run_id = config.run_id(dataset.fingerprint)
        run = self._run(run_id)
        curve = [EpochRecord(dict(values)) for values in run.curve[: config.epochs]]
        passed = 0.0
        for epoch in curve:
            self._wait(epoch["seconds"] - passed, functools.partial(progress, Progress("train", epoch.epoch, 0, 1)))
            passed = epoch["seconds"]
            report(epoch)
        last = Progress("evaluate", len(curve), 0, 1)
        self._wait(run.costs["seconds"] - passed, functools.partial(progress, last))
        return TrialRecord(
            config=config,
            run_id=run_id,
            config_id=config.config_id(dataset.fingerprint),
            data_fingerprint=dataset.fingerprint,
            status="finished",
            stop_reason="the stored run was replayed.",
            metrics=dict(run.metrics),
            curve=curve,
            cost=dict(run.costs),
        )

    def _run(self, run_id: str) -> TabulatedRun:
        self._table = self._table or Table(self._path)
        runs = self._table.runs
        if self._any_run and run_id not in runs:
            return list(runs.values())[zlib.crc32(run_id.encode()) % len(runs)]
        return runs[run_id]

    def _wait(self, seconds: float, progress: Callable[[], None]) -> None:
        """Wait for stored `seconds`, calling `progress` at the start and about once per second."""
        deadline = time.monotonic() + seconds * self._time_scale
        progress()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            progress()


@contextlib.contextmanager
def replayed(trial: TabulatedTrial, workers: int) -> Iterator[None]:
    """Context manager in which the `workers` of `driver.run_sweep` replay stored runs instead of training them."""
    from ray import cloudpickle

    # Workers cannot import this module, so its content is sent to them.
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        with (
            mock.patch.object(driver, "train_run", functools.partial(train_run, train=trial)),
            mock.patch.object(driver, "local_capacity", return_value=NodeCapacity(workers, 0)),
        ):
            yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
