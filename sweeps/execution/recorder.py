"""The book of a running sweep: the table's only writer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sweeps.execution.failures import TRACEBACK_CHARACTERS
from sweeps.execution.monitor import Monitor
from sweeps.search.plan import Run
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import checkpoint_name
from sweeps.storage.provenance import history_of, now
from sweeps.storage.schema import ENDED, RUNS_SCHEMA, tunable_columns
from sweeps.storage.table import ResultsFolder

if TYPE_CHECKING:
    from sweeps.search.scheduler import RunScheduler

__all__ = ["RunRecorder"]


class RunRecorder:
    """Keeps the rows: `running` when a run starts, its end when it ends. One for each driver."""

    def __init__(
        self, spec: SweepSpec, folder: ResultsFolder, monitor: Monitor, scheduler: RunScheduler, origin: dict[str, Any]
    ) -> None:
        self.spec, self.folder, self.monitor, self.scheduler, self.origin = spec, folder, monitor, scheduler, origin
        self.error: Exception | None = None
        self._dealt: dict[str, Run] = {}
        self._open: dict[str, tuple[Run, dict[str, Any]]] = {}
        self._columns = [name for name, _ in tunable_columns()]

    @contextlib.contextmanager
    def capture_errors(self) -> Iterator[None]:
        """A block whose exception ends the sweep; the first one is kept in `error`."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def on_run_scheduled(self, run: Run) -> None:
        """The run was handed to Ray Tune, which may take its time."""
        self._dealt[run.run_id] = run

    def started(self, run_id: str) -> None:
        """The run's process starts; not for the first time if an earlier one was lost."""
        if run_id in self._open:
            self._restarted(run_id)
            return
        run = self._dealt.pop(run_id)
        row = {
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
            "warnings": json.dumps(list(run.config.warnings())),
            "parameters": json.dumps(dict(run.parameters), sort_keys=True),
            "config": run.config.model_dump_json(),
            "started_at": now(),
            "data_fingerprint": self.scheduler.plan.fingerprint,
            "spec_hash": self.spec.hash,
            "threads": self.spec.resources.cpus,
            **self._strategy_columns(run),
            **self.origin,
        }
        self.folder.write_run(row)
        self._open[run.run_id] = (run, row)
        self.monitor.run_started(run)

    def _strategy_columns(self, run: Run) -> dict[str, Any]:
        found = {}
        for strategy in run.config.strategies:
            for name in self._columns:
                kind, field = name.split(".")
                if kind == strategy.kind:
                    value = getattr(strategy, field)
                    found[name] = str(value) if name in _STRINGS and value is not None else value
        return found

    def progressed(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run's first report tells where it runs, and so does its row from then on."""
        run, row = self._open[run_id]
        where = {name: report.get(name) for name in ("host", "device")}
        if any(row[name] != value for name, value in where.items()):
            row |= where
            self.folder.write_run(row)
        if "epoch" in report:
            self.monitor.run_progressed(run, int(report["epoch"]), int(report["epochs"]))

    def _restarted(self, run_id: str) -> None:
        _, row = self._open[run_id]
        lost = row | {"status": "interrupted", "stop_reason": "its process was lost", "ended_at": now()}
        row |= {"history": history_of(lost), "attempt": row["attempt"] + 1, "started_at": now()}
        row |= dict.fromkeys(("host", "device"))
        self.folder.write_run(row)

    def ended(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run ended with its last report, which holds its record or its failure."""
        if "record" in report:
            record = json.loads(report["record"])
            values = {name: record[name] for name in ("status", "stop_reason")}
            values |= record["metrics"] | record["cost"]
            self._finish(run_id, values, record["curve"])
        elif "failure" in report:
            self._finish(run_id, json.loads(report["failure"]), [])
        else:
            self.failed(run_id, "its worker ended without a record", "")

    def failed(self, run_id: str, reason: str, error_text: str) -> None:
        """The run was lost more often than it is restarted."""
        values = {
            "status": "failed",
            "stop_reason": reason,
            "error_class": "WorkerLost",
            "traceback": error_text[-TRACEBACK_CHARACTERS:],
        }
        self._finish(run_id, values, [])

    def _finish(self, run_id: str, values: dict[str, Any], curve: list[dict[str, Any]]) -> None:
        if run_id in self._dealt:
            self.started(run_id)
        run, row = self._open[run_id]
        row = row | values | {"ended_at": now()}
        assert row["status"] in ENDED, row["status"]
        if curve:
            self.folder.write_curve(row, curve)
        self.folder.write_run(row)
        del self._open[run_id]
        self.folder.remove(checkpoint_name(run_id))
        self.scheduler.ended(run, row)
        self.monitor.run_ended(run, row)

    def close(self, reason: str) -> None:
        """No run goes on after this; those that were cut off keep their checkpoints."""
        with self.capture_errors():
            for _, row in self._open.values():
                self.folder.write_run(row | {"status": "interrupted", "stop_reason": reason, "ended_at": now()})
        self._open.clear()


_STRINGS = {name for name, kind in tunable_columns() if kind == "str"}
