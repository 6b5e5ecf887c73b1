"""The terminal display of a running sweep on stderr: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live

from lagvae_core.config.trial import data_warnings
from lagvae_core.training.record import Progress
from sweeps.cli.board import PHASE, RECENT_LINES, Board, describe_ended_run, describe_run, describe_time_left
from sweeps.cli.sweep_progress import SweepProgress, TimeLeft
from sweeps.cli.terminal import EscapingConsole
from sweeps.execution.gpu_sharing import MemoryEstimate, largest_estimate
from sweeps.execution.monitor import Monitor
from sweeps.formatting import describe_data, describe_tracker_failure, format_count, format_duration
from sweeps.search.plan import Plan, Run

__all__ = ["Display"]


class Display(Monitor):
    """A monitor that shows the progress of one driver.

    Its methods are called in threads of the driver. On a terminal, a separate thread redraws the board.

    Args:
        console: Console to print on; stderr by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or EscapingConsole(file=sys.stderr, markup=False)
        self.progress = SweepProgress()
        self._live: Live | None = None
        self._recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._warned: set[tuple[str, str]] = set()
        self._warned_about_data: set[str | None] = set()
        self._concurrent = 1
        self._started = time.monotonic()

    def on_sweep_started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        arms = plan.arms()
        self.progress = SweepProgress(arms, plan.spec.objectives, plan.rows.values())
        resumed = sum(arm.resumed for arm in arms)
        others = format_count(plan.earlier_runs, "stored row")
        self._print(describe_data(report))
        of_data = data_warnings(report)
        self._warned_about_data = {warning.code for warning in of_data}
        for warning in (*of_data, *plan.spec.warnings):
            self._print(f"warning, {warning}")
        self._print(
            f"sweep {plan.spec.name}: {format_count(len(arms), 'arm')}, {format_count(self.progress.total, 'run')}, "
            f"{self.progress.done} already stored"
            + (f", {resumed} to be resumed" if resumed else "")
            + (f"; {others} of an earlier version of the sweep" if plan.others else "")
        )

    def on_lease_wait(self, host: str, seconds: float) -> None:
        self._print(
            f"a driver on {host} holds the lease of this sweep; "
            f"waiting up to {format_duration(seconds)} to see whether that driver is still alive"
        )

    def on_memory_estimation(self, arms: Sequence[str]) -> None:
        self._print(f"gpus: auto, measuring the memory of {', '.join(arms)}, each on a whole GPU")

    def on_memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        if not estimates:
            self._print("gpus: auto, no GPU found: runs use the CPU")
            return
        largest = largest_estimate(estimates)
        sharing = f"{largest.runs} runs share a GPU" if largest.runs > 1 else "each run has a GPU to itself"
        if largest.error:
            reason = f"the memory of {largest.arm} is unknown ({largest.error})"
        else:
            reason = f"{largest.arm} uses {largest.peak_bytes / 2**30:.1f} of {largest.device_bytes / 2**30:.1f} GiB"
        self._print(f"gpus: auto, {sharing}: {reason}")

    def on_training_started(self, concurrent: int, cpus: int, gpus: float) -> None:
        self._concurrent = concurrent
        self._started = time.monotonic()
        place = format_count(cpus, "core") + (f" and {format_count(gpus, 'GPU')}" if gpus else "")
        self._print(f"{format_count(concurrent, 'run')} at a time on {place}")
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._board, console=self.console, refresh_per_second=2, transient=False)
            self._live.start()

    def on_run_started(self, run: Run) -> None:
        self.progress.start(run)

    def on_run_phase(self, run: Run, progress: Progress, epochs: int) -> None:
        self.progress.advance(run, progress, epochs)

    def on_run_epoch(self, run: Run, epoch: Mapping[str, Any], epochs: int) -> None:
        self.progress.end_epoch(run, epoch, epochs)

    def on_run_lost(self, run: Run, reason: str) -> None:
        self._print(f"{describe_run(run)}: {reason.rstrip('.')}; it is started again from its checkpoint")

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        self.progress.end(run, row)
        text = describe_ended_run(run, row, self.progress.objectives)
        if self._live is None:
            self._print(f"[{self.progress.done}/{self.progress.total}] {text}  {describe_time_left(self._time_left())}")
        self._recent.append(text)
        self._print_new_warnings(run, json.loads(row.get("warnings") or "[]"))

    def _print_new_warnings(self, run: Run, warnings: Sequence[str]) -> None:
        """Print the warnings of an ended run that the sweep file did not imply, once per arm and code."""
        known = {_code(str(warning)) for warning in run.config.warnings()} | self._warned_about_data
        for warning in warnings:
            key = run.arm, _code(warning)
            if key[1] not in known and key not in self._warned:
                self._warned.add(key)
                self._print(f"warning, {run.arm}: {warning}")

    def on_interrupted(self, saving: bool) -> None:
        self._print("saving running runs; press again to stop now" if saving else "stopping")

    def on_time_up(self, saving: bool) -> None:
        action = "saving running runs; press Ctrl-C to stop now" if saving else "the same command resumes the sweep"
        self._print(f"the time of --for is over; {action}")

    def on_tracker_failed(self, tracker: str, reason: str) -> None:
        self._print(f"warning, {describe_tracker_failure(tracker, reason)}")

    def on_tracker_wait(self, trackers: Sequence[str], seconds: float) -> None:
        self._print(f"waiting up to {format_duration(seconds)} for trackers to receive the rest: {', '.join(trackers)}")

    def on_sweep_ended(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        self.close()
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "no runs"
        self._print(f"{counts}, after {format_duration(self._elapsed())}")
        if stop_reason:
            self._print(stop_reason)

    def close(self) -> None:
        """Stop the board. It stays visible, and later output appears below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _time_left(self) -> TimeLeft | None:
        return self.progress.time_left(self._concurrent)

    def _board(self) -> Board:
        return Board(self.progress, self._elapsed(), self._time_left(), list(self._recent), PHASE)


def _code(warning: str) -> str:
    """Return the code of a warning such as "W1: text"; the whole text if it has no code."""
    return warning.split(": ", 1)[0]
