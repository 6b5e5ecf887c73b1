"""Recording the runs of a sweep as rows of its table. The recorder is the only writer of the table."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lagvae_core.training.record import Progress
from sweeps.execution.failures import describe_loss, describe_restart, describe_silence
from sweeps.execution.live_curves import LiveCurves
from sweeps.execution.losses import LOST_RETRIES, SILENT_RETRIES, LossCounter, Position
from sweeps.execution.monitor import Monitor
from sweeps.search.budget import COST_SO_FAR
from sweeps.search.plan import Run
from sweeps.spec.space import value_of
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import checkpoint_name
from sweeps.storage.provenance import history_of, now
from sweeps.storage.schema import ENDED, field_columns, runs_schema
from sweeps.storage.table import ResultsFolder

__all__ = ["RunRecorder"]

STOPPED_COLUMNS = (
    *("valid_loss", "valid_nll_elbo", "valid_kl", "valid_mi", "valid_au"),
    *("seconds", "encoder_steps", "decoder_steps"),
)
"""Columns of the row of a run that was stopped early, which are those of its last epoch."""


class RunRecorder:
    """Writes one row per run: with status `running` when the run starts, and with its final status when it ends.

    While the run is trained, its curve is written from time to time (see `LiveCurves`).

    There is one recorder per driver. Its methods are called in the working thread of the driver within
    `capture_errors`. Only `close` may also be called in the supervising thread; afterwards nothing is written.

    Args:
        spec: The sweep.
        folder: Folder in which the rows are written.
        monitor: Notified when a run starts, progresses and ends.
        fingerprint: Fingerprint of the data.
        origin: Provenance of the code, as columns of a row.
        on_run_ended: Called with each ended run and its final row, before the monitor is notified.
        on_run_lost: Called with each run whose process was lost and which is to be started again.
        on_run_progress: Called with the row of a running run after each of its reports.

    Attributes:
        closed: Whether `close` was called.
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
        on_run_lost: Callable[[Run], None],
        on_run_progress: Callable[[Mapping[str, Any]], None] = lambda row: None,
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.fingerprint = fingerprint
        self.closed = False
        self.error: Exception | None = None
        self.statuses: dict[str, str] = {}
        self._monitor = monitor
        self._origin = origin
        self._run_ended = on_run_ended
        self._run_lost = on_run_lost
        self._run_progressed = on_run_progress
        self._lock = threading.RLock()
        self._scheduled: dict[str, Run] = {}
        self._running: dict[str, tuple[Run, dict[str, Any]]] = {}
        self._epochs: dict[str, int] = {}
        self._stopped: dict[str, str] = {}
        self._losses = LossCounter()
        self._curves = LiveCurves()
        self._silent: dict[str, dict[str, Any]] = {}
        self._loss_columns: dict[str, dict[str, Any]] = {}

    @property
    def has_active_runs(self) -> bool:
        """Whether the process of a run has started and has not ended."""
        return bool(self._running.keys() - self._scheduled.keys())

    @contextlib.contextmanager
    def capture_errors(self) -> Iterator[None]:
        """Context manager. Catches exceptions and stores the first one in `error`, which ends the sweep."""
        with self._lock:
            try:
                yield
            except Exception as error:
                self.error = self.error or error

    def on_run_scheduled(self, run: Run) -> None:
        """`run` was passed to Ray Tune, which starts it some time later, for the first time or again."""
        self._scheduled[run.run_id] = run

    def on_run_started(self, run_id: str) -> None:
        """The process of the run starts, for the first time or because its previous process was lost."""
        run = self._scheduled.pop(run_id)
        if run_id in self._running:
            self._record_restart(run_id)
            return
        row = self._first_row(run)
        self._write(row)
        self._curves.start(run_id, self.folder.curve(run_id) if run.stored is not None else [])
        self._running[run_id] = (run, row)
        self._monitor.on_run_started(run)

    def on_run_progress(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run reports an epoch, or its progress within a phase.

        Host and device are written to the row when a report first contains them. The cost so far is written only with
        the next version of the row, for example if the run is interrupted.
        """
        run, row = self._running[run_id]
        location = {name: report.get(name) for name in ("host", "device")}
        if any(row[name] != value for name, value in location.items()):
            row |= location
            self._write(row)
        if "phase" in report:
            progress = Progress(
                report["phase"], *(int(report[name]) for name in ("epoch", "phase_done", "phase_total"))
            )
            self._monitor.on_run_phase(run, progress, int(report["epochs"]))
        elif "curve" in report:
            epoch = json.loads(report["curve"], parse_constant=lambda constant: None)  # NaN and infinity become null
            self._epochs[run_id] = max(self._epochs.get(run_id, 0), int(report["epoch"]))
            self._curves.add(run_id, epoch)
            row |= {name: epoch[name] for name in COST_SO_FAR}
            self._run_progressed(row)
            self._monitor.on_run_epoch(run, epoch, int(report["epochs"]))
        self._curves.write_if_due(self.folder, row)

    def run(self, run_id: str) -> Run:
        """Return a run that is running."""
        return self._running[run_id][0]

    def curve(self, run_id: str) -> list[dict[str, Any]]:
        """Return the epochs of a running run in order, each once; an empty list for any other run.

        They are the stored epochs of its earlier attempts, up to the epoch from which the current attempt resumed, and
        those that it has reported since. If an earlier driver was killed, the last epochs before the kill may be
        missing.
        """
        return self._curves.get(run_id)

    def reported_epochs(self, run: Run) -> int:
        """Return how many epochs of a run that starts again need not be reported again.

        The last epoch is reported again, because an earlier driver may have been killed before it recorded that the run
        stops after this epoch. Without the epochs that are not stored, the run could not be compared any more.
        """
        stored = self.folder.curve(run.run_id) if run.stored is not None else []
        return max(0, len(self.curve(run.run_id) or stored) - 1)

    def on_run_stopped(self, run_id: str, reason: str) -> None:
        """Ray Tune is stopping the run early for `reason`. `on_run_ended` follows."""
        self._stopped[run_id] = reason

    def on_run_ended(self, run_id: str, report: Mapping[str, Any]) -> None:
        """The run ended. Its last report contains its record or its failure, or that it saved its checkpoint."""
        if "record" in report:
            record = json.loads(report["record"])
            values = {name: record[name] for name in ("status", "stop_reason")}
            values |= record["metrics"] | record["cost"] | {"warnings": json.dumps(record["warnings"])}
            self._record_end(run_id, values, record["curve"])
        elif "failure" in report:
            self._record_end(run_id, json.loads(report["failure"]), [])
        elif "interrupted" in report:
            self._record_interrupted(run_id, "the sweep was interrupted.")
        elif run_id in self._stopped:
            curve = self.curve(run_id)
            self._record_end(run_id, _stopped_values(self._stopped.pop(run_id), curve[-1]), curve)
        else:
            self.on_run_lost(run_id, "its worker ended without a record")

    def on_run_lost(self, run_id: str, error_text: str) -> None:
        """The process of the run, its node or the connection to the results was lost.

        The run is started again unless Ray killed it for lack of memory, or it was lost more than `LOST_RETRIES` times
        in a row without progress, or ended more than `SILENT_RETRIES` times because it was silent.

        Args:
            run_id: The run.
            error_text: Ray's description of the loss.
        """
        silence = self._silent.pop(run_id, None)
        if silence is not None:
            failure, ends = silence, self._losses.add_silence(run_id) > SILENT_RETRIES
        else:
            position = Position(self._epochs.get(run_id, 0), self.folder.modified(checkpoint_name(run_id)))
            losses = self._losses.add(run_id, position)
            failure = describe_loss(error_text, losses)
            ends = failure["status"] == "out_of_memory" or losses > LOST_RETRIES
        if ends:
            self._record_end(run_id, failure, [])
            return
        if silence is None:
            reason, columns = "its process was lost", describe_restart(error_text)
        else:
            reason, columns = silence["stop_reason"], {n: silence[n] for n in ("stop_reason", "error_class")}
        self._loss_columns[run_id] = columns
        run = self._scheduled.get(run_id) or self._running[run_id][0]
        self._scheduled[run_id] = run
        self._run_lost(run)
        self._monitor.on_run_lost(run, reason)

    def on_run_silent(self, run_id: str, seconds: float) -> None:
        """The run has reported nothing for `seconds`, and its process is being ended. `on_run_lost` follows."""
        self._silent[run_id] = describe_silence(seconds)

    def was_lost(self, run: Run) -> bool:
        """Return whether the process of `run` was lost since the driver started."""
        return self._losses.was_lost(run.run_id)

    def close(self, reason: str) -> None:
        """Record all runs that have not ended as interrupted, with `reason`. Their checkpoints are kept."""
        with self.capture_errors():
            self.closed = True
            for run_id in list(self._running):
                self._record_interrupted(run_id, reason)

    def _record_interrupted(self, run_id: str, reason: str) -> None:
        _, row = self._running.pop(run_id)
        self._curves.write(self.folder, row)
        self._curves.end(run_id)
        self._write(row | {"status": "interrupted", "stop_reason": reason, "ended_at": now()})

    def _first_row(self, run: Run) -> dict[str, Any]:
        return {
            **dict.fromkeys(runs_schema().names),
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
            "plugins": json.dumps(run.config.plugins, sort_keys=True) if run.config.plugins else None,
            "spec_hash": self.spec.hash,
            "threads": self.spec.resources.cpus,
            **_field_columns(run),
            "gpus": math.ceil(self.spec.resources.gpu_share) if run.alone else self.spec.resources.gpu_share,
            **_cost_before(run),
            **self._origin,
        }

    def _record_restart(self, run_id: str) -> None:
        _, row = self._running[run_id]
        lost = row | {"status": "interrupted", "ended_at": now()} | self._loss_columns.pop(run_id)
        row |= {"history": history_of(lost), "attempt": row["attempt"] + 1, "started_at": now()}
        row |= dict.fromkeys(("host", "device"))
        self._write(row)

    def _record_end(self, run_id: str, values: Mapping[str, Any], curve: Sequence[dict[str, Any]]) -> None:
        if run_id in self._scheduled:
            self.on_run_started(run_id)
        # From here on, an interruption leaves the row `running`, and never overwrites the final row.
        run, row = self._running.pop(run_id)
        row = {**row, **values, "ended_at": now()}
        assert row["status"] in ENDED, row["status"]
        if curve:
            self.folder.write_curve(row, list(curve))
        else:
            self._curves.write(self.folder, row)
        self._curves.end(run_id)
        self._silent.pop(run_id, None)
        self._write(row)
        self.folder.remove(checkpoint_name(run_id))
        self._run_ended(run, row)
        self._monitor.on_run_ended(run, row)

    def _write(self, row: Mapping[str, Any]) -> None:
        self.folder.write_run(row)
        self.statuses[row["run_id"]] = row["status"]


def _cost_before(run: Run) -> dict[str, Any]:
    """Return the cost of the earlier attempts if the run resumes from their checkpoint."""
    resumed = run.stored is not None and run.stored["status"] not in ENDED
    return {name: run.stored[name] for name in COST_SO_FAR} if run.stored is not None and resumed else {}


def _stopped_values(reason: str, last: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a run that was stopped early, from its last epoch. It was never measured."""
    values = {name: last.get(name) for name in STOPPED_COLUMNS}
    return {"status": "stopped_early", "stop_reason": reason, "epochs": last["epoch"], **values}


def _field_columns(run: Run) -> dict[str, Any]:
    """Return the columns for the fields of the trial and for the tunable fields of the run's strategies."""
    columns = field_columns()
    values = {name: value_of(run.config, name) for name in columns}
    return {name: str(v) if columns[name] == "str" and v is not None else v for name, v in values.items()}
