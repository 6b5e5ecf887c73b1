"""Recording the runs of a sweep as rows of its table. The recorder is the only writer of the table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sweeps.execution.failures import TRACEBACK_CHARACTERS
from sweeps.execution.monitor import Monitor
from sweeps.search.plan import Run
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import checkpoint_name
from sweeps.storage.provenance import history_of, now
from sweeps.storage.schema import ENDED, RUNS_SCHEMA, tunable_columns
from sweeps.storage.table import ResultsFolder

__all__ = ["RunRecorder"]


class RunRecorder:
    """Writes one row per run: with status `running` when the run starts, and with its final status when it ends.

    There is one recorder per driver. All methods are called in the driver's thread.

    Args:
        spec: The sweep.
        folder: Folder in which the rows are written.
        monitor: Notified when a run starts, progresses and ends.
        fingerprint: Fingerprint of the data.
        origin: Provenance of the code, as columns of a row.
        on_run_ended: Called with each ended run and its final row, before the monitor is notified.

    Attributes:
        error: The first captured exception, which ends the sweep; None if no exception has been captured.
        statuses: Latest status of every run that was recorded, by run id.
    """

    def __init__(
        self,
        spec: SweepSpec,
        folder: ResultsFolder,
        monitor: Monitor,
        *,
        fingerprint: str,
        origin: Mapping[str, Any],
        on_run_ended: Callable[[Run, Mapping[str, Any]], None],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.fingerprint = fingerprint
        self.error: Exception | None = None
        self.statuses: dict[str, str] = {}
        self._monitor = monitor
        self._origin = origin
        self._run_ended = on_run_ended
        self._scheduled: dict[str, Run] = {}
        self._running: dict[str, tuple[Run, dict[str, Any]]] = {}

    @contextlib.contextmanager
    def capture_errors(self) -> Iterator[None]:
        """Context manager. Catches exceptions and stores the first one in `error`, which ends the sweep."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def on_run_scheduled(self, run: Run) -> None:
        """`run` was passed to Ray Tune, which starts it some time later."""
        self._scheduled[run.run_id] = run

    def on_run_started(self, run_id: str) -> None:
        """The process of the run starts, for the first time or because its previous process was lost."""
        if run_id in self._running:
            self._record_restart(run_id)
            return
        run = self._scheduled.pop(run_id)
        row = self._first_row(run)
        self._write(row)
        self._running[run_id] = (run, row)
        self._monitor.on_run_started(run)

    def on_run_progress(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run reports its progress. Host and device are written to the row when a report first contains them."""
        run, row = self._running[run_id]
        location = {name: report.get(name) for name in ("host", "device")}
        if any(row[name] != value for name, value in location.items()):
            row |= location
            self._write(row)
        if "epoch" in report:
            self._monitor.on_run_progress(run, int(report["epoch"]), int(report["epochs"]))

    def on_run_ended(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run ended. Its last report contains its record or its failure."""
        if "record" in report:
            record = json.loads(report["record"])
            values = {name: record[name] for name in ("status", "stop_reason")}
            values |= record["metrics"] | record["cost"] | {"warnings": json.dumps(record["warnings"])}
            self._record_end(run_id, values, record["curve"])
        elif "failure" in report:
            self._record_end(run_id, json.loads(report["failure"]), [])
        else:
            self.on_run_failed(run_id, "its worker ended without a record", "")

    def on_run_failed(self, run_id: str, reason: str, error_text: str) -> None:
        """The run ended without a result, usually because its process was lost more often than Tune restarts it."""
        values = {
            "status": "failed",
            "stop_reason": reason,
            "error_class": "WorkerLost",
            "traceback": error_text[-TRACEBACK_CHARACTERS:],
        }
        self._record_end(run_id, values, [])

    def close(self, reason: str) -> None:
        """Record all runs that have not ended as interrupted, with `reason`. Their checkpoints are kept."""
        with self.capture_errors():
            for _, row in self._running.values():
                self._write(row | {"status": "interrupted", "stop_reason": reason, "ended_at": now()})
        self._running.clear()

    def _first_row(self, run: Run) -> dict[str, Any]:
        return {
            **dict.fromkeys(RUNS_SCHEMA.names),
            "sweep": self.spec.name,
            "arm": run.arm,
            "run_id": run.run_id,
            "config_id": run.config_id,
            "configuration": run.configuration,
            "seed": run.seed,
            "attempt": run.attempt,
            "status": "running",
            "history": history_of(run.stored) if run.stored is not None else None,
            "warnings": json.dumps([str(warning) for warning in run.config.warnings()]),
            "parameters": json.dumps(dict(run.parameters), sort_keys=True),
            "config": run.config.model_dump_json(),
            "started_at": now(),
            "data_fingerprint": self.fingerprint,
            "spec_hash": self.spec.hash,
            "threads": self.spec.resources.cpus,
            **_strategy_columns(run),
            **self._origin,
        }

    def _record_restart(self, run_id: str) -> None:
        _, row = self._running[run_id]
        lost = row | {"status": "interrupted", "stop_reason": "its process was lost", "ended_at": now()}
        row |= {"history": history_of(lost), "attempt": row["attempt"] + 1, "started_at": now()}
        row |= dict.fromkeys(("host", "device"))
        self._write(row)

    def _record_end(self, run_id: str, values: Mapping[str, Any], curve: Sequence[dict[str, Any]]) -> None:
        if run_id in self._scheduled:
            self.on_run_started(run_id)
        run, row = self._running[run_id]
        row = {**row, **values, "ended_at": now()}
        assert row["status"] in ENDED, row["status"]
        if curve:
            self.folder.write_curve(row, list(curve))
        self._write(row)
        del self._running[run_id]
        self.folder.remove(checkpoint_name(run_id))
        self._run_ended(run, row)
        self._monitor.on_run_ended(run, row)

    def _write(self, row: Mapping[str, Any]) -> None:
        self.folder.write_run(row)
        self.statuses[row["run_id"]] = row["status"]


_TUNABLE_COLUMNS = dict(tunable_columns())
"""Type (`float`, `int` or `str`) of every column `kind.field`."""


def _strategy_columns(run: Run) -> dict[str, Any]:
    """Return the columns for the tunable fields of the run's strategies, with their values."""
    values = {}
    for strategy in run.config.strategies:
        for name, column_type in _TUNABLE_COLUMNS.items():
            kind, field = name.split(".")
            if kind == strategy.kind:
                value = getattr(strategy, field)
                values[name] = str(value) if column_type == "str" and value is not None else value
    return values
