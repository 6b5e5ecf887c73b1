"""The terminal display of a running sweep on stderr: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lagvae_core.config.trial import data_warnings
from lagvae_core.training.record import Progress
from sweeps.cli.sweep_progress import EPOCH_PHASES, RunProgress, SweepProgress
from sweeps.cli.terminal import EscapingConsole
from sweeps.execution.gpu_sharing import MemoryEstimate, largest_estimate
from sweeps.execution.monitor import Monitor
from sweeps.formatting import describe_data, format_duration, format_parameters, printable
from sweeps.search.plan import Plan, Run

__all__ = ["Display"]

REASON_CHARACTERS = 120
"""Maximum length of a stop reason in a line about a run."""


VALIDATION = {"valid_nll_elbo": "-ELBO", "valid_kl": "KL", "valid_mi": "MI", "valid_au": "AU"}
"""Columns of the last epoch that the board shows for each running run, with their headings."""

COLUMN_GAP = 2
"""Number of characters between two columns of a table."""

FEWEST_CHARACTERS = 8
"""Smallest width of a column that is shortened on a narrow terminal. The column of the parameters is then left out."""

FEWEST_RUNS = 3
"""Number of running runs that the board shows on a terminal of any height."""

OTHER_LINES = 10
"""Number of lines of the board that show neither an arm nor a running run, including space below the board."""


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
        self._recent: deque[str] = deque(maxlen=4)
        self._warned: set[tuple[str, str]] = set()
        self._warned_about_data: set[str | None] = set()
        self._concurrent = 1
        self._started = time.monotonic()

    def on_sweep_started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        arms = plan.arms()
        self.progress = SweepProgress(arms, plan.spec.objectives, plan.rows.values())
        resumed = sum(arm.resumed for arm in arms)
        self._print(describe_data(report))
        of_data = data_warnings(report)
        self._warned_about_data = {warning.code for warning in of_data}
        for warning in (*of_data, *plan.spec.warnings):
            self._print(f"warning, {warning}")
        self._print(
            f"sweep {plan.spec.name}: {len(arms)} arms, {self.progress.total} runs, "
            f"{self.progress.done} already stored"
            + (f", {resumed} to be resumed" if resumed else "")
            + (f"; {len(plan.others)} stored rows belong to an earlier version of the sweep" if plan.others else "")
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
        self._print(f"{concurrent} runs at a time on {cpus} cores" + (f" and {gpus:g} GPUs" if gpus else ""))
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
        name = " ".join(filter(None, (run.arm, _parameters(run), f"seed {run.seed}")))
        self._print(f"{name}: {reason.rstrip('.')}; it is started again from its checkpoint")

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        self.progress.end(run, row)
        objectives = self.progress.objectives
        numbers = "  ".join(f"{name} {row[name]:.4g}" for name in objectives if row.get(name) is not None)
        text = f"{run.arm:<16} {_parameters(run):<32} seed {run.seed}  {row['status']}  {numbers}"
        if row["status"] != "finished":
            text += f" ({str(row['stop_reason'])[:REASON_CHARACTERS]})"
        if self._live is None:
            self._print(f"[{self.progress.done}/{self.progress.total}] {text.rstrip()}  {self._time_left()}")
        self._recent.append(text.rstrip())
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

    def on_sweep_ended(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        self.close()
        counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "no runs"
        self._print(f"{counts}, after {self._elapsed()}")
        if stop_reason:
            self._print(stop_reason)

    def close(self) -> None:
        """Stop the board. It stays visible, and later output appears below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _elapsed(self) -> str:
        return format_duration(time.monotonic() - self._started)

    def _time_left(self) -> str:
        left = self.progress.time_left(self._concurrent)
        if left is None or left.seconds <= 0:
            return ""
        return f"{'roughly' if left.rough else 'about'} {format_duration(left.seconds)} left"

    def _board(self) -> Group:
        progress = self.progress
        unsuccessful = "".join(f", {count} {status}" for status, count in progress.unsuccessful.items())
        head = f"{progress.done}/{progress.total} runs{unsuccessful}   {self._elapsed()}   {self._time_left()}"
        recent = [Text(printable(line), style="dim", no_wrap=True, overflow="ellipsis") for line in list(self._recent)]
        running = list(progress.running.values())
        lines = max(self.console.height - len(progress.arms) - OTHER_LINES, FEWEST_RUNS)
        more = [Text(f"and {len(running) - lines} more", style="dim")] if len(running) > lines else []
        return Group(Text(head, style="bold"), self._arm_table(), self._run_table(running[:lines]), *more, *recent)

    def _arm_table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("arm", "runs", "", "best so far"):
            table.add_column(heading, style="bold" if heading == "arm" else "")
        for arm in self.progress.arms:
            ended = self.progress.ended[arm.arm]
            bar = ProgressBar(total=arm.runs, completed=ended, width=24)
            best = "  ".join(f"{name} {value:z.2f}" for name, value in self.progress.best.get(arm.arm, {}).items())
            table.add_row(arm.arm, f"{ended}/{arm.runs}", bar, best)
        return table

    def _run_table(self, running: Sequence[RunProgress]) -> Table:
        """Return one line per running run, with the validation of its last epoch."""
        rows = [[*_cells(run), _parameters(run.run)] for run in running]
        headings = ["running", "seed", "epoch", "phase", *VALIDATION.values(), "time", "parameters"]
        widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
        # Numbers are never cut off: the parameters are the first to become shorter, then the name of the arm.
        left = self.console.width - sum(widths[:-1]) - COLUMN_GAP * (len(widths) - 1)
        widths[-1] = min(widths[-1], left)
        if left < FEWEST_CHARACTERS:
            headings, widths, rows = headings[:-1], widths[:-1], [row[:-1] for row in rows]
            widths[0] = max(widths[0] + min(left + COLUMN_GAP, 0), FEWEST_CHARACTERS)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading, width in zip(headings, widths, strict=True):
            justify: JustifyMethod = "right" if heading in VALIDATION.values() else "left"
            table.add_column(heading, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*row)
        return table


def _cells(running: RunProgress) -> list[str]:
    """Return the cells of a running run, except for its parameters."""
    epoch = f"{running.trained}/{running.epochs}" if running.epochs else ""
    age = format_duration(time.monotonic() - running.started)
    return [running.run.arm, str(running.run.seed), epoch, _phase(running), *_validation(running), age]


def _phase(running: RunProgress) -> str:
    """Return what a running run does, and how much of it is done."""
    if running.phase is None:
        if running.epochs == 0:
            return "starting"
        return "training" if running.trained < running.epochs else "measuring"
    name = EPOCH_PHASES.get(running.phase.phase, "measuring")
    return f"{name} {100 * running.phase.done // running.phase.total} %"


def _validation(running: RunProgress) -> list[str]:
    """Return the validation columns of the last epoch of a running run as text."""
    values = [(running.epoch or {}).get(name) for name in VALIDATION]
    return ["" if value is None else f"{value:z.2f}" if isinstance(value, float) else str(value) for value in values]


def _code(warning: str) -> str:
    """Return the code of a warning such as "W1: text"; the whole text if it has no code."""
    return warning.split(": ", 1)[0]


def _parameters(run: Run) -> str:
    return format_parameters(run.parameters, digits=3)
