"""Following a stored sweep while a driver elsewhere runs it: only what has changed is read, and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError
from sweeps.analysis.stored import PLAN_COLUMNS, current_plan, stored_spec
from sweeps.search.budget import COST_SO_FAR
from sweeps.search.plan import Plan, Run
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.folder import FileVersion
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import KnownFiles, ResultsFolder

__all__ = ["RunningRun", "SweepFollower", "SweepSnapshot", "default_pause", "pause_after"]

COLUMNS = (
    *("configuration", *PLAN_COLUMNS, *COST_SO_FAR),
    *("ended_at", "stop_reason", "seconds_evaluate", "epochs", "gpus", "device"),
)
"""Columns of a run that a snapshot has besides its objectives."""

LOCAL_SECONDS = 2.0
"""Default time between two readings of a folder on a disk or network share [s]."""

OBJECT_STORE_SECONDS = 10.0
"""The same on an object store, where each list of files is a request that costs money [s]."""

READING_FRACTION = 0.2
"""Largest fraction of its time that a reader spends on reading."""


@dataclass(frozen=True)
class RunningRun:
    """A run whose row says `running`.

    Args:
        run: The run.
        row: Its row.
        epochs: Its stored epochs in order, with the columns of the curve.
        news_at: When its row or curve last changed, by the clock of this machine [s since the epoch].
    """

    run: Run
    row: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    news_at: float


@dataclass(frozen=True)
class SweepSnapshot:
    """What the table of a sweep says at one time.

    Args:
        plan: The stored rows, and the runs that are missing. It is the same object as long as no row changes.
        running: The running runs, in the order in which they started.
        unreadable: Reasons by the names of files that cannot be read.
        news_at: When the rows or the curve of a running run last changed, by the clock of this machine [s since the
            epoch]; None if nothing is stored.
        outdated: Why the sweep file of a later driver cannot be read, so that the former one still counts; "" if it can
            be read.
    """

    plan: Plan
    running: Sequence[RunningRun]
    unreadable: Mapping[str, str]
    news_at: float | None
    outdated: str = ""


class SweepFollower:
    """Reads a stored sweep again and again.

    A file that cannot be read, for example because it has been synchronised only in part, is left out until it changes.

    Args:
        folder: The folder of the sweep.
    """

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._spec: SweepSpec | None = None
        self._spec_modified: int | None = None
        self._outdated = ""
        self._known = KnownFiles()
        self._planned: Mapping[str, FileVersion | None] = {}
        self._plan: Plan | None = None
        self._unreadable: Mapping[str, str] = {}
        self._curves: dict[str, tuple[FileVersion, list[dict[str, Any]]]] = {}
        self._news: dict[str, tuple[object, float]] = {}
        self._news_at: float | None = None

    def read(self) -> SweepSnapshot:
        """Read what has changed, and return the sweep as it is stored now.

        Raises:
            ConfigError: The stored sweep file is missing or invalid, or a plugin is needed (see `stored_spec`).
            StoreError: The storage cannot be accessed.
        """
        plan = self._read_plan(self._read_spec())
        rows = [row for row in plan.rows.values() if row["status"] == "running"]
        rows.sort(key=lambda row: (row["started_at"] is not None, row["started_at"]))
        self._read_curves([row["run_id"] for row in rows])
        running = [self._running(plan, row) for row in rows]
        self._news = {run.run.run_id: self._news[run.run.run_id] for run in running}
        if self._news_at is not None:
            self._news_at = max([self._news_at, *(run.news_at for run in running)])
        return SweepSnapshot(plan, running, self._unreadable, self._news_at, self._outdated)

    def _read_spec(self) -> SweepSpec:
        """Return the sweep file of the latest driver, or the former one if the latest cannot be read."""
        modified = self._folder.modified("spec.yaml")
        if self._spec is None or modified != self._spec_modified:
            try:
                self._spec, self._outdated = stored_spec(self._folder), ""
                self._known = KnownFiles()  # its objectives may be other columns
            except ConfigError as error:
                if self._spec is None:
                    raise
                self._outdated = str(error.issues[0])
            self._spec_modified = modified
        return self._spec

    def _read_plan(self, spec: SweepSpec) -> Plan:
        """Return the plan of `spec` with the rows that are stored now; the former one if no row has changed."""
        stored = self._folder.read_table("runs", runs_schema(), [*COLUMNS, *spec.objectives], self._known)
        if self._plan is None or self._plan.spec is not spec or self._planned != self._known.versions:
            if self._planned:
                self._news_at = time.time()
            elif self._known.versions:
                self._news_at = _modified_at(self._known.versions.values())
            self._plan = current_plan(spec, stored.sorted_runs(), self._plan)
            self._planned, self._unreadable = self._known.versions, stored.unreadable
        return self._plan

    def _read_curves(self, run_ids: Iterable[str]) -> None:
        """Read the curves of running runs that have changed. A curve that cannot be read stays as it was."""
        names = {f"curves/{run_id}.parquet": run_id for run_id in run_ids}
        versions = self._folder.versions("curves", names) if names else {}
        curves = {}
        for name, version in versions.items():
            run_id = names[name]
            before = self._curves.get(run_id)
            if version is not None and (before is None or before[0] != version):
                before = version, self._folder.curve(run_id) or (before[1] if before is not None else [])
            if before is not None:
                curves[run_id] = before
        self._curves = curves

    def _running(self, plan: Plan, row: Mapping[str, Any]) -> RunningRun:
        run_id = row["run_id"]
        run = plan.run(plan.configurations[row["arm"], row["configuration"]], row["seed"])
        versions = [self._known.versions.get(f"runs/{run_id}.parquet")]
        version, epochs = self._curves.get(run_id, (None, []))
        versions.append(version)
        signature, at = self._news.get(run_id, (None, _modified_at(versions)))
        if signature is not None and signature != versions:
            at = time.time()
        self._news[run_id] = versions, at
        return RunningRun(run, row, epochs, at)


def default_pause(results: str) -> float:
    """Return the time between two readings of a sweep in the folder or URI `results` [s]."""
    is_path = "://" not in results or results.startswith("file://")
    return LOCAL_SECONDS if is_path else OBJECT_STORE_SECONDS


def pause_after(seconds: float, every: float) -> float:
    """Return the pause after a reading that took `seconds`, in order to read `every` so many seconds, or less often."""
    return max(every - seconds, seconds * (1 / READING_FRACTION - 1))


def _modified_at(versions: Iterable[FileVersion | None]) -> float:
    """Return the latest time of modification of files, but no later than now, because the storage may be ahead."""
    times = [version.modified_ns / 1e9 for version in versions if version is not None]
    return min([time.time(), max(times, default=float("inf"))])
