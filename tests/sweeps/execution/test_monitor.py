"""The monitor that ignores all events, and the one that passes them on."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import Mock, call

from worlds import FINGERPRINT, row_of, spec_of

from lagvae_core.training.record import Progress
from sweeps.execution.gpu_sharing import MemoryEstimate
from sweeps.execution.monitor import Monitor, Monitors, SilentMonitor
from sweeps.search.plan import Plan
from sweeps.search.scheduler import RunScheduler


def every_event() -> dict[str, tuple[Any, ...]]:
    """Return arguments for every event."""
    plan = Plan(spec_of(), FINGERPRINT, [])
    run = RunScheduler(plan).next_run()
    assert run is not None
    events = {
        "on_sweep_started": (plan, {"examples": 64}),
        "on_lease_wait": ("node7", 60.0),
        "on_memory_estimation": (["vae"],),
        "on_memory_estimated": ([MemoryEstimate("vae", 1, 2)],),
        "on_training_started": (2, 4, 0.0),
        "on_run_started": (run,),
        "on_run_phase": (run, Progress("train", 1, 3, 4), 2),
        "on_run_epoch": (run, {"epoch": 1}, 2),
        "on_run_lost": (run, "its process was lost"),
        "on_run_ended": (run, row_of(run)),
        "on_interrupted": (True,),
        "on_time_up": (True,),
        "on_tracker_failed": ("mlflow", "the server is away"),
        "on_tracker_wait": (["mlflow"], 60.0),
        "on_sweep_ended": ({"finished": 1}, ""),
        "close": (),
    }
    assert set(events) == {name for name, _ in inspect.getmembers(Monitor, inspect.isfunction) if name[0] != "_"}
    return events


def test_silent_monitor_accepts_every_event(capsys):
    monitor = SilentMonitor()
    for name, arguments in every_event().items():
        assert getattr(monitor, name)(*arguments) is None
    assert capsys.readouterr() == ("", "")


def test_every_event_is_passed_on_to_all_monitors_in_order():
    events, monitors = every_event(), Mock()
    both = Monitors(monitors.first, monitors.second)
    for name, arguments in events.items():
        getattr(both, name)(*arguments)
    expected = [getattr(getattr(call, place), name)(*events[name]) for name in events for place in ("first", "second")]
    assert monitors.mock_calls == expected
