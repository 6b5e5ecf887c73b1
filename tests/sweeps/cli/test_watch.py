"""`lagvae watch`: a sweep of another process, followed by its table alone."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import check_rejected, files_below
from processes import TIMEOUT, private_home
from rich.cells import cell_len
from worlds import TINY_TRIAL, play, spec_of, sweep

from lagvae_core.errors import StoreError
from sweeps.analysis.following import SweepFollower
from sweeps.cli import watched_sweep
from sweeps.cli.watched_sweep import WatchedSweep
from sweeps.storage import compaction
from sweeps.storage.driver_observer import DriverSign, DriverState
from sweeps.storage.provenance import now
from sweeps.storage.table import ResultsFolder, StoredTable

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UNKNOWN = DriverSign(DriverState.UNKNOWN)


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """A sweep without rows."""
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec_of().source.encode())
    return folder


def store(folder: ResultsFolder, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        folder.write_run(row)
        if row["status"] == "running":
            folder.write_curve(row, [{"epoch": 1, "step": 4, "valid_nll_elbo": 9.5, "valid_au": 1, "seconds": 2.0}])


def watched(folder: ResultsFolder, driver: DriverSign = UNKNOWN, before: WatchedSweep | None = None) -> WatchedSweep:
    return WatchedSweep(SweepFollower(folder).read(), driver, before)


class TestOnce:
    def test_a_finished_sweep(self, call, folder, tmp_path):
        store(folder, play(spec_of())[0])
        before = files_below(tmp_path)
        ended = call("watch", "tiny", "--once")
        lines = [line.split() for line in ended.stdout.splitlines()]
        assert (ended.returncode, ended.stderr) == (0, "")
        assert lines[0][:2] == ["8/8", "runs"]
        assert [line[:2] for line in lines[2:4]] == [["vae", "2/2"], ["beta", "6/6"]]
        assert [line[-5] for line in lines[4:-1]] == ["finished"] * 4, "the runs that ended last"
        assert lines[-1][:3] == ["8", "finished,", "after"]
        assert files_below(tmp_path) == before, "nothing is written"

    def test_a_complete_sweep_of_which_a_run_failed(self, call, folder):
        rows = play(spec_of())[0]
        store(
            folder,
            [row | {"status": "failed", "stop_reason": "no memory"} if i == 3 else row for i, row in enumerate(rows)],
        )
        ended = call("watch", "tiny", "--once")
        assert ended.returncode == 1
        assert "8/8 runs, 1 failed " in ended.stdout
        assert ended.stdout.splitlines()[-1].startswith("1 failed, 7 finished, after ")

    def test_a_sweep_that_runs(self, call, folder):
        store(folder, play(spec_of(), ends=4, concurrent=2)[0])
        ended = call("watch", "tiny", "--once")
        assert ended.returncode == 0
        table = [line for line in ended.stdout.splitlines() if " ago " in line]
        assert len(table) == 2
        assert all(re.search(r"1/2 +\d s ago +9\.50 +1 ", line) for line in table), ended.stdout
        assert "after" not in ended.stdout

    def test_every_running_run_is_shown(self, call, folder):
        rows, _ = play(spec_of(search={"sampler": "random", "configurations": 30, "seeds": 1}), ends=0, concurrent=30)
        folder.write(
            "spec.yaml", spec_of(search={"sampler": "random", "configurations": 30, "seeds": 1}).source.encode()
        )
        store(folder, rows)
        assert call("watch", "tiny", "--once").stdout.count(" ago ") == 30

    def test_an_empty_table(self, call, folder):
        ended = call("watch", "tiny", "--once")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines()[0].split()[0] == "0/8"
        assert "no run has started yet" in ended.stdout

    def test_a_compacted_table(self, call, folder):
        store(folder, play(spec_of(), ends=4, concurrent=2)[0])
        before = call("watch", "tiny", "--once").stdout.splitlines()
        with folder.locked():
            compaction.compact(folder)
        after = call("watch", "tiny", "--once").stdout.splitlines()
        assert [line.split()[:2] for line in after] == [line.split()[:2] for line in before]

    def test_a_damaged_table(self, call, folder):
        store(folder, rows := play(spec_of())[0])
        name = f"runs/{rows[0]['run_id']}.parquet"
        path = Path(str(folder.local_path), name)
        path.write_bytes(path.read_bytes()[:-5])
        ended = call("watch", "tiny", "--once")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "7/8 runs" in ended.stdout
        assert f"1 file cannot be read and is not counted: {name}" in ended.stdout

    def test_a_sweep_that_is_not_stored(self, call, folder):
        check_rejected(call("watch", "tinny", "--once"), "SWEEP", "tiny")

    @pytest.mark.parametrize("options", [["--once"], []])
    def test_a_table_without_a_valid_sweep_file(self, call, folder, options):
        folder.write("spec.yaml", b"arms: [")
        check_rejected(call("watch", "tiny", *options), "spec.yaml")

    @pytest.mark.parametrize("every", ["0", "nan", "inf", "1e9"])
    def test_a_name_that_no_sweep_has_and_a_time_that_is_no_time(self, call, every):
        check_rejected(call("watch", "../tiny", "--every", every), "SWEEP", "--every", f"{float(every)}")

    def test_a_time_between_readings_without_a_second_reading(self, call, folder):
        check_rejected(call("watch", "tiny", "--once", "--every", "5"), "--every")


class TestNotes:
    """What is said about the driver of a sweep that is not complete."""

    @pytest.fixture
    def quiet(self, folder: ResultsFolder, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
        """A sweep without news for longer than usual."""
        monkeypatch.setattr(watched_sweep, "QUIET_SECONDS", -1.0)
        rows = play(spec_of(), ends=4, concurrent=2)[0]
        store(folder, [row | {"status": "interrupted"} if row["status"] == "running" else row for row in rows])
        return folder

    @pytest.mark.parametrize(
        ("driver", "words"),
        [
            (UNKNOWN, ["2 of the runs left are interrupted; no news for ", "; is the driver still running?"]),
            (DriverSign(DriverState.ABSENT), ["no driver is running this sweep; running it again resumes it"]),
            (
                DriverSign(DriverState.SILENT, "node-1", 75.0),
                ["the driver on node-1 has not renewed its lease for 1 min"],
            ),
            (DriverSign(DriverState.PRESENT, "node-1"), ["no news for ", ", but a driver on node-1 is running"]),
            (DriverSign(DriverState.PRESENT), ["no news for ", ", but a driver on this machine is running"]),
        ],
    )
    def test_without_news(self, quiet, driver, words):
        [note] = watched(quiet, driver).notes()
        assert all(text in note for text in words)

    @pytest.mark.parametrize("state", [DriverState.UNKNOWN, DriverState.PRESENT])
    def test_nothing_is_said_about_a_driver_that_has_just_written(self, folder, state):
        store(folder, play(spec_of(), ends=4, concurrent=2)[0])
        assert watched(folder, DriverSign(state)).notes() == []

    def test_a_long_epoch_is_no_silence(self, folder, monkeypatch):
        monkeypatch.setattr(watched_sweep, "QUIET_SECONDS", -1.0)
        store(folder, play(spec_of(), ends=4, concurrent=2)[0])
        for row in folder.runs():
            folder.write_curve(row, [{"epoch": 1, "step": 4, "seconds": 3600.0}])
        assert watched(folder).notes() == []

    def test_the_time_left_is_not_estimated_without_a_driver(self, folder):
        store(
            folder,
            play(spec_of(), ends=4, concurrent=2, answer=lambda run: {"seconds": 5.0, "nll_iw": 1.0, "au": 1})[0],
        )
        assert watched(folder).time_left is not None
        left = watched(folder, DriverSign(DriverState.ABSENT))
        assert left.time_left is None
        assert left.board().elapsed == left.board().elapsed, "the time stands still"


class TestState:
    def test_a_used_up_budget_completes_a_sweep(self, folder):
        search = {"sampler": "random", "configurations": 3, "seeds": 2, "budget": {"hours": 1}}
        folder.write("spec.yaml", spec_of(search=search).source.encode())
        store(folder, [row | {"seconds": 1000.0} for row in play(spec_of(), ends=4)[0] if row["status"] != "running"])
        sweep = watched(folder)
        assert sweep.complete
        assert sweep.summary().endswith("the budget is used up (1.11 of 1 hours)")

    def test_a_run_that_is_left_completes_none(self, folder):
        rows = play(spec_of())[0]
        store(folder, [*rows[1:], rows[0] | {"status": "interrupted"}])
        assert not watched(folder).complete

    def test_the_changes_between_two_readings(self, folder):
        rows, _ = play(spec_of(), ends=2, concurrent=3)
        store(folder, rows)
        before = watched(folder)
        assert before.changes(before) == []
        first, second, third = (row for row in rows if row["status"] == "running")
        folder.write_run(first | {"status": "finished", "nll_iw": 3.0, "au": 1, "ended_at": now()})
        folder.write_run(second | {"status": "interrupted"})
        folder.write_run(third | {"attempt": 2})
        changes = watched(folder, before=before).changes(before)
        kinds = [next(kind for kind in ("finished", "interrupted", "attempt 2") if kind in text) for text in changes]
        assert sorted(kinds) == ["attempt 2", "finished", "interrupted"]
        assert all(text.startswith("[3/8] ") for text in changes)

    def test_the_time_is_that_of_the_latest_session(self, folder):
        moment, rows = now() - timedelta(hours=5), play(spec_of())[0]
        spans = [(0, 60), (60, 120), (3600, 3660), (3665, 3700), (3660, 3690), (3700, 3725), (3700, 3710), (3710, 3720)]
        for row, (start, end) in zip(rows, spans, strict=True):
            times = {"started_at": moment + timedelta(seconds=start), "ended_at": moment + timedelta(seconds=end)}
            folder.write_run(row | times)
        assert watched(folder).summary() == "8 finished, after 2 min 05 s"

    def test_values_that_an_edited_table_lacks(self, folder):
        rows = play(spec_of(), ends=4, concurrent=2)[0]
        lacking = dict.fromkeys(("started_at", "ended_at", "stop_reason", "seconds"))
        store(folder, [rows[0] | {"ended_at": rows[0]["started_at"]}, *(row | lacking for row in rows[1:])])
        for row in rows:
            folder.write_curve(row, [{"epoch": 0, "step": 0}, {"epoch": 1, "step": 4}])
        sweep = watched(folder)
        assert [run.trained for run in sweep.progress.running.values()] == [0, 0]


def test_an_outage_of_the_storage_does_not_end_the_watch(call, folder, monkeypatch):
    store(folder, play(spec_of())[0])
    allowed, failures = ResultsFolder.read_table, iter([True, True])

    def fail_twice(self: ResultsFolder, *arguments: Any) -> StoredTable:
        if next(failures, False):
            raise StoreError("the share is away")
        return allowed(self, *arguments)

    monkeypatch.setattr(ResultsFolder, "read_table", fail_twice)
    ended = call("watch", "tiny", "--every", "0.1")
    assert (ended.returncode, ended.stderr) == (0, "")
    outage, counts, summary = ended.stdout.splitlines()
    assert outage == "the results cannot be accessed; trying again. the share is away"
    assert counts == "sweep tiny: 2 arms, 8 runs, 8 ended"
    assert summary.startswith("8 finished, after ")


@pytest.fixture
def home() -> Iterator[dict[str, str]]:
    with private_home() as home:
        yield home


def start(here: Path, home: Mapping[str, str], *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | streams
    command = [str(Path(sys.executable).with_name("lagvae")), *arguments]
    return subprocess.Popen(command, cwd=here, env=dict(home), text=True, start_new_session=True, **streams)


def write_sweep(here: Path, epochs: int, **changes: Any) -> None:
    trial = TINY_TRIAL | {"training": {"epochs": epochs, "decay_min_epoch": epochs}}
    (here / "tiny.yaml").write_text(yaml.safe_dump(sweep(**{"trial": trial} | changes), sort_keys=False))


@contextmanager
def terminal(width: int) -> Iterator[tuple[int, Callable[[], str]]]:
    """Context manager. Yields the descriptor of a terminal, and a function that returns what was printed on it."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    pieces: list[bytes] = []

    def collect() -> None:
        try:
            while piece := os.read(outer, 65536):
                pieces.append(piece)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=collect)
    reader.start()

    def close() -> str:
        os.close(inner)
        reader.join()
        return b"".join(pieces).decode()

    try:
        yield inner, close
    finally:
        reader.join()
        os.close(outer)


