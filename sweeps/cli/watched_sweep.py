"""What `lagvae watch` shows of a stored sweep at one time: counts, changes since the last reading, and notes."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sweeps.analysis.following import RunningRun, SweepSnapshot
from sweeps.cli.board import LAST_NEWS, RECENT_LINES, Board, describe_ended_run, describe_run, describe_time_left
from sweeps.cli.sweep_progress import RunProgress, SweepProgress, TimeLeft
from sweeps.execution.driver import SweepOutcome
from sweeps.formatting import format_count, format_duration
from sweeps.search.budget import BudgetMeter
from sweeps.search.plan import Plan, Run
from sweeps.storage.driver_observer import DriverSign, DriverState
from sweeps.storage.provenance import now
from sweeps.storage.schema import ENDED

__all__ = ["WatchedSweep"]

QUIET_SECONDS = 120.0
"""Time without news after which the watch asks whether the driver is still running [s]. If an epoch takes longer, it is
twice the duration of an epoch, because a run writes nothing within an epoch."""

SESSION_GAP = timedelta(seconds=120)
"""Time without a running run after which the next run belongs to a later session."""

Row = Mapping[str, Any]


class WatchedSweep:
    """A stored sweep at one time.

    Args:
        snapshot: What the table says.
        driver: What lock and lease say.
        before: The sweep at the reading before, from which unchanged parts are taken; None at the first.
    """

    def __init__(self, snapshot: SweepSnapshot, driver: DriverSign, before: WatchedSweep | None = None) -> None:
        self.plan = snapshot.plan
        self.driver = driver
        self._snapshot = snapshot
        self._concurrent: int = max(len(snapshot.running), 1 if before is None else before._concurrent)
        same = before if before is not None and before.plan is snapshot.plan else None
        self.progress: SweepProgress = _progress_of(snapshot.plan) if same is None else same.progress
        self.progress.running = {run.run.run_id: _run_progress(run) for run in snapshot.running}
        self._recent: list[str] = list(self._recent_lines()) if same is None else same._recent

    @functools.cached_property
    def complete(self) -> bool:
        """Whether every run of the sweep has ended, or its budget is used up and no run is left that has started."""
        resumed = sum(arm.resumed for arm in self.progress.arms)
        return resumed == 0 and (self.progress.done >= self.progress.total or self._budget_reason != "")

    @property
    def exit_code(self) -> int:
        """The exit code with which the driver of a complete sweep ends."""
        return SweepOutcome(self._statuses, "", interrupted=False).exit_code

    @functools.cached_property
    def time_left(self) -> TimeLeft | None:
        """Estimated time left; None if no run is running, or if it is doubtful whether a driver still trains it."""
        return self.progress.time_left(self._concurrent) if self._is_driven else None

    def board(self) -> Board:
        return Board(self.progress, self._elapsed(), self.time_left, self._recent, LAST_NEWS, self.notes())

    def introduction(self) -> str:
        """Return a line with the counts of the sweep."""
        arms, total = len(self.progress.arms), self.progress.total
        counts = Counter(status for status in self._statuses.elements() if status not in ENDED)
        unfinished = "".join(f", {count} {status}" for status, count in sorted(counts.items()))
        others = format_count(len(self.plan.others), "stored row")
        return (
            f"sweep {self.plan.spec.name}: {format_count(arms, 'arm')}, {format_count(total, 'run')}, "
            f"{self.progress.done} ended{unfinished}"
            + (f"; {others} of an earlier version of the sweep" if self.plan.others else "")
        )

    def summary(self) -> str:
        """Return a line about a complete sweep."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self._statuses.items())) or "no runs"
        return "; ".join(filter(None, [f"{counts}, after {format_duration(self._elapsed())}", self._budget_reason]))

    def changes(self, before: WatchedSweep) -> list[str]:
        """Return a line for each run that has ended, was interrupted or was started again since `before`."""
        known = before.plan.rows
        changed = [row for run_id, row in self.plan.rows.items() if _key(row) != _key(known.get(run_id))]
        lines = []
        for row in sorted(changed, key=_time):
            if row["status"] in ENDED:
                lines.append(describe_ended_run(self._run(row), row, self.progress.objectives))
            elif row["status"] == "interrupted":
                lines.append(f"{describe_run(self._run(row))}: interrupted")
            elif row["attempt"] > 1:
                lines.append(f"{describe_run(self._run(row))}: started again, attempt {row['attempt']}")
        left = describe_time_left(self.time_left)
        return [f"[{self.progress.done}/{self.progress.total}] {line}  {left}".rstrip() for line in lines]

    def notes(self) -> list[str]:
        """Return what is worth knowing besides the counts: whether there is a driver, and what cannot be read."""
        notes = [self._driver_note()]
        if self._snapshot.outdated:
            notes.append(f"the sweep file has changed and cannot be read: {self._snapshot.outdated}")
        for name, reason in list(self._snapshot.unreadable.items())[:1]:
            count = format_count(len(self._snapshot.unreadable), "file")
            notes.append(
                f"{count} cannot be read and {_are(len(self._snapshot.unreadable))} not counted: {name}, {reason}"
            )
        return [note for note in notes if note]

    @functools.cached_property
    def _is_driven(self) -> bool:
        """Whether runs are running and nothing makes it doubtful that a driver trains them."""
        is_present = self.driver.state is DriverState.PRESENT or not self._driver_note()
        return bool(self._snapshot.running) and is_present

    def _driver_note(self) -> str:
        """Return a note if nothing shows that a driver works on the rest of the sweep; "" otherwise."""
        if self.complete:
            return ""
        news_at = self._snapshot.news_at
        seconds = 0.0 if news_at is None else max(0.0, time.time() - news_at)
        longest = max((run.epoch_seconds or 0.0 for run in self.progress.running.values()), default=0.0)
        quiet = f"no news for {format_duration(seconds)}" if seconds > max(QUIET_SECONDS, 2 * longest) else ""
        interrupted = self._statuses["interrupted"]
        left = f"{interrupted} of the runs left {_are(interrupted)} interrupted; " if interrupted else ""
        match self.driver.state:
            case DriverState.ABSENT:
                return f"{left}no driver is running this sweep; running it again resumes it"
            case DriverState.SILENT:
                silent = format_duration(self.driver.seconds)
                return (
                    f"the driver on {self.driver.host} has not renewed its lease for {silent}; it may have been killed"
                )
            case DriverState.PRESENT if quiet:
                holder = f"a driver on {self.driver.host}" if self.driver.host else "a driver on this machine"
                return f"{quiet}, but {holder} is running"
            case DriverState.UNKNOWN if quiet:
                return f"{left}{quiet}; is the driver still running?"
        return "no run has started yet" if not self.plan.rows else ""

    @functools.cached_property
    def _statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in self.plan.rows.values())

    @functools.cached_property
    def _budget_reason(self) -> str:
        spent = BudgetMeter(self.plan.spec.search.budget, self.plan.rows.values()).spent()
        return f"the budget is used up ({spent})" if spent is not None else ""

    def _elapsed(self) -> float:
        """Return how long the latest session has been running, or took [s]."""
        if self._session is None:
            return 0.0
        start, end = self._session
        return max(0.0, ((now() if self._is_driven else end) - start).total_seconds())

    @functools.cached_property
    def _session(self) -> tuple[datetime, datetime] | None:
        """Start of the first run and end of the last run of the latest session, whose runs follow without a gap.

        A run that is said to be running ends with the last news.
        """
        rows = [row for row in self.plan.rows.values() if row["started_at"] is not None]
        last = datetime.fromtimestamp(self._snapshot.news_at or 0.0, UTC)
        session: tuple[datetime, datetime] | None = None
        for row in sorted(rows, key=lambda row: row["started_at"]):
            start, end = row["started_at"], row["ended_at"] or last
            if session is None or start > session[1] + SESSION_GAP:
                session = start, end
            session = session[0], max(session[1], end)
        return session

    def _recent_lines(self) -> Iterator[str]:
        rows = [row for row in self.plan.rows.values() if row["status"] in ENDED]
        for row in sorted(rows, key=_time)[-RECENT_LINES:]:
            yield describe_ended_run(self._run(row), row, self.progress.objectives)

    def _run(self, row: Row) -> Run:
        return self.plan.run(self.plan.configurations[row["arm"], row["configuration"]], row["seed"])


def _progress_of(plan: Plan) -> SweepProgress:
    progress = SweepProgress(plan.arms(), plan.spec.objectives, plan.rows.values())
    ended = [row["status"] for row in plan.rows.values() if plan.has_ended(row)]
    progress.unsuccessful.update(status for status in ended if status != "finished")
    return progress


def _run_progress(running: RunningRun) -> RunProgress:
    monotonic, clock = time.monotonic(), time.time()
    started_at = running.row["started_at"]
    # An edited table can lack these values.
    epochs = [epoch for epoch in running.epochs if epoch["epoch"] and epoch["seconds"] is not None]
    return RunProgress(
        running.run,
        epochs=running.run.config.epochs,
        epoch=epochs[-1] if epochs else None,
        started=min(monotonic, monotonic - clock + (started_at.timestamp() if started_at is not None else clock)),
        news_at=monotonic - clock + running.news_at,
    )


def _key(row: Row | None) -> tuple[Any, ...]:
    return () if row is None else (row["status"], row["attempt"])


def _time(row: Row) -> tuple[bool, Any]:
    """Return when a run ended or, if it is running, started, as a key for sorting."""
    moment = row["ended_at"] or row["started_at"]
    return moment is not None, moment


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
