"""The monitor that passes the events of a sweep on to its trackers."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.analysis.front import front_of
from sweeps.execution.monitor import Monitor, Monitors, SilentMonitor
from sweeps.search.plan import Plan, Run
from sweeps.spec.sweep import SweepSpec
from sweeps.spec.yaml import dotted_items
from sweeps.storage.schema import ENDED, objective_columns
from sweeps.storage.table import ResultsFolder
from sweeps.trackers.process import POLL_SECONDS, Message, TrackerProcess
from sweeps.trackers.record import CompletionRecord
from sweeps.trackers.settings import tracker_settings

__all__ = ["TrackerMonitor", "with_trackers"]

CLOSE_SECONDS = 60.0
"""Longest time that the driver waits for the trackers after the sweep [s]."""

INTERRUPTED_SECONDS = 5.0
"""The same after an interruption [s]. It is shorter than what the supervisor grants the driver."""

QUIET_SECONDS = 2.0
"""Longest part of this time that passes without a notice [s]."""


def with_trackers(monitor: Monitor, spec: SweepSpec, folder: ResultsFolder) -> Monitor:
    """Return a monitor that passes all events on to `monitor` and to the trackers of the sweep.

    Args:
        monitor: Also notified if a tracker fails, and if the driver waits for one.
        spec: The sweep.
        folder: Folder of the sweep.

    Raises:
        ConfigError: A tracker is not installed, or its place is not known.
    """
    settings = tracker_settings(spec.trackers, folder)
    if not settings:
        return monitor
    trackers = TrackerMonitor(monitor, settings, folder)  # type: ignore[abstract]  # other events are ignored
    return Monitors(monitor, trackers)


class TrackerMonitor(SilentMonitor):
    """Passes the events of a sweep on to its trackers.

    A tracker also receives the stored runs that it has not received completely. A failed tracker is reported once and
    left out.

    Args:
        monitor: Notified if a tracker fails, and if the driver waits for one.
        settings: The arguments of each tracker's class, by name of the tracker.
        folder: Folder of the sweep.
    """

    def __init__(self, monitor: Monitor, settings: Mapping[str, Mapping[str, Any]], folder: ResultsFolder) -> None:
        self._monitor = monitor
        self._settings = settings
        self._folder = folder
        self._processes: list[TrackerProcess] = []
        self._records: dict[str, CompletionRecord] = {}
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._epochs: dict[str, int] = {}
        self._objectives: Mapping[str, Any] = {}
        self._arms: list[str] = []
        self._completed = self._interrupted = False

    def on_sweep_started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        self._rows, self._objectives = dict(plan.rows), plan.spec.objectives
        self._arms = [arm.name for arm in plan.spec.arms]
        for name, settings in self._settings.items():
            try:
                record = self._records[name] = CompletionRecord(self._folder, name, settings)
                missing = [
                    row for row in plan.rows.values() if plan.has_ended(row) and not record.holds(*_version(row))
                ]
                if plan.missing or missing or self._new_front(record) is not None:
                    backlog = _stored_runs(plan, missing, self._folder)
                    self._processes.append(TrackerProcess(name, settings, backlog, record))
            except OSError as error:
                self._monitor.on_tracker_failed(name, str(error))

    def on_run_started(self, run: Run) -> None:
        again = run.stored is not None and run.stored["status"] in ENDED
        epochs = self._folder.curve(run.run_id) if self._processes and run.stored is not None and not again else []
        self._epochs[run.run_id] = max((epoch["epoch"] for epoch in epochs), default=0)
        self._send([*_start(run, epochs, again=again)])

    def on_run_epoch(self, run: Run, epoch: Mapping[str, Any], epochs: int) -> None:
        # After a kill, a checkpoint can be later than the stored curve. What lies between is in the final curve.
        last = self._epochs.get(run.run_id, 0)
        if epoch["epoch"] <= last + 1:
            self._epochs[run.run_id] = max(last, epoch["epoch"])
            self._send([_epoch(run.run_id, epoch)])

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        self._rows[run.run_id] = row
        last = self._epochs.pop(run.run_id, 0)
        is_complete = not self._processes or (row["epochs"] or 0) <= last
        rest = [] if is_complete else [e for e in self._folder.curve(run.run_id) if e["epoch"] > last]
        self._send([*(_epoch(run.run_id, epoch) for epoch in rest), _end(row)])

    def on_interrupted(self, saving: bool) -> None:
        self._interrupted = True

    def on_time_up(self, saving: bool) -> None:
        self._interrupted = True

    def on_sweep_ended(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        self._completed = True
        for process in self._processes:
            if (front := self._new_front(self._records[process.name])) is not None:
                process.send([front])

    def close(self) -> None:
        for process in self._processes:
            process.close()
        started, noticed = time.monotonic(), False
        while waiting := [process for process in self._processes if not process.wait(POLL_SECONDS)]:
            passed = time.monotonic() - started
            if passed > self._patience:
                for process in waiting:
                    process.abandon(f"it did not receive everything within {self._patience:.0f} s after the sweep")
                break
            if passed > QUIET_SECONDS and not noticed:
                noticed = True
                self._monitor.on_tracker_wait([process.name for process in waiting], self._patience - passed)
        self._report_failures()
        self._processes = []

    @property
    def _patience(self) -> float:
        """Longest time that `close` waits [s]."""
        return CLOSE_SECONDS if self._completed and not self._interrupted else INTERRUPTED_SECONDS

    def _new_front(self, record: CompletionRecord) -> Message | None:
        """Return the message with the front of the rows; None if there is no front, or the tracker has received it."""
        # In the order of the table, because the order of equal configurations depends on that of the rows.
        runs = sorted(self._rows.values(), key=lambda row: (row["arm"], row["configuration"], row["seed"]))
        rows = [row.to_json() for row in front_of(runs, self._objectives)]
        objectives = dict(self._objectives)
        front = {"title": self._folder.sweep, "objectives": objectives, "arms": self._arms, "rows": rows}
        digest = hashlib.sha256(json.dumps(front).encode()).hexdigest()[:12]
        return {"call": "front", "digest": digest, **front} if rows and not record.holds("front", digest) else None

    def _send(self, messages: Sequence[Message]) -> None:
        for process in self._processes:
            process.send(messages)
        self._report_failures()

    def _report_failures(self) -> None:
        for process in self._processes:
            process.check()
            if process.failure is not None:
                self._monitor.on_tracker_failed(process.name, process.failure)
        self._processes = [process for process in self._processes if process.failure is None]


def _stored_runs(plan: Plan, rows: Sequence[Mapping[str, Any]], folder: ResultsFolder) -> Iterator[Message]:
    """Yield the messages about stored runs that have ended."""
    # One pass over all curves, because reading one run at a time is slow once the table is compacted.
    epochs = folder.curves() if rows else []
    curves = {run_id: list(of_run) for run_id, of_run in itertools.groupby(epochs, lambda epoch: epoch["run_id"])}
    for row in rows:
        run = plan.run(plan.configurations[row["arm"], row["configuration"]], row["seed"])
        yield from _start(run, curves.get(run.run_id, []))
        yield _end(row)


def _start(run: Run, epochs: Iterable[Mapping[str, Any]], *, again: bool = False) -> Iterator[Message]:
    """Yield the messages that a run starts, with the epochs of its earlier attempts.

    Args:
        run: The run.
        epochs: These epochs.
        again: Whether an earlier attempt that ended is repeated from its start.
    """
    identity = {"run_id": run.run_id, "config_id": run.config_id, "arm": run.arm, "configuration": run.configuration}
    yield {"call": "start", "run_id": run.run_id, "config": identity | _flat_config(run), "again": again}
    yield from (_epoch(run.run_id, epoch) for epoch in epochs)


def _epoch(run_id: str, epoch: Mapping[str, Any]) -> Message:
    values = _numbers(epoch, (column.name for column in CURVE_COLUMNS))
    return {"call": "epoch", "run_id": run_id, "epoch": epoch["epoch"], "values": values}


def _end(row: Mapping[str, Any]) -> Message:
    run_id, attempt = _version(row)
    outcome = {"status": row["status"], "stop_reason": row["stop_reason"] or ""}
    return {
        "call": "end",
        "run_id": run_id,
        "attempt": attempt,
        "values": _numbers(row, objective_columns()),
        **outcome,
    }


def _version(row: Mapping[str, Any]) -> tuple[str, int]:
    """Return what a completion record contains about a run."""
    return row["run_id"], row["attempt"]


def _numbers(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return the values of the numeric columns `names` that are not null."""
    return {name: values[name] for name in names if values.get(name) is not None}


def _flat_config(run: Run) -> dict[str, Any]:
    """Return the fields of the trial that are not null by dotted name. Those of a strategy begin with its kind."""
    values = run.config.model_dump(mode="json")
    strategies = {strategy.pop("kind"): strategy for strategy in values.pop("strategies")}
    fields = {name: value for name, value in dotted_items(values | strategies) if value is not None and value != {}}
    return fields | {"strategies": "+".join(strategies)}
