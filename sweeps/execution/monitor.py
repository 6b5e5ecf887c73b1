"""What the driver and the recorder report while a sweep runs, and a monitor that shows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sweeps.execution.gpu_sharing import MemoryEstimate
from sweeps.search.plan import Plan, Run

__all__ = ["Monitor", "SilentMonitor"]


class Monitor(Protocol):
    """Receives the events of one driver, all of them in the driver's thread.

    The terminal display is one implementation, `SilentMonitor` another.
    """

    def started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        """The sweep starts. `report` describes the data (see `Dataset.report`)."""

    def waiting(self, host: str, seconds: float) -> None:
        """A driver on `host` holds the lease of the sweep; it is observed for `seconds` at most."""

    def workers(self, concurrent: int, cpus: int, gpus: float) -> None:
        """Training starts: `concurrent` runs at a time on `cpus` cores and `gpus` GPUs."""

    def estimating_memory(self, arms: Sequence[str]) -> None:
        """The peak memory of `arms` is measured, each on a whole GPU."""

    def memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        """The measurement has ended; `estimates` is empty if there is no GPU."""

    def run_started(self, run: Run) -> None:
        """The process of `run` starts."""

    def run_progressed(self, run: Run, epoch: int, epochs: int) -> None:
        """`run` has trained `epoch` of at most `epochs` epochs."""

    def run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        """`run` has ended with `row`."""

    def finished(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        """The driver is done: number of rows by status, and why it stopped early ("" if it did not)."""

    def close(self) -> None:
        """No event follows. May be called more than once."""


class SilentMonitor:
    """A monitor that ignores every event, for tests and for use from Python."""

    def started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        pass

    def waiting(self, host: str, seconds: float) -> None:
        pass

    def workers(self, concurrent: int, cpus: int, gpus: float) -> None:
        pass

    def estimating_memory(self, arms: Sequence[str]) -> None:
        pass

    def memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        pass

    def run_started(self, run: Run) -> None:
        pass

    def run_progressed(self, run: Run, epoch: int, epochs: int) -> None:
        pass

    def run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        pass

    def finished(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        pass

    def close(self) -> None:
        pass
