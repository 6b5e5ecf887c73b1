"""The monitor that ignores all events."""

from __future__ import annotations

import inspect

from worlds import FINGERPRINT, row_of, spec_of

from lagvae_core.training.record import Progress
from sweeps.execution.gpu_sharing import MemoryEstimate
from sweeps.execution.monitor import Monitor, SilentMonitor
from sweeps.search.plan import Plan
from sweeps.search.scheduler import RunScheduler


def test_silent_monitor_accepts_every_event(capsys):
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
        "on_sweep_ended": ({"finished": 1}, ""),
        "close": (),
    }
    assert set(events) == {name for name, _ in inspect.getmembers(Monitor, inspect.isfunction) if name[0] != "_"}
    monitor = SilentMonitor()
    for name, arguments in events.items():
        assert getattr(monitor, name)(*arguments) is None
    assert capsys.readouterr() == ("", "")
