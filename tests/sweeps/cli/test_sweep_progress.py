"""The progress that the live display shows: counts, best configurations and the time left."""

import io
import json
import re

import pytest
from rich.console import Console
from worlds import FINGERPRINT, spec_of

from lagvae_core.training.record import Progress
from sweeps.cli.board import REASON_CHARACTERS
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
    progress = SweepProgress(ARMS, OBJECTIVES, rows)
    assert (progress.best("vae"), progress.best("beta")) == ({"nll_iw": 4.0, "au": 2.5}, {})
    progress.add_row(row(nll_iw=-8.0, au=1))
    assert progress.best("vae") == pytest.approx({"nll_iw": 2 / 3, "au": 1.0})


def test_rows_that_did_not_finish_are_ignored():
    progress = SweepProgress(ARMS, OBJECTIVES, [row(status="failed", nll_iw=None, seconds=None)])
    assert progress.best("vae") == {}
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


def epoch(number, seconds):
    """Return the last epoch of a run that has trained for `seconds`."""
    values = {"valid_nll_elbo": 123.456, "valid_kl": 4.5678, "valid_mi": 3.25, "valid_au": 2}
    return {"epoch": number, "seconds": seconds} | values


def started(count=1):
    """Return the progress of a sweep whose first runs are running, and these runs."""
    plan = Plan(spec_of(), FINGERPRINT, [])
    scheduler = RunScheduler(plan)
    runs = [scheduler.next_run() for _ in range(count)]
    progress = SweepProgress([ArmPlan(arm, 1, runs_of, 0, 0, None) for arm, runs_of in (("vae", 2), ("beta", 2))])
    progress.objectives = OBJECTIVES
    for run in runs:
        progress.start(run)
    return progress, runs


def test_a_running_run_counts_as_its_epochs_left_and_a_measurement():
    progress, [run] = started()
    progress.add_row(row(run.arm, seconds=130.0) | {"seconds_evaluate": 30.0, "epochs": 10})
    other = 130.0  # every run that waits
    assert progress.time_left(1) == TimeLeft(4 * other, rough=True), "nothing is known about the running run"
    progress.end_epoch(run, epoch(8, 80.0), 10)
    assert progress.time_left(1) == TimeLeft(2 * 10.0 + 30.0 + 3 * other, rough=True)
    progress.advance(run, Progress("train", 9, 1, 4), 10)
    assert progress.time_left(1) == TimeLeft(1.75 * 10.0 + 30.0 + 3 * other, rough=True)
    progress.advance(run, Progress("nll_iw", 10, 3, 4), 10)
    assert progress.time_left(1) == TimeLeft(30.0 + 3 * other, rough=True)


def test_without_a_finished_run_the_running_runs_give_the_time_left():
    progress, [run, _] = started(2)
    assert progress.time_left(1) is None
    progress.end_epoch(run, epoch(1, 10.0), 10)
    assert progress.time_left(1) == TimeLeft(9 * 10.0 + 3 * 100.0, rough=True)


def test_the_time_left_is_never_shorter_than_the_longest_run():
    progress, [run] = started()
    progress.end_epoch(run, epoch(1, 10.0), 10)
    assert progress.time_left(100) == TimeLeft(100.0, rough=True)


def test_the_trained_epochs_of_a_run_follow_from_its_reports():
    progress, [run] = started()
    seen = []
    for phase in (Progress("train", 1, 1, 4), Progress("validate", 1, 3, 4)):
        progress.advance(run, phase, 2)
        seen.append(progress.running[run.run_id].trained)
    progress.end_epoch(run, epoch(1, 10.0), 2)
    seen.append(progress.running[run.run_id].trained)
    progress.advance(run, Progress("encode", 2, 1, 4), 2)
    seen.append(progress.running[run.run_id].trained)
    assert seen == [0, 0, 1, 2]


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
    display.on_run_phase(run, Progress("train", 1, 3, 4), 2)
    display.on_run_epoch(run, epoch(1, 10.0), 2)
    display.on_run_lost(run, "reported nothing for 600 s.")
    assert [(p.trained, p.epochs) for p in display.progress.running.values()] == [(1, 2)]
    display.on_run_ended(run, row(run.arm, status="failed", nll_iw=None, au=None) | {"stop_reason": "no memory"})
    display.on_sweep_ended({"failed": 1}, "stopped")
    text = file.getvalue()
    assert "123.46" not in text or terminal, "elsewhere, no line is printed per epoch"
    for fragment in (
        "nothing for 600 s; it is started again",
        "2 runs at a time",
        f"1/{display.progress.total}",
        "no memory",
        "1 failed, after",
        "stopped",
    ):
        assert fragment in text
    assert display.progress.running == {}


