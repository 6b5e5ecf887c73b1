"""`lagvae dashboard`: the HTTP interface of optuna-dashboard on a table that grows, and errors at its start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from commands import check_rejected, files_below
from processes import TIMEOUT, private_home
from worlds import play, spec_of

from sweeps.storage.table import ResultsFolder

ONE = {"objectives": {"nll_iw": "min"}}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """A sweep with one objective, whose first run is running."""
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec_of(**ONE).source.encode())
    store(folder, ends=0)
    return folder


def store(folder: ResultsFolder, ends: int | None) -> None:
    for row in play(spec_of(**ONE), ends=ends)[0]:
        folder.write_run(row)
        folder.write_curve(row, [{"epoch": 1, "step": 4, "valid_nll_elbo": 12.5, "seconds": 1.0}])


def trials_of(url: str, study: int) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}api/studies/{study}", timeout=60) as answer:
        trials: list[dict[str, Any]] = json.load(answer)["trials"]
    return trials


def wait_for_state(url: str, study: int, state: str) -> dict[str, Any]:
    """Return the first trial of a study once it has a state."""
    deadline = time.monotonic() + TIMEOUT
    while not (trials := trials_of(url, study)) or trials[0]["state"] != state:
        assert time.monotonic() < deadline, trials
        time.sleep(0.2)
    return trials[0]


def test_a_row_that_is_written_after_the_start_is_shown(folder, tmp_path):
    command = [str(Path(sys.executable).with_name("lagvae")), "dashboard", "tiny", "--port", "0"]
    with (
        private_home() as home,
        subprocess.Popen(
            command, cwd=tmp_path, env=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as server,
    ):
        guard = threading.Timer(TIMEOUT, server.kill)
        guard.start()
        url = server.stdout.readline().split()[0]
        with socket.create_connection(("127.0.0.1", int(url.strip("/").rpartition(":")[2]))):  # sends nothing
            before = wait_for_state(url, 0, "Running")
            assert before["intermediate_values"] == [{"step": 1, "value": 12.5}]
            assert trials_of(url, 1) == []
            store(folder, ends=None)
            files = files_below(tmp_path)
            after = wait_for_state(url, 0, "Complete")
        objectives = [row["nll_iw"] for row in folder.runs() if row["arm"] == "vae"]
        assert after["values"] == [sum(objectives) / len(objectives)]
        assert [trial["state"] for trial in trials_of(url, 1)] == ["Complete"] * 3
        server.send_signal(signal.SIGINT)
        assert (server.wait(), server.stderr.read()) == (130, "lagvae: interrupted.\n")
        guard.cancel()
    assert files_below(tmp_path) == files


def test_a_port_in_use(call, folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        check_rejected(call("dashboard", "tiny", "--port", port), "--host and --port", "in use", f"127.0.0.1:{port}")


def test_an_unknown_host(call, folder):
    check_rejected(call("dashboard", "tiny", "--host", "no.such.host.invalid", "--port", "0"), "--host and --port")


def test_without_optuna_dashboard(call, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    check_rejected(call("dashboard", "tiny"), "optuna-dashboard", "pip install 'lagvae[dashboard]'")
