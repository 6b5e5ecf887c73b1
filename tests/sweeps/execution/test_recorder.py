"""What the table says of a run from its start to its end, without any training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from worlds import FINGERPRINT, spec_of

from lagvae_core.errors import ConfigError, Mistake
from sweeps.cli.live_display import Display
from sweeps.execution.recorder import Book
from sweeps.search.plan import Plan
from sweeps.search.scheduler import Dealer
from sweeps.storage.table import ResultsFolder


@pytest.fixture
def book(tmp_path):
    spec = spec_of()
    folder = ResultsFolder(str(tmp_path), "tiny")
    folder.prepare()
    return Book(spec, folder, Display(), Dealer(Plan(spec, FINGERPRINT, [])), {})


def started(book):
    run = book.dealer.next()
    book.dealt(run)
    book.started(run.run_id)
    return run


def row_in(book):
    [row] = book.folder.runs()
    return row


def test_a_running_row_says_where_it_runs_once_that_is_known(book):
    run = started(book)
    assert (row_in(book)["status"], row_in(book)["host"]) == ("running", None)
    report = {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2}
    book.progressed(run.run_id, report)
    assert (row_in(book)["host"], row_in(book)["device"]) == ("node7", "cpu")
    book.folder.remove(f"runs/{run.run_id}.parquet")
    book.progressed(run.run_id, report | {"epoch": 2})
    assert book.folder.runs() == [], "nothing new is not written again"


def test_a_run_that_goes_on_elsewhere_does_not_say_that_it_is_still_there(book):
    run = started(book)
    book.progressed(run.run_id, {"host": "node7", "device": "cpu", "epoch": 1, "epochs": 2})
    book.started(run.run_id)
    row = row_in(book)
    assert (row["status"], row["attempt"], row["host"], row["device"]) == ("running", 2, None, None)
    [before] = json.loads(row["history"])
    assert (before["host"], before["status"], before["stop_reason"]) == ("node7", "interrupted", "its process was lost")
    book.progressed(run.run_id, {"host": "node8", "device": "cpu", "epoch": 2, "epochs": 2})
    assert row_in(book)["host"] == "node8"


def test_what_the_guard_forbids_is_not_written_and_ends_the_sweep(book):
    run = started(book)
    before = row_in(book)

    def taken_over():
        raise ConfigError([Mistake("the sweep", "tiny", "be driven by one process at a time")])

    book.folder = replace(book.folder, guard=taken_over)
    with book.accountable():
        book.failed(run.run_id, "its process was lost", "")
    book.close("the driver failed.")
    assert row_in(book) == before
    assert isinstance(book.error, ConfigError)


def test_the_first_error_is_the_one_that_is_told(book):
    for error in (ValueError("first"), ValueError("second")):
        with book.accountable():
            raise error
    assert str(book.error) == "first"
