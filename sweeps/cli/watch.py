"""`lagvae watch`: the board of a sweep that a driver elsewhere runs, from its table alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from rich.live import Live

from lagvae_core.errors import ConfigError, StoreError, ValidationIssue, did_you_mean
from sweeps.analysis.following import SweepFollower, default_pause, pause_after
from sweeps.cli.board import Board
from sweeps.cli.terminal import console_of_stdout
from sweeps.cli.watched_sweep import WatchedSweep
from sweeps.storage.driver_observer import DriverObserver, DriverState
from sweeps.storage.identifiers import SWEEP_NAME
from sweeps.storage.table import ResultsFolder, find_sweep, stored_sweeps

__all__ = ["watch_sweep"]

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 3600.0
"""Shortest and longest time between two readings of the table [s]."""


def watch_sweep(results: str, sweep: str, every: float | None, *, once: bool) -> int:
    """Show a stored sweep until it is complete, or once.

    Args:
        results: Folder or URI of the results.
        sweep: Name of the sweep.
        every: Time between two readings of the table [s]; None for a time that suits the storage.
        once: Print the board once. It is then an error if the sweep is not stored; otherwise it is waited for.

    Returns:
        The exit code: that of `lagvae run` if the sweep is complete, else 0.

    Raises:
        ConfigError: `sweep` is not the name of a sweep, `every` is out of range, the sweep file is invalid, or a plugin
            is needed.
        StoreError: The results cannot be accessed, and the board is printed once.
    """
    if once and every is not None:
        raise ConfigError([ValidationIssue("--every", "must not be used with --once", value=every)])
    if once:
        return _Watch(find_sweep(results, sweep)).print_once()
    issues = []
    if not SWEEP_NAME.fullmatch(sweep):
        hint = "It is the value of `name` in the sweep file."
        issues.append(ValidationIssue("SWEEP", "must be the name of a sweep", hint, sweep))
    if every is not None and not SHORTEST_PAUSE <= every <= LONGEST_PAUSE:
        message = f"must be between {SHORTEST_PAUSE:g} and {LONGEST_PAUSE:g} seconds"
        issues.append(ValidationIssue("--every", message, value=every))
    if issues:
        raise ConfigError(issues)
    return _Watch(ResultsFolder(results, sweep)).follow(default_pause(results) if every is None else every)


class _Watch:
    """One watch of a sweep. On a terminal, a separate thread redraws the board between two readings.

    Args:
        folder: The folder of the sweep.
    """

    def __init__(self, folder: ResultsFolder) -> None:
        self._folder = folder
        self._console = console_of_stdout()
        self._follower = SweepFollower(folder)
        self._driver = DriverObserver(folder)
        self._sweep: WatchedSweep | None = None
        self._problems: list[str] = []
        self._printed: frozenset[str] = frozenset()

    def print_once(self) -> int:
        """Print the board, and return the exit code."""
        sweep = self._read()
        self._console.print(replace(sweep.board(), whole=True))
        if not sweep.complete:
            return 0
        self._print(sweep.summary())
        return sweep.exit_code

    def follow(self, every: float) -> int:
        """Show the sweep until it is complete, and return the exit code."""
        with ExitStack() as stack:
            while (sweep := self._sweep) is None or not self._is_over(sweep):
                started = time.monotonic()
                self._update()
                if self._sweep is None:
                    self._print_new(self._problems)
                elif not self._console.is_terminal:
                    self._print_changes(sweep, self._sweep)
                elif sweep is None:
                    live = Live(get_renderable=self._board, console=self._console, refresh_per_second=2)
                    stack.enter_context(live)
                if self._sweep is None or not self._is_over(self._sweep):
                    time.sleep(pause_after(time.monotonic() - started, every))
        self._print(sweep.summary())
        return sweep.exit_code

    def _is_over(self, sweep: WatchedSweep) -> bool:
        """Return whether the sweep is complete. A driver may extend it until it gives up lock and lease."""
        return sweep.complete and sweep.driver.state is not DriverState.PRESENT

    def _update(self) -> None:
        """Read the table. If it cannot be accessed, or is not there yet, the sweep stays as it was."""
        try:
            self._problems = [] if self._sweep is not None else self._missing_parts()
            if not self._problems:
                self._sweep = self._read()
        except StoreError as error:
            self._problems = [f"the results cannot be accessed; trying again. {error.__cause__ or error}"]

    def _missing_parts(self) -> list[str]:
        """Return what is waited for before the board can be drawn."""
        sweep = self._folder.sweep
        if self._folder.exists():
            waiting = f"{sweep} has no sweep file yet; waiting for its driver to store it"
            return [] if self._folder.holds("spec.yaml") else [waiting]
        stored = stored_sweeps(self._folder.results)
        others = f"Stored there: {', '.join(stored)}." if stored else "No sweep is stored there."
        waiting = f"{sweep} is not stored in {self._folder.root} yet; waiting for it. {others}"
        return [f"{waiting} {did_you_mean(sweep, stored)}".strip()]

    def _read(self) -> WatchedSweep:
        return WatchedSweep(self._follower.read(), self._driver.observe(), self._sweep)

    def _board(self) -> Board:
        assert self._sweep is not None
        board = self._sweep.board()
        return replace(board, notes=[*self._problems, *board.notes])

    def _print_changes(self, before: WatchedSweep | None, sweep: WatchedSweep) -> None:
        if before is None or before.plan.spec is not sweep.plan.spec:
            self._print(sweep.introduction())
        for line in sweep.changes(before) if before is not None else ():
            self._print(line)
        self._print_new([*self._problems, *sweep.notes()])

    def _print_new(self, notes: Sequence[str]) -> None:
        """Print the notes that differ from those of the last reading by more than their numbers."""
        by_words = {"".join(character for character in note if not character.isdigit()): note for note in notes}
        for words, note in by_words.items():
            if words not in self._printed:
                self._print(note)
        self._printed = frozenset(by_words)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)
