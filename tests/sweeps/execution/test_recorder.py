"""What the table says of a run from its start to its end, without any training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from worlds import FINGERPRINT, spec_of

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.cli.live_display import Display
from sweeps.execution.recorder import RunRecorder
from sweeps.search.plan import Plan
from sweeps.search.scheduler import RunScheduler
from sweeps.storage.table import ResultsFolder


@pytest.fixture
def recorder(tmp_path):
    spec = spec_of()
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    return RunRecorder(spec, folder, Display(), RunScheduler(Plan(spec, FINGERPRINT, [])), {})


def started(recorder):
    run = recorder.scheduler.next_run()
    recorder.on_run_scheduled(run)
    recorder.started(run.run_id)
    return run


def row_in(recorder):
    [row] = recorder.folder.runs()
    return row


def test_a_running_row_says_where_it_runs_once_that_is_known(recorder):
    run = started(recorder)
    assert (row_in(recorder)["status"], row_in(recorder)["host"]) == ("running", None)
    report = {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2}
    recorder.progressed(run.run_id, report)
    assert (row_in(recorder)["host"], row_in(recorder)["device"]) == ("node7", "cpu")
    recorder.folder.remove(f"runs/{run.run_id}.parquet")
    recorder.progressed(run.run_id, report | {"epoch": 2})
    assert recorder.folder.runs() == [], "nothing new is not written again"


def test_a_run_that_goes_on_elsewhere_does_not_say_that_it_is_still_there(recorder):
    run = started(recorder)
    recorder.progressed(run.run_id, {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2})
    recorder.started(run.run_id)
    row = row_in(recorder)
    assert (row["status"], row["attempt"], row["host"], row["device"]) == ("running", 2, None, None)
    [before] = json.loads(row["history"])
    assert (before["host"], before["status"], before["stop_reason"]) == ("node7", "interrupted", "its process was lost")
    recorder.progressed(run.run_id, {"host": "node8", "device": "cpu", "epoch": 2, "epochs": 2})
    assert row_in(recorder)["host"] == "node8"


def test_what_the_guard_forbids_is_not_written_and_ends_the_sweep(recorder):
    run = started(recorder)
    before = row_in(recorder)

    def taken_over():
        raise ConfigError([ValidationIssue("the sweep", "must be driven by one process at a time", value="tiny")])

    recorder.folder = replace(recorder.folder, guard=taken_over)
    with recorder.capture_errors():
        recorder.failed(run.run_id, "its process was lost", "")
    recorder.close("the driver failed.")
    assert row_in(recorder) == before
    assert isinstance(recorder.error, ConfigError)


def test_the_first_error_is_the_one_that_is_told(recorder):
    for error in (ValueError("first"), ValueError("second")):
        with recorder.capture_errors():
            raise error
    assert str(recorder.error) == "first"
