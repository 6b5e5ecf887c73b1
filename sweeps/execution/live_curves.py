"""The training curves of running runs: in memory, and in the table while the runs are trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.storage.table import ResultsFolder

__all__ = ["CURVE_SECONDS", "LiveCurves"]

CURVE_SECONDS = 10.0
"""Shortest time between two writes of the curve of a running run [s]."""

WRITING_FRACTION = 0.05
"""Largest fraction of its time that the driver spends on curves of running runs, apart from their first epochs."""

Epoch = dict[str, Any]


class LiveCurves:
    """Collects the epochs that running runs report, and writes each curve from time to time.

    The first epoch of an attempt is written at once. Afterwards, a curve is written at most every `CURVE_SECONDS`, and
    less often if there are many runs or a write takes long (see `WRITING_FRACTION`).

    Args:
        clock: Returns the current time [s].
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epochs: dict[str, list[Epoch]] = {}
        self._unwritten: set[str] = set()
        self._due_at: dict[str, float] = {}
        self._free_at = float("-inf")

    def start(self, run_id: str, stored: Sequence[Epoch]) -> None:
        """Start the curve of a run with the epochs that its earlier attempts have stored."""
        self._epochs[run_id] = list(stored)

    def get(self, run_id: str) -> list[Epoch]:
        """Return the epochs of a running run, in order; an empty list for any other run."""
        return list(self._epochs.get(run_id, ()))

    def add(self, run_id: str, epoch: Epoch) -> None:
        """Add an epoch. Later epochs are dropped, because an earlier attempt has reported them."""
        epochs = self._epochs.setdefault(run_id, [])
        while epochs and epochs[-1]["epoch"] >= epoch["epoch"]:
            epochs.pop()
        epochs.append(epoch)
        self._unwritten.add(run_id)

    def write_if_due(self, folder: ResultsFolder, row: Mapping[str, Any]) -> None:
        """Write the curve of the running run with this row if it has new epochs and a write is due."""
        run_id, now = row["run_id"], self._clock()
        if run_id not in self._unwritten or now < self._due_at.get(run_id, now):
            return
        first = run_id not in self._due_at
        if not first and now < self._free_at:
            return
        self.write(folder, row)
        ended = self._clock()
        self._due_at[run_id] = ended + CURVE_SECONDS
        self._free_at = ended + (ended - now) / WRITING_FRACTION

    def write(self, folder: ResultsFolder, row: Mapping[str, Any]) -> None:
        """Write the curve of the run with this row if it has new epochs."""
        run_id = row["run_id"]
        if run_id in self._unwritten:
            folder.write_curve(row, self._epochs[run_id])
            self._unwritten.discard(run_id)

    def end(self, run_id: str) -> None:
        """Forget a run, because it is no longer running."""
        self._epochs.pop(run_id, None)
        self._due_at.pop(run_id, None)
        self._unwritten.discard(run_id)
