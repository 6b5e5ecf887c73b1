"""The events of a running sweep, a monitor that ignores them, and one that passes them on to several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lagvae_core.training.record import Progress
from sweeps.execution.gpu_sharing import MemoryEstimate
from sweeps.search.plan import Plan, Run

__all__ = ["Monitor", "Monitors", "SilentMonitor"]


class Monitor(Protocol):
    """Receives the events of one driver. All methods are called in the working thread of the driver,
    except `on_interrupted` and `on_time_up`, which the supervising thread calls.

    Implementations are the live display of the terminal, the trackers, and those of this module.
    """

    def on_sweep_started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        """The sweep starts. `report` describes the data (see `Dataset.report`)."""

    def on_lease_wait(self, host: str, seconds: float) -> None:
        """A driver on `host` holds the lease of the sweep; this driver watches the lease for at most `seconds`."""

    def on_memory_estimation(self, arms: Sequence[str]) -> None:
        """The estimation of peak memory starts. It covers one run of each of `arms`, each on a whole GPU."""

    def on_memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        """The estimation has ended; `estimates` is empty if there is no GPU."""

    def on_training_started(self, concurrent: int, cpus: int, gpus: float) -> None:
        """Training starts, with up to `concurrent` runs at a time on a total of `cpus` cores and `gpus` GPUs."""

    def on_run_started(self, run: Run) -> None:
        """The process of `run` has started."""

    def on_run_phase(self, run: Run, progress: Progress, epochs: int) -> None:
        """`run`, which trains at most `epochs` epochs, has made `progress` within an epoch or in its measurement."""

    def on_run_epoch(self, run: Run, epoch: Mapping[str, Any], epochs: int) -> None:
        """`run` has trained an epoch of at most `epochs`; `epoch` has the columns of the curve."""

    def on_run_lost(self, run: Run, reason: str) -> None:
        """The process of `run` was lost for `reason`. It is started again from its checkpoint."""

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        """`run` has ended; `row` is its final row."""

    def on_interrupted(self, saving: bool) -> None:
        """A signal interrupts the driver. If `saving`, running runs save their checkpoints, unless another comes."""

    def on_time_up(self, saving: bool) -> None:
        """The time limit of the driver has passed. If `saving`, running runs save their checkpoints."""

    def on_tracker_failed(self, tracker: str, reason: str) -> None:
        """The experiment tracker called `tracker` failed for `reason`. The sweep continues without it."""

    def on_tracker_wait(self, trackers: Sequence[str], seconds: float) -> None:
        """The sweep has ended; the driver waits up to `seconds` until `trackers` have received everything."""

    def on_sweep_ended(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        """The driver ends. `statuses` counts rows by status; `stop_reason` is "" unless the sweep stopped early."""

    def close(self) -> None:
        """No more events follow. This method may be called more than once."""


class SilentMonitor(Monitor):
    """A monitor that ignores every event, for use from Python and in tests."""


class Monitors(Monitor):
    """Passes every event on to several monitors, in this order.

    Args:
        monitors: The monitors.
    """

    def __init__(self, *monitors: Monitor) -> None:
        self._monitors = monitors

    def on_sweep_started(self, plan: Plan, report: Mapping[str, int | float | str]) -> None:
        for monitor in self._monitors:
            monitor.on_sweep_started(plan, report)

    def on_lease_wait(self, host: str, seconds: float) -> None:
        for monitor in self._monitors:
            monitor.on_lease_wait(host, seconds)

    def on_memory_estimation(self, arms: Sequence[str]) -> None:
        for monitor in self._monitors:
            monitor.on_memory_estimation(arms)

    def on_memory_estimated(self, estimates: Sequence[MemoryEstimate]) -> None:
        for monitor in self._monitors:
            monitor.on_memory_estimated(estimates)

    def on_training_started(self, concurrent: int, cpus: int, gpus: float) -> None:
        for monitor in self._monitors:
            monitor.on_training_started(concurrent, cpus, gpus)

    def on_run_started(self, run: Run) -> None:
        for monitor in self._monitors:
            monitor.on_run_started(run)

    def on_run_phase(self, run: Run, progress: Progress, epochs: int) -> None:
        for monitor in self._monitors:
            monitor.on_run_phase(run, progress, epochs)

    def on_run_epoch(self, run: Run, epoch: Mapping[str, Any], epochs: int) -> None:
        for monitor in self._monitors:
            monitor.on_run_epoch(run, epoch, epochs)

    def on_run_lost(self, run: Run, reason: str) -> None:
        for monitor in self._monitors:
            monitor.on_run_lost(run, reason)

    def on_run_ended(self, run: Run, row: Mapping[str, Any]) -> None:
        for monitor in self._monitors:
            monitor.on_run_ended(run, row)

    def on_interrupted(self, saving: bool) -> None:
        for monitor in self._monitors:
            monitor.on_interrupted(saving)

    def on_time_up(self, saving: bool) -> None:
        for monitor in self._monitors:
            monitor.on_time_up(saving)

    def on_tracker_failed(self, tracker: str, reason: str) -> None:
        for monitor in self._monitors:
            monitor.on_tracker_failed(tracker, reason)

    def on_tracker_wait(self, trackers: Sequence[str], seconds: float) -> None:
        for monitor in self._monitors:
            monitor.on_tracker_wait(trackers, seconds)

    def on_sweep_ended(self, statuses: Mapping[str, int], stop_reason: str) -> None:
        for monitor in self._monitors:
            monitor.on_sweep_ended(statuses, stop_reason)

    def close(self) -> None:
        for monitor in self._monitors:
            monitor.close()
