"""The watchdog of a driver, which finds runs that report nothing, such as a hung process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Watchdog"]

FACTOR = 20
"""With `patience: auto`, a run may be silent for this multiple of its longest epoch, or of its longest silence."""

FIRST_EPOCH_SECONDS = 30 * 60.0
"""With `patience: auto`, shortest silence that ends a run before its first epoch, for example while data load [s]."""

LATER_SECONDS = 10 * 60.0
"""With `patience: auto`, shortest silence that ends a run after its first epoch [s]."""

POLL_SECONDS = 1.0
"""Shortest time between two looks at all runs, and the longest time that counts as listening between two events [s]."""


@dataclass
class _Watched:
    """A running run.

    Args:
        heard: Time of its start or of its latest report [s].
        epoch_started: Time at which its current epoch started [s].
        longest: Longest epoch, or longest time between two reports, if that is longer [s].
        epochs: Number of its reported epochs.
    """

    heard: float
    epoch_started: float
    longest: float = 0.0
    epochs: int = 0


class Watchdog:
    """Measures how long each run has been silent.

    Time counts only while the driver listens. While it waits for the storage, for example, the reports of runs wait
    too, and no run must be ended for that.

    Args:
        patience: Longest silence [s]; `auto` derives it from the epochs of each run.
        clock: Returns the current time [s].
    """

    def __init__(self, patience: float | Literal["auto"], clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._runs: dict[str, _Watched] = {}
        self._looked = clock()
        self._listened = self._polled = 0.0

    def on_started(self, run_id: str) -> None:
        """The process of a run starts."""
        self._runs[run_id] = _Watched(self._listened, self._listened)

    def on_report(self, run_id: str, *, epoch: bool) -> None:
        """A run reports something; `epoch` says whether it has trained an epoch."""
        run = self._runs.get(run_id)
        if run is None:
            return
        run.longest = max(run.longest, self._listened - run.heard)
        run.heard = self._listened
        if epoch:
            run.longest = max(run.longest, self._listened - run.epoch_started)
            run.epoch_started = self._listened
            run.epochs += 1

    def on_ended(self, run_id: str) -> None:
        """The process of a run has ended or is being ended."""
        self._runs.pop(run_id, None)

    def listen(self) -> dict[str, float]:
        """Continue to measure time, and return the runs that were silent for too long, with their silence [s].

        This method must be called often. Most calls only measure time and return no run.
        """
        now = self._clock()
        self._listened += min(now - self._looked, POLL_SECONDS)
        self._looked = now
        if self._listened - self._polled < POLL_SECONDS:
            return {}
        self._polled = self._listened
        silences = {run_id: self._listened - run.heard for run_id, run in self._runs.items()}
        return {run_id: silence for run_id, silence in silences.items() if silence > self._limit(self._runs[run_id])}

    def _limit(self, run: _Watched) -> float:
        if self._patience != "auto":
            return self._patience
        return max(FACTOR * run.longest, LATER_SECONDS if run.epochs else FIRST_EPOCH_SECONDS)
