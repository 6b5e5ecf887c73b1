"""Wall time of a trial by phase, and processor time of its training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Stopwatch"]


class Stopwatch:
    """Wall time of each phase [s] and processor time of the training phase [s].

    Attributes:
        seconds: Wall time by phase: train, validate, evaluate.
        cpu_seconds: Processor time of the train phase.
    """

    def __init__(self) -> None:
        self.seconds = {"train": 0.0, "validate": 0.0, "evaluate": 0.0}
        self.cpu_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Start an interval at the current time."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def charge(self, phase: str) -> None:
        """Add the time since the last `start` or `charge` to `phase`, and start the next interval."""
        wall, cpu = self._wall, self._cpu
        self.start()
        self.seconds[phase] += self._wall - wall
        if phase == "train":
            self.cpu_seconds += self._cpu - cpu

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager. The time spent in the block is not charged to any phase."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self._wall += time.monotonic() - wall
        self._cpu += time.process_time() - cpu
