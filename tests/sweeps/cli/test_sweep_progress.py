"""The progress that the live display shows: counts, best configurations and the time left."""

import io
import json
import re

import pytest
from rich.console import Console
from worlds import FINGERPRINT, spec_of

from sweeps.cli.live_display import Display
from sweeps.cli.sweep_progress import SweepProgress, TimeLeft
from sweeps.search.plan import ArmPlan, Plan
from sweeps.search.scheduler import RunScheduler

ARMS = [ArmPlan("vae", 1, 4, 2, 0, None), ArmPlan("beta", 3, 6, 0, 0, None)]
OBJECTIVES = {"nll_iw": "min", "au": "max"}


def row(arm="vae", config_id="a", seconds=10.0, nll_iw=100.0, au=1, status="finished"):
    values = {"arm": arm, "config_id": config_id, "seconds": seconds, "status": status}
    return values | {"nll_iw": nll_iw, "au": au}


def test_the_best_configuration_has_the_best_mean_of_the_first_objective():
    rows = [
        row(nll_iw=1.0),
        row(nll_iw=9.0),
        row(config_id="b", nll_iw=4.0, au=3),
        row(config_id="b", nll_iw=4.0, au=2),
    ]
    assert SweepProgress(ARMS, OBJECTIVES, rows).best == {"vae": {"nll_iw": 4.0, "au": 2.5}}


def test_rows_that_did_not_finish_are_ignored():
    progress = SweepProgress(ARMS, OBJECTIVES, [row(status="failed", nll_iw=None, seconds=None)])
    assert progress.best == {}
    assert progress.time_left(1) is None


def test_the_time_left_uses_the_mean_duration_of_each_arm():
    both = [row(), row(seconds=20.0), row("beta", seconds=2.0)]
    assert SweepProgress(ARMS, OBJECTIVES, both).time_left(2) == TimeLeft((2 * 15.0 + 6 * 2.0) / 2, rough=False)


def test_the_time_left_is_rough_if_an_arm_has_no_finished_run():
    assert SweepProgress(ARMS, OBJECTIVES, [row()]).time_left(1) == TimeLeft(2 * 10.0 + 6 * 10.0, rough=True)


def report_of(**entries):
    """The report of tiny data, as `Dataset.report`."""
    report = {f"{split}_examples": 1 for split in ("train", "valid", "test")}
    return report | {"train_length_min": 1, "train_length_max": 2, "train_length_mean": 1.5, "vocabulary": 3} | entries


def test_a_warning_about_the_data_is_shown_once_and_not_again_with_the_runs():
    plan = Plan(spec_of(), FINGERPRINT, [])
    file = io.StringIO()
    display = Display(Console(file=file, width=200))
    display.on_sweep_started(plan, report_of(train_oov_rate=0.0, test_oov_rate=0.3))
    scheduler = RunScheduler(plan)
    for code in ("W11", "W10"):
        run = scheduler.next_run()
        display.on_run_ended(run, row(run.arm) | {"warnings": json.dumps([f"{code}: text."])})
    assert re.findall(r"W\d+", file.getvalue()) == ["W11", "W10"]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_shows_counts_and_statuses(terminal):
    plan = Plan(spec_of(), FINGERPRINT, [])
    file = io.StringIO()
    display = Display(Console(file=file, width=200, force_terminal=terminal))
    display.on_sweep_started(plan, report_of())
    display.on_training_started(2, 2, 0.0)
    run = RunScheduler(plan).next_run()
    assert run is not None
    display.on_run_started(run)
    display.on_run_progress(run, 1, 2)
    assert [(p.epoch, p.epochs) for p in display.progress.running.values()] == [(1, 2)]
    display.on_run_ended(run, row(run.arm, status="failed", nll_iw=None, au=None) | {"stop_reason": "no memory"})
    display.on_sweep_ended({"failed": 1}, "stopped")
    text = file.getvalue()
    for fragment in ("2 runs at a time", f"1/{display.progress.total}", "no memory", "1 failed, after", "stopped"):
        assert fragment in text
    assert display.progress.running == {}
