"""Output on the terminal: consoles, tables, JSON, and progress."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.files import check_writable, write_atomically
from sweeps.formatting import markdown_table, printable

__all__ = [
    "EscapingConsole",
    "OutputFormat",
    "ProgressLine",
    "TextTable",
    "console_of_stdout",
    "figure_errors",
    "folder_issues",
    "print_figures",
    "print_json",
    "print_whole",
    "rich_table",
    "write_file",
]

OutputFormat = Literal["table", "json", "markdown"]

HEADING = Style(bold=True)
"""Style of the headings of a table."""

LINE_INTERVAL = 30.0
"""Minimum number of seconds between two lines of progress if stderr is not a terminal."""


class EscapingConsole(Console):
    """A console that prints texts with control characters escaped, because texts from files may contain them.

    A `Text` is not escaped; build it from `printable` text.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


class _StdoutConsole(EscapingConsole):
    def on_broken_pipe(self) -> None:
        """Re-raise the current BrokenPipeError, because rich would exit with 1."""
        raise


def console_of_stdout() -> Console:
    """Return a console for stdout, with markup disabled. It is 200 characters wide if stdout is not a terminal."""
    return _StdoutConsole(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


def print_json(value: Any) -> None:
    """Print `value` as one line of JSON; NaN and infinity raise a ValueError."""
    print(json.dumps(value, allow_nan=False))


def rich_table(*headings: str, right: Collection[str] = (), no_wrap: bool = False) -> Table:
    """Return an empty table without borders.

    Args:
        headings: Headings of the columns.
        right: The headings of right-aligned columns; all other columns are left-aligned.
        no_wrap: Keep each cell on one line. Print such a table with `print_whole`.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold", no_wrap=no_wrap)
    return table


def print_whole(console: Console, table: Table | TextTable) -> None:
    """Print a table at its full width, even on a narrower terminal, because a truncated number would be useless."""
    if isinstance(table, TextTable):
        console.print(Segments(table.segments()), soft_wrap=True)
        return
    width = console.width
    console.width = max(width, Measurement.get(console, console.options.update(max_width=10**6), table).maximum)
    console.print(table)
    console.width = width


@dataclass(frozen=True)
class TextTable:
    """A table of formatted cells, which can be printed in several formats."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str]
    """Headings of left-aligned columns."""

    def rich(self) -> Table:
        """Return a table of rich, which wraps cells on a narrow terminal."""
        right = [heading for heading in self.headings if heading not in self.left]
        table = rich_table(*self.headings, right=right)
        for row in self.rows:
            table.add_row(*row)
        return table

    def segments(self) -> Iterator[Segment]:
        """Yield the table at its full width, as `rich` with `no_wrap` does. A table of rich takes 100 times as long."""
        rows = [[printable(cell).expandtabs().split("\n") for cell in row] for row in (self.headings, *self.rows)]
        widths = [max(cell_len(line) for cell in column for line in cell) for column in zip(*rows, strict=True)]
        is_left = [heading in self.left for heading in self.headings]
        for number, row in enumerate(rows):
            for lines in itertools.zip_longest(*row, fillvalue=""):
                padding = (" " * (width - cell_len(line)) for line, width in zip(lines, widths, strict=True))
                padded = (
                    line + pad if left else pad + line for line, pad, left in zip(lines, padding, is_left, strict=True)
                )
                yield Segment("  ".join(padded), None if number else HEADING)
                yield Segment.line()

    def markdown(self) -> Iterator[str]:
        """Yield the lines of a Markdown table."""
        return markdown_table(self.headings, [[_markdown_text(cell) for cell in row] for row in self.rows])


def _markdown_text(text: str) -> str:
    """Return a text from a file as Markdown, on one line and without HTML tags."""
    return " ".join(printable(text).splitlines()).replace("&", "&amp;").replace("<", "&lt;")


@contextmanager
def figure_errors(path: Path) -> Iterator[None]:
    """Context manager. Turns an error in drawing or writing a figure into a ConfigError about the option `--png`."""
    try:
        yield
    except OSError as error:
        message = f"must be a file that can be written ({error.strerror or error})"
        hint = "Choose a file in an existing folder that is writable."
        raise ConfigError([ValidationIssue("--png", message, hint, str(path))]) from None
    except ValueError as error:
        message = f"must name a figure that can be drawn ({error})"
        raise ConfigError([ValidationIssue("--png", message, value=str(path))]) from None


def folder_issues(option: str, folder: Path, file: Path | None = None, *, create: bool = True) -> list[ValidationIssue]:
    """Return an issue if no file can be written into a folder.

    Args:
        option: The option that names the folder or the file.
        folder: The folder.
        file: The file in it that the option names; None if it names the folder.
        create: Create the folder if it is missing. Do so only when all other input is valid.
    """
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder, f".{file.name}.probe" if file is not None else ".probe")
    except OSError as error:
        what = "be a writable folder" if file is None else "be in a writable folder"
        message = f"must {what} ({error.strerror})"
        return [ValidationIssue(option, message, "Choose another folder.", str(file or folder))]
    return []


def write_file(option: str, path: Path, content: bytes) -> None:
    """Replace the file that the user named with an option, as a whole.

    Raises:
        ConfigError: The file cannot be written; the old one, if any, is unchanged.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"must be a file that can be written ({error.strerror})"
        hint = "Choose a file in an existing folder that is writable."
        raise ConfigError([ValidationIssue(option, message, hint, str(path))]) from None


def print_figures(files: Iterable[Path]) -> None:
    """Print on stderr which files a figure was written to, so that stdout remains JSON or Markdown."""
    print(printable(f"figure: {', '.join(map(str, files))}"), file=sys.stderr)


class ProgressLine:
    """Context manager that shows progress on stderr: a bar on a terminal, and otherwise an occasional line."""

    def __init__(self) -> None:
        self._console = EscapingConsole(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._phase = ""
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are complete."""
        if self._console.is_terminal:
            if self._phase != phase:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task, self._phase = self._bars.add_task(phase, total=total), phase
            self._bars.update(self._task, completed=done)
        elif time.monotonic() - self._last_line > LINE_INTERVAL:
            self.print(f"{phase}: {done}/{total}")
            self._last_line = time.monotonic()