def wait_for(output: Path, words: str, process: subprocess.Popen[str]) -> None:
    """Wait until the output of a process contains `words`."""
    deadline = time.monotonic() + TIMEOUT
    while words not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_is_watched_from_before_its_start_over_a_kill_of_its_driver_to_its_end(tmp_path, home):
    write_sweep(tmp_path, 100, arms={"vae": [], "encoder_lr": [{"kind": "encoder_lr", "multiplier": 1e30}]})
    folder, output = ResultsFolder(str(tmp_path / "results"), "tiny"), tmp_path / "output"
    in_terminal = {name: value for name, value in home.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    with terminal(80) as (screen, close), output.open("w") as stdout:
        piped = start(tmp_path, home, "watch", "tiny", "--every", "0.2", stdout=stdout, stderr=stdout)
        board = start(tmp_path, in_terminal, "watch", "tiny", "--every", "0.2", stdout=screen, stderr=screen)
        wait_for(output, "tiny is not stored in ", piped)
        driver = start(tmp_path, home, "run", "tiny.yaml", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(output, "sweep tiny: 2 arms, 4 runs, ", piped)
        while not any(row["status"] == "running" for row in folder.runs()):
            assert driver.poll() is None
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        wait_for(output, "no driver is running this sweep; running it again resumes it", piped)
        with start(tmp_path, home, "run", "tiny.yaml", stdout=subprocess.DEVNULL) as driver:
            assert "2 diverged, 2 finished, after " in driver.communicate(timeout=TIMEOUT)[1]
        codes = [process.wait(timeout=TIMEOUT) for process in (driver, piped, board)]
        drawn = close()
    assert codes == [0, 0, 0]
    lines = output.read_text().splitlines()
    ended = [line for line in lines if re.match(r"\[\d/4\] ", line)]
    assert sum("finished  nll_iw" in line for line in ended) == 2
    assert sum("diverged (the loss is nan" in line for line in ended) == 2
    assert any("started again, attempt 2" in line for line in ended)
    assert lines[-1].startswith("2 diverged, 2 finished, after ")
    assert "\x1b" not in output.read_text()
    text = ESCAPES.sub("", drawn)
    assert "Traceback" not in text + output.read_text()
    assert max(map(cell_len, re.split(r"[\r\n]+", text.partition("/4 runs")[2]))) <= 80
    shown = (
        "/4 runs",
        "no driver is running",
        "4/4 runs, 2 diverged",
        "last news",
        "/100",
        " s ago",
        "2 diverged, 2 fin",
    )
    assert all(words in text for words in shown), [words for words in shown if words not in text]


def test_an_interrupt_ends_the_watch(call, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    ended = call("watch", "tiny")
    assert (ended.returncode, ended.stderr) == (130, "lagvae: interrupted.\n")
    assert ended.stdout.endswith("yet; waiting for it. No sweep is stored there.\n")


def test_a_misspelt_name_is_noticed_while_the_watch_waits(call, folder, monkeypatch):
    store(folder, play(spec_of())[0])
    monkeypatch.setattr(
        "time.sleep", lambda seconds: Path(folder.results, "tiny").rename(Path(folder.results, "tinny"))
    )
    ended = call("watch", "tinny")
    waiting, counts, _ = ended.stdout.splitlines()
    assert "waiting for it. Stored there: tiny. Did you mean tiny" in waiting
    assert (ended.returncode, counts) == (0, "sweep tiny: 2 arms, 8 runs, 8 ended")