@pytest.mark.parametrize(("concurrent", "text"), [(1, "1 run at a time on 1 core"), (2, "2 runs at a time on 2 cores")])
def test_counts_agree_with_their_nouns(concurrent, text):
    file = io.StringIO()
    Display(Console(file=file, width=80)).on_training_started(concurrent, concurrent, 0.0)
    assert file.getvalue().strip() == text


STOPPED = "dominated by configuration 0123456789ab after epoch 12 (rule front), even if it improves in nll by 0.2."


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_reason_of_a_stopped_run_is_whole(terminal, width):
    plan = Plan(spec_of(), FINGERPRINT, [])
    file = io.StringIO()
    display = Display(Console(file=file, width=width, height=20, force_terminal=terminal, color_system=None))
    display.progress = SweepProgress(plan.arms(), plan.spec.objectives)
    scheduler = RunScheduler(plan)
    for _ in range(8):
        run = scheduler.next_run()
        display.on_run_started(run)
        display.on_run_ended(run, row(run.arm, status="stopped_early", nll_iw=None, au=None) | {"stop_reason": STOPPED})
    if terminal:
        file.truncate(0)
        display.console.print(display._board())
        assert len(file.getvalue().splitlines()) <= 20
    assert STOPPED in " ".join(file.getvalue().split())


def test_a_long_reason_is_shortened_and_says_so():
    plan = Plan(spec_of(), FINGERPRINT, [])
    file = io.StringIO()
    display = Display(Console(file=file, width=80))
    run = RunScheduler(plan).next_run()
    failed = row(run.arm, status="failed", nll_iw=None, au=None) | {"stop_reason": "no memory " * 100}
    display.on_run_ended(run, failed)
    assert " ...)" in file.getvalue()
    assert len(file.getvalue()) < 80 + REASON_CHARACTERS


@pytest.mark.parametrize("width", [80, 160])
def test_the_board_shows_the_last_epoch_and_the_phase_of_each_running_run(width):
    plan = Plan(spec_of(), FINGERPRINT, [])
    scheduler = RunScheduler(plan)
    file = io.StringIO()
    display = Display(Console(file=file, width=width, height=18, force_terminal=True, color_system=None))
    display.progress = SweepProgress(plan.arms(), plan.spec.objectives)
    runs = [scheduler.next_run() for _ in range(8)]
    for run in runs:
        display.on_run_started(run)
    display.on_run_epoch(runs[0], epoch(1, 10.0), 2)
    display.on_run_phase(runs[0], Progress("train", 2, 3, 4), 2)
    display.on_run_epoch(runs[1], epoch(1, 10.0) | dict.fromkeys(("valid_kl", "valid_mi", "valid_au")), 2)
    display.console.print(display._board())
    lines = [line.split() for line in file.getvalue().splitlines()]
    end = lines.index(["and", "2", "more"])
    first, second, *others = lines[end - 6 : end]
    assert [first[:2], second[:2]] == [[run.arm, str(run.seed)] for run in runs[:2]]
    assert {line[2] for line in others} == {"starting"}
    assert first[2:8] == ["1/2", "training", "75", "%", "123.46", "4.57"]
    assert first[8:10] == ["3.25", "2"]
    assert second[2:5] == ["1/2", "training", "123.46"]
