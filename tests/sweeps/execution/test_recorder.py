"""The rows that the recorder writes from the start of a run to its end, without training."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from worlds import FINGERPRINT, spec_of

from sweeps.execution.monitor import SilentMonitor
from sweeps.execution.recorder import RunRecorder
from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.storage.lease import LeaseHeldError
from sweeps.storage.table import ResultsFolder


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


@pytest.fixture
def world(tmp_path):
    spec = spec_of()
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    scheduler = RunScheduler(Plan(spec, FINGERPRINT, []))
    recorder = RunRecorder(
        spec, folder, SilentMonitor(), fingerprint=FINGERPRINT, origin={}, on_run_ended=scheduler.on_run_ended
    )
    return World(recorder, scheduler)


def test_a_running_row_shows_host_and_device_from_the_first_report_on(world):
    run = world.start()
    assert (world.row["status"], world.row["host"]) == ("running", None)
    report = {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2}
    world.recorder.on_run_progress(run.run_id, report)
    assert (world.row["host"], world.row["device"]) == ("node7", "cpu")
    world.recorder.folder.remove(f"runs/{run.run_id}.parquet")
    world.recorder.on_run_progress(run.run_id, report | {"epoch": 2})
    assert world.recorder.folder.runs() == [], "an unchanged row is not written again"


def test_a_restarted_run_shows_its_new_host_and_keeps_the_old_one_in_its_history(world):
    run = world.start()
    world.recorder.on_run_progress(run.run_id, {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2})
    world.recorder.on_run_started(run.run_id)
    row = world.row
    assert (row["status"], row["attempt"], row["host"], row["device"]) == ("running", 2, None, None)
    [before] = json.loads(row["history"])
    assert (before["host"], before["status"], before["stop_reason"]) == ("node7", "interrupted", "its process was lost")
    world.recorder.on_run_progress(run.run_id, {"host": "node8", "device": "cpu", "epoch": 2, "epochs": 2})
    assert world.row["host"] == "node8"


def test_a_failure_is_recorded_and_reaches_the_scheduler(world):
    run = world.start()
    failure = {"status": "failed", "stop_reason": "KeyError: 'x'", "error_class": "KeyError", "traceback": "..."}
    world.recorder.on_run_ended(run.run_id, {"failure": json.dumps(failure)})
    assert {name: world.row[name] for name in failure} == failure
    assert world.row["ended_at"] is not None
    assert world.recorder.statuses == {run.run_id: "failed"}
    assert world.scheduler.next_run() != run


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
        world.recorder.on_run_failed(run.run_id, "its process was lost", "")
    world.recorder.close("the driver failed.")
    assert world.row == before
    assert isinstance(world.recorder.error, LeaseHeldError)


def test_the_first_captured_error_is_kept(world):
    for error in (ValueError("first"), ValueError("second")):
        with world.recorder.capture_errors():
            raise error
    assert str(world.recorder.error) == "first"
