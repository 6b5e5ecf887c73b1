"""The board: the state of a sweep drawn for a terminal, whether a driver or the stored table supplies the state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.cli.sweep_progress import EPOCH_PHASES, RunProgress, SweepProgress, TimeLeft
from sweeps.formatting import format_duration, format_parameters, printable
from sweeps.search.plan import Run

__all__ = [
    "LAST_NEWS",
    "PHASE",
    "REASON_CHARACTERS",
    "RECENT_LINES",
    "Activity",
    "Board",
    "describe_ended_run",
    "describe_run",
    "describe_time_left",
]

REASON_CHARACTERS = 240
"""Maximum length of a stop reason in a line about a run. A longer one ends with "..."."""

RECENT_LINES = 4
"""Number of lines of the board about the runs that ended last."""

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


@dataclass(frozen=True)
class Activity:
    """The column of the running runs that says what each run does, or what is known of it.

    Args:
        heading: Heading of the column.
        describe: Returns the cell of a run.
    """

    heading: str
    describe: Callable[[RunProgress], str]


@dataclass(frozen=True)
class Board:
    """One picture of a sweep, as wide as the console on which it is printed.

    Args:
        progress: State of the sweep.
        elapsed: How long the sweep has been running [s].
        time_left: Estimated time left; None if it cannot be estimated.
        recent: Lines about the runs that ended last.
        activity: Column that says what each running run does.
        notes: Lines below the counts, such as a question about the driver.
        whole: Whether every running run is shown. Otherwise, the board is no higher than the console.
    """

    progress: SweepProgress
    elapsed: float
    time_left: TimeLeft | None
    recent: Sequence[str]
    activity: Activity
    notes: Sequence[str] = ()
    whole: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        progress, running = self.progress, list(self.progress.running.values())
        unsuccessful = "".join(f", {count} {status}" for status, count in progress.unsuccessful.items())
        head = [f"{progress.done}/{progress.total} runs{unsuccessful}", format_duration(self.elapsed)]
        yield Text("   ".join(filter(None, [*head, describe_time_left(self.time_left)])), style="bold")
        for note in self.notes:
            yield Text(printable(note), style="yellow")
        yield self._arm_table()
        others = len(progress.arms) + OTHER_LINES + len(self.notes)
        lines = len(running) if self.whole else max(console.height - others, FEWEST_RUNS)
        if running:
            yield self._run_table(running[:lines], console.width)
        if len(running) > lines:
            yield Text(f"and {len(running) - lines} more", style="dim")
        yield from self._recent_lines(console)

    def _recent_lines(self, console: Console) -> list[Text]:
        """Return the lines about the runs that ended last: as many runs as fit, at least the last one."""
        lines: list[Text] = []
        for text in map(printable, reversed(list(self.recent))):
            fits = cell_len(text) <= console.width
            line = Text(text if fits else " ".join(text.split()), style="dim")  # long lines are not aligned
            wrapped = line.wrap(console, console.width)
            if lines and len(lines) + len(wrapped) > RECENT_LINES:
                break
            lines = [*wrapped[:RECENT_LINES], *lines]
        return lines

    def _arm_table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("arm", "runs", "", "best so far"):
            table.add_column(heading, style="bold" if heading == "arm" else "")
        for arm in self.progress.arms:
            ended = self.progress.ended[arm.arm]
            bar = ProgressBar(total=arm.runs, completed=ended, width=24)
            best = "  ".join(f"{name} {value:z.2f}" for name, value in self.progress.best(arm.arm).items())
            table.add_row(printable(arm.arm), f"{ended}/{arm.runs}", bar, best)
        return table

    def _run_table(self, running: Sequence[RunProgress], width: int) -> Table:
        """Return one line per running run, with the validation of its last epoch."""
        rows = [[*self._cells(run), _parameters(run.run)] for run in running]
        headings = ["running", "seed", "epoch", self.activity.heading, *VALIDATION.values(), "time", "parameters"]
        widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
        # Numbers are never cut off: the parameters are the first to become shorter, then the name of the arm.
        left = width - sum(widths[:-1]) - COLUMN_GAP * (len(widths) - 1)
        widths[-1] = min(widths[-1], left)
        if left < FEWEST_CHARACTERS:
            headings, widths, rows = headings[:-1], widths[:-1], [row[:-1] for row in rows]
            widths[0] = max(widths[0] + min(left + COLUMN_GAP, 0), FEWEST_CHARACTERS)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading, column_width in zip(headings, widths, strict=True):
            justify: JustifyMethod = "right" if heading in VALIDATION.values() else "left"
            table.add_column(heading, justify=justify, width=column_width, no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*row)
        return table

    def _cells(self, running: RunProgress) -> list[str]:
        """Return the cells of a running run, except for its parameters."""
        epoch = f"{running.trained}/{running.epochs}" if running.epochs else ""
        age = format_duration(time.monotonic() - running.started)
        activity = self.activity.describe(running)
        return [printable(running.run.arm), str(running.run.seed), epoch, activity, *_validation(running), age]


def describe_time_left(left: TimeLeft | None) -> str:
    """Return, for example, "about 3 min 20 s left"; "" if nothing is left or nothing is known."""
    if left is None or left.seconds <= 0:
        return ""
    return f"{'roughly' if left.rough else 'about'} {format_duration(left.seconds)} left"


def describe_run(run: Run) -> str:
    """Return the arm, the parameters and the seed of a run."""
    return " ".join(filter(None, (run.arm, _parameters(run), f"seed {run.seed}")))


def describe_ended_run(run: Run, row: Mapping[str, Any], objectives: Mapping[str, str]) -> str:
    """Return a line about a run that ended with `row`: its status, its objectives, and the reason if it failed."""
    numbers = "  ".join(f"{name} {row[name]:.4g}" for name in objectives if row.get(name) is not None)
    text = f"{run.arm:<16} {_parameters(run):<32} seed {run.seed}  {row['status']}  {numbers}".rstrip()
    if row["status"] != "finished":
        text += f" ({shorten(str(row['stop_reason']), REASON_CHARACTERS, placeholder=' ...')})"
    return text


def _phase(running: RunProgress) -> str:
    """Return what a running run does, and how much of it is done."""
    if running.phase is None:
        if running.epochs == 0:
            return "starting"
        return "training" if running.trained < running.epochs else "measuring"
    name = EPOCH_PHASES.get(running.phase.phase, "measuring")
    return f"{name} {100 * running.phase.done // running.phase.total} %"


def _last_news(running: RunProgress) -> str:
    """Return how long ago the table of a running run changed."""
    assert running.news_at is not None
    return f"{format_duration(max(0, round(time.monotonic() - running.news_at)))} ago"


PHASE = Activity("phase", _phase)
"""What each run reports to its driver."""

LAST_NEWS = Activity("last news", _last_news)
"""The age of what the table says about each run."""


def _validation(running: RunProgress) -> list[str]:
    """Return the validation columns of the last epoch of a running run as text."""
    values = [(running.epoch or {}).get(name) for name in VALIDATION]
    return ["" if value is None else f"{value:z.2f}" if isinstance(value, float) else str(value) for value in values]


def _parameters(run: Run) -> str:
    return format_parameters(run.parameters, digits=3)
