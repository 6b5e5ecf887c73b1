"""The rows that the recorder writes from the start of a run to its end, without training."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from worlds import FINGERPRINT, plausible, row_of, spec_of

from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.execution.failures import LOSS_CHARACTERS
from sweeps.execution.losses import LOST_RETRIES, SILENT_RETRIES
from sweeps.execution.monitor import SilentMonitor
from sweeps.execution.recorder import RunRecorder
from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.storage.folder import checkpoint_name
from sweeps.storage.lease import LeaseHeldError
from sweeps.storage.table import ResultsFolder


def epoch_report(epoch: int, kl: float = 0.5, host: str = "node7", **columns: Any) -> dict[str, Any]:
    """Return the report of a worker after an epoch."""
    values = dict.fromkeys(column.name for column in CURVE_COLUMNS) | {
        "epoch": epoch,
        "step": 4 * epoch,
        "valid_kl": kl,
        **columns,
    }
    return {"host": host, "device": "cpu", "epoch": epoch, "epochs": 9, "curve": json.dumps(values)}


def phase_report(epoch: int) -> dict[str, Any]:
    """Return the report of a worker within an epoch."""
    position = {"phase": "train", "phase_done": 3, "phase_total": 4, "epoch": epoch, "epochs": 9}
    return {"host": "node7", "device": "cpu"} | position


@dataclass
class World:
    """A recorder with the scheduler that it serves."""

    recorder: RunRecorder
    scheduler: RunScheduler

    def start(self) -> Run:
        run = self.scheduler.next_run()
        assert run is not None
        self.recorder.on_run_scheduled(run)
        self.recorder.on_run_started(run.run_id)
        return run

    @property
    def row(self):
        [row] = self.recorder.folder.runs()
        return row

    @property
    def stored_epochs(self):
        """Numbers and KL of the epochs in the table."""
        return [(row["epoch"], row["valid_kl"]) for row in self.recorder.folder.curves()]

    def continued(self) -> World:
        """Return a world with a new driver on the same folder."""
        folder = self.recorder.folder
        return world_of(folder, folder.runs())


@pytest.fixture
def world(tmp_path):
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    return world_of(folder, [])


def world_of(folder: ResultsFolder, rows: list[dict[str, Any]]) -> World:
    spec = spec_of()
    scheduler = RunScheduler(Plan(spec, FINGERPRINT, rows))
    recorder = RunRecorder(
        spec,
        folder,
        SilentMonitor(),
        fingerprint=FINGERPRINT,
        origin={},
        on_run_ended=scheduler.on_run_ended,
        on_run_lost=scheduler.on_run_lost,
    )
    return World(recorder, scheduler)


def test_a_running_row_shows_host_and_device_from_the_first_report_on(world):
    run = world.start()
    assert (world.row["status"], world.row["host"]) == ("running", None)
    world.recorder.on_run_progress(run.run_id, epoch_report(1))
    assert (world.row["host"], world.row["device"]) == ("node7", "cpu")
    world.recorder.folder.remove(f"runs/{run.run_id}.parquet")
    world.recorder.on_run_progress(run.run_id, epoch_report(2))
    world.recorder.on_run_progress(run.run_id, phase_report(3))
    assert world.recorder.folder.runs() == [], "an unchanged row is not written again"


def test_all_epochs_but_those_before_the_last_stored_one_are_reported_again(world):
    run = world.start()
    assert world.recorder.reported_epochs(run) == 0
    for epoch in (1, 2, 3):
        world.recorder.on_run_progress(run.run_id, epoch_report(epoch))
    assert world.recorder.reported_epochs(run) == 2
    assert world.stored_epochs == [(1, 0.5)], "a driver that is killed loses the last seconds of a curve"
    again = world.continued()
    assert again.recorder.reported_epochs(again.start()) == 0
    world.recorder.close("interrupted")
    again = world.continued()
    resumed = again.scheduler.next_run()
    assert again.recorder.reported_epochs(resumed) == 2


def test_a_restarted_run_shows_its_new_host_and_keeps_the_old_one_in_its_history(world):
    run = world.start()
    world.recorder.on_run_progress(run.run_id, epoch_report(1))
    world.recorder.on_run_lost(run.run_id, f"Failure # 1\nTraceback\nThe actor died: {'worker ' * 100}\n")
    assert world.start() == run, "a lost run is the next to start"
    row = world.row
    assert (row["status"], row["attempt"], row["host"], row["device"]) == ("running", 2, None, None)
    [before] = json.loads(row["history"])
    assert (before["host"], before["status"], before["error_class"]) == ("node7", "interrupted", "WorkerLost")
    assert "The actor died: worker" in before["stop_reason"]
    assert "Traceback" not in before["stop_reason"]
    assert len(before["stop_reason"]) <= len("its process was lost: ") + LOSS_CHARACTERS
    assert (row["stop_reason"], row["error_class"]) == (None, None)
    world.recorder.on_run_progress(run.run_id, epoch_report(2, host="node8"))
    assert world.row["host"] == "node8"


def test_a_failure_is_recorded_and_reaches_the_scheduler(world):
    run = world.start()
    failure = {"status": "failed", "stop_reason": "KeyError: 'x'", "error_class": "KeyError", "traceback": "..."}
    world.recorder.on_run_ended(run.run_id, {"failure": json.dumps(failure)})
    assert {name: world.row[name] for name in failure} == failure
    assert world.row["ended_at"] is not None
    assert world.recorder.statuses == {run.run_id: "failed"}
    assert world.scheduler.next_run() != run


def test_a_run_that_is_lost_again_and_again_without_progress_fails(world):
    run = world.start()
    for _ in range(LOST_RETRIES):
        world.recorder.on_run_lost(run.run_id, "killed")
        assert world.start() == run
    world.recorder.on_run_lost(run.run_id, "killed")
    row = world.row
    assert (row["status"], row["error_class"], row["attempt"]) == ("failed", "WorkerLost", 1 + LOST_RETRIES)
    assert row["traceback"] == "killed"
    assert world.scheduler.next_run() != run


def test_losses_are_forgiven_if_the_run_makes_progress_in_between(world):
    run = world.start()
    folder = world.recorder.folder
    for n in range(4 * LOST_RETRIES):
        if n % 4 == 0:
            world.recorder.on_run_progress(run.run_id, epoch_report(n + 1))
        elif n % 4 == 2:
            folder.write(checkpoint_name(run.run_id), b"")
        world.recorder.on_run_lost(run.run_id, "killed")
        assert world.start() == run
    assert world.row["status"] == "running"
    assert world.recorder.was_lost(run)


def test_progress_within_an_epoch_is_no_epoch(world):
    run = world.start()
    for n in range(LOST_RETRIES):
        world.recorder.on_run_progress(run.run_id, phase_report(n + 1))
        world.recorder.on_run_lost(run.run_id, "killed")
        assert world.start() == run
    assert world.recorder.curve(run.run_id) == []
    world.recorder.on_run_progress(run.run_id, phase_report(LOST_RETRIES + 1))
    world.recorder.on_run_lost(run.run_id, "killed")
    assert world.row["status"] == "failed"
    assert world.stored_epochs == []


def test_a_silent_run_is_tried_once_more_and_then_fails(world):
    run = world.start()
    for n in range(SILENT_RETRIES):
        world.recorder.on_run_progress(run.run_id, epoch_report(n + 1))
        world.recorder.on_run_silent(run.run_id, 600.4)
        world.recorder.on_run_lost(run.run_id, "killed by `ray.kill`")
        assert world.start() == run
        [*_, before] = json.loads(world.row["history"])
        assert (before["status"], before["error_class"]) == ("interrupted", "WorkerSilent")
        assert before["stop_reason"] == "reported nothing for 600 s."
        assert world.row["error_class"] is None
    assert world.recorder.was_lost(run)
    world.recorder.on_run_progress(run.run_id, epoch_report(5))
    world.recorder.on_run_silent(run.run_id, 700.0)
    world.recorder.on_run_lost(run.run_id, "killed by `ray.kill`")
    row = world.row
    assert (row["status"], row["error_class"]) == ("failed", "WorkerSilent")
    assert row["stop_reason"] == "reported nothing for 700 s."
    assert world.scheduler.next_run() != run


def test_a_silent_run_that_ends_after_all_has_its_record(world):
    run = world.start()
    world.recorder.on_run_silent(run.run_id, 600.0)
    world.recorder.on_run_ended(run.run_id, {"interrupted": True})
    assert (world.row["status"], world.row["error_class"]) == ("interrupted", None)


def test_a_running_run_shows_its_curve_which_its_record_replaces(world):
    run = world.start()
    world.recorder.on_run_progress(run.run_id, epoch_report(1, kl=0.25))
    assert world.stored_epochs == [(1, 0.25)]
    world.recorder.on_run_progress(run.run_id, epoch_report(2, kl=float("nan")))
    assert [(epoch["epoch"], epoch["valid_kl"]) for epoch in world.recorder.curve(run.run_id)] == [(1, 0.25), (2, None)]
    final = [json.loads(epoch_report(n, kl=1.0)["curve"]) for n in (1, 2, 3)]
    record = {"status": "finished", "stop_reason": "", "metrics": {}, "cost": {}, "warnings": [], "curve": final}
    world.recorder.on_run_ended(run.run_id, {"record": json.dumps(record)})
    assert world.stored_epochs == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert world.recorder.curve(run.run_id) == []


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("interrupted", lambda world, run: world.recorder.close("the sweep was interrupted.")),
        ("interrupted", lambda world, run: world.recorder.on_run_ended(run.run_id, {"interrupted": True})),
        (
            "failed",
            lambda world, run: world.recorder.on_run_ended(
                run.run_id, {"failure": json.dumps({"status": "failed", "traceback": "", "error_class": "KeyError"})}
            ),
        ),
    ],
)
def test_a_run_that_ends_without_a_record_keeps_all_epochs_that_it_reported(world, status, end):
    run = world.start()
    for n in (1, 2, 3):
        world.recorder.on_run_progress(run.run_id, epoch_report(n))
    end(world, run)
    assert world.row["status"] == status
    assert [epoch for epoch, _ in world.stored_epochs] == [1, 2, 3]


def test_the_curve_of_a_resumed_run_begins_with_its_stored_epochs(world):
    run = world.start()
    for n in (1, 2, 3):
        world.recorder.on_run_progress(run.run_id, epoch_report(n, kl=0.0))
    world.recorder.close("the sweep was interrupted.")
    again = world.continued()
    run = again.start()
    assert run.attempt == 2
    assert [epoch["epoch"] for epoch in again.recorder.curve(run.run_id)] == [1, 2, 3]
    again.recorder.on_run_progress(run.run_id, epoch_report(3, kl=1.0))
    expected = [(1, 0.0), (2, 0.0), (3, 1.0)]
    assert [(epoch["epoch"], epoch["valid_kl"]) for epoch in again.recorder.curve(run.run_id)] == expected
    assert again.stored_epochs == expected


def test_a_driver_that_is_killed_leaves_a_curve_that_the_next_driver_extends(world):
    run = world.start()
    for n in (1, 2, 3):
        world.recorder.on_run_progress(run.run_id, epoch_report(n))
    again = world.continued()
    run = again.start()
    assert [epoch["epoch"] for epoch in again.recorder.curve(run.run_id)] == [1], "the last write was the first epoch"
    again.recorder.on_run_progress(run.run_id, epoch_report(4))
    assert [epoch["epoch"] for epoch in again.recorder.curve(run.run_id)] == [1, 4]


def test_a_curve_that_cannot_be_read_is_started_again(world):
    run = world.start()
    world.recorder.on_run_progress(run.run_id, epoch_report(1))
    world.recorder.folder.write(f"curves/{run.run_id}.parquet", b"damaged")
    again = world.continued()
    run = again.start()
    assert again.recorder.curve(run.run_id) == []
    again.recorder.on_run_progress(run.run_id, epoch_report(2))
    assert [epoch for epoch, _ in again.stored_epochs] == [2]


def test_a_process_that_is_lost_before_its_run_started_is_replaced(world):
    run = world.scheduler.next_run()
    world.recorder.on_run_scheduled(run)
    world.recorder.on_run_lost(run.run_id, "killed")
    assert world.recorder.folder.runs() == []
    assert world.start() == run
    assert world.row["attempt"] == 1


KILL_BY_RAY = """1 worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 192.0.2.1, ID: 0) was 1.74GB used / 23.54GB limit (0.073)
OOM kill reason: Memory usage 1868285248B exceeded threshold of 505530016B (2.0% of 25276502016B limit)
"""


def test_a_kill_by_ray_for_lack_of_memory_is_out_of_memory_and_repeated_alone(world):
    run = world.start()
    world.recorder.on_run_lost(run.run_id, KILL_BY_RAY)
    row = world.row
    assert (row["status"], row["error_class"]) == ("out_of_memory", "OutOfMemoryError")
    for number in ("1.7 of 23.5 GB", "threshold 2 %"):
        assert number in row["stop_reason"]
    runs = []
    while (following := world.scheduler.next_run()) is not None:
        runs.append(following)
        world.scheduler.on_run_ended(following, row_of(following, **plausible(following)))
    assert [(following.run_id, following.alone) for following in runs if following.alone] == [(run.run_id, True)]
    assert runs[-1].alone


def test_an_interrupted_run_is_recorded_at_once_and_has_not_ended(world):
    run = world.start()
    assert world.recorder.has_active_runs
    world.recorder.on_run_ended(run.run_id, {"host": "h", "device": "cpu", "interrupted": True})
    assert world.row["status"] == "interrupted"
    assert not world.recorder.has_active_runs
    assert not world.scheduler.exhausted


def test_close_records_running_runs_as_interrupted(world):
    run = world.start()
    world.recorder.close("the sweep was interrupted.")
    assert (world.row["status"], world.row["stop_reason"]) == ("interrupted", "the sweep was interrupted.")
    assert world.recorder.statuses == {run.run_id: "interrupted"}


def test_nothing_is_written_once_the_guard_forbids_it_and_the_sweep_ends(world):
    run = world.start()
    before = world.row

    def taken_over():
        raise LeaseHeldError("node9", lost=True)

    world.recorder.folder = replace(world.recorder.folder, guard=taken_over)
    with world.recorder.capture_errors():
        world.recorder.on_run_ended(run.run_id, {"interrupted": True})
    world.recorder.close("the driver failed.")
    assert world.row == before
    assert isinstance(world.recorder.error, LeaseHeldError)


def test_the_first_captured_error_is_kept(world):
    for error in (ValueError("first"), ValueError("second")):
        with world.recorder.capture_errors():
            raise error
    assert str(world.recorder.error) == "first"


def test_an_interrupted_run_keeps_its_cost_and_its_next_attempt_starts_from_it(world):
    cost = {"seconds": 12.5, "encoder_steps": 30, "decoder_steps": 20}
    run = world.start()
    world.recorder.on_run_progress(run.run_id, epoch_report(1, **cost))
    world.recorder.close("the sweep was interrupted.")
    assert {name: world.row[name] for name in cost} == cost
    again = replace(run, stored=world.row)
    for status, kept in (("interrupted", cost), ("failed", dict.fromkeys(cost))):
        row = world.recorder._first_row(replace(again, stored=world.row | {"status": status}))
        assert {name: row[name] for name in cost} == kept


@pytest.mark.parametrize(
    ("gpus", "alone", "stored"), [(0, False, 0), (0.25, False, 0.25), (0.25, True, 1), (2, True, 2)]
)
def test_a_row_says_which_gpus_its_run_has(world, gpus, alone, stored):
    world.recorder.spec = spec_of(resources={"gpus": gpus})
    run = world.scheduler.next_run()
    assert world.recorder._first_row(replace(run, alone=alone))["gpus"] == stored


def test_a_stopped_run_keeps_its_last_validation_and_its_curve_and_loses_its_checkpoint(world):
    run = world.start()
    folder = world.recorder.folder
    folder.write(checkpoint_name(run.run_id), b"state")
    for epoch in (1, 2, 2, 3):  # a restarted process repeats an epoch
        columns = {"valid_nll_elbo": 9.0 - epoch, "valid_au": 1, "seconds": 1.5, "train_loss": float("nan")}
        report = epoch_report(epoch, **columns)
        world.recorder.on_run_progress(run.run_id, report)
    world.recorder.on_run_stopped(run.run_id, "stopped after epoch 3.")
    world.recorder.on_run_ended(run.run_id, report)
    row = world.row
    assert (row["status"], row["stop_reason"], row["epochs"]) == ("stopped_early", "stopped after epoch 3.", 3)
    assert (row["valid_nll_elbo"], row["valid_au"], row["seconds"], row["nll_iw"]) == (6.0, 1, 1.5, None)
    assert [(epoch["epoch"], epoch["train_loss"]) for epoch in folder.curves()] == [(1, None), (2, None), (3, None)]
    assert folder.modified(checkpoint_name(run.run_id)) is None
    assert world.recorder.curve(run.run_id) == []
