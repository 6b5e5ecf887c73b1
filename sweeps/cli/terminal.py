"""What printed tables and progress share."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["ProgressLine", "console_of_stdout", "plain_table", "print_table"]

SILENCE = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class _StdoutConsole(Console):
    def on_broken_pipe(self) -> None:
        """Called while the error is handled, which rich makes an exit with 1."""
        raise


def console_of_stdout() -> Console:
    """A console that takes no text for markup; a pipe has no width of its own."""
    return _StdoutConsole(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


def print_table(console: Console, table: Table) -> None:
    """Print a table as wide as it is, on however narrow a terminal: a number that is cut is of no use to anybody."""
    given = console.width
    console.width = max(given, Measurement.get(console, console.options.update(max_width=10**6), table).maximum)
    console.print(table)
    console.width = given


def plain_table(*headings: str) -> Table:
    """A table without lines, its cells to the left."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading)
    return made


class ProgressLine:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._name = ""
        self._said = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, name: str, done: int, total: int) -> None:
        """`done` of `total` in the phase `name`."""
        if self._console.is_terminal:
            if self._name != name:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task, self._name = self._bars.add_task(name, total=total), name
            self._bars.update(self._task, completed=done)
        elif time.monotonic() - self._said > SILENCE:
            self.say(f"{name}: {done}/{total}")
            self._said = time.monotonic()
