"""Trackers without a sweep: real tools in real processes, which receive events of runs that are not trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import check_rejected, files_below, invoke
from helpers import rejects
from processes import MARK, private_home, survivors
from reading import mlflow_runs, tensorboard_runs, wandb_runs
from worlds import FINGERPRINT, plausible, row_of, spec_of, sweep

from lagvae_core.training.record import CURVE_COLUMNS
from sweeps.execution.monitor import SilentMonitor
from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.storage.table import ResultsFolder
from sweeps.trackers import process
from sweeps.trackers.monitor import TrackerMonitor
from sweeps.trackers.settings import tracker_settings

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of MLflow's libraries

SPEC = spec_of(arms={"vae": []}, search={"seeds": 3})


class Failures(SilentMonitor):
    """Keeps the failures of trackers."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def on_tracker_failed(self, tracker: str, reason: str) -> None:
        self.failures.append((tracker, reason))


def epochs_of(*numbers: int) -> list[dict[str, Any]]:
    empty = dict.fromkeys(column.name for column in CURVE_COLUMNS)
    return [empty | {"epoch": number, "step": 4 * number, "valid_kl": number / 10} for number in numbers]


def curve_of(*numbers: int) -> dict[int, dict[str, float]]:
    """Return the curve of `epochs_of` as a tool stores it."""
    return {e["epoch"]: {name: value for name, value in e.items() if value is not None} for e in epochs_of(*numbers)}


class World:
    """A driver with trackers that does not train."""

    def __init__(self, folder: ResultsFolder, trackers: Any, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.rows = {row["run_id"]: row for row in folder.runs()}
        self.notices = Failures()
        spec = spec_of(trackers=trackers).trackers
        used = tracker_settings(spec, folder) if settings is None else settings
        self.monitor = TrackerMonitor(self.notices, used, folder)
        self.plan = Plan(SPEC, FINGERPRINT, list(self.rows.values()))
        self.runs = self._runs()
        self.monitor.on_sweep_started(self.plan, {})

    def _runs(self) -> list[Run]:
        scheduler = RunScheduler(self.plan)
        return list(iter(scheduler.next_run, None))

    def start(self, run: Run, *numbers: int) -> None:
        """Start a run that trains the epochs `numbers`."""
        self.folder.write_run(row_of(run, status="running"))
        self.monitor.on_run_started(run)
        self.train(run, *numbers)

    def train(self, run: Run, *numbers: int) -> None:
        for epoch in epochs_of(*numbers):
            self.monitor.on_run_epoch(run, epoch, 9)
        self.folder.write_curve(row_of(run), epochs_of(*range(1, 1 + max(numbers))))

    def end(self, run: Run, **values: Any) -> None:
        row = row_of(run, **(plausible(run) | {"stop_reason": "done"} | values))
        self.folder.write_run(row)
        self.monitor.on_run_ended(run, row)

    def close(self) -> None:
        self.monitor.on_sweep_ended({}, "")
        self.monitor.close()

    def kill(self) -> None:
        """Leave everything as a driver does that is killed once the trackers have received everything."""
        for tracker in self.monitor._processes:
            deadline = time.monotonic() + 60
            while not tracker._queue.empty() or tracker._unanswered:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            tracker._process.kill()
            assert tracker.wait(60)
        shutil.rmtree(Path(self.folder.local_path, "trackers"), ignore_errors=True)  # a record is written later


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    return folder


def test_runs_continue_after_a_kill_and_ended_runs_are_completed(folder):
    """Of three runs, one ended before the kill, one was trained, and one had not started."""
    trackers = {"tensorboard": {}, "mlflow": {}, "wandb": {"mode": "offline"}}
    first = World(folder, trackers)
    ended, trained, _ = first.runs
    first.start(ended, 1, 2)
    first.end(ended)
    first.start(trained, 1, 2, 3)
    first.kill()

    second = World(folder, trackers)
    resumed, new = second.runs
    assert resumed.run_id == trained.run_id
    second.start(resumed, 3, 4)
    second.monitor.on_run_lost(resumed, "its process was lost")
    second.train(resumed, 4, 5)
    second.end(resumed, status="failed")
    second.start(new, 1)
    second.close()
    assert second.notices.failures == []

    results = Path(folder.results)
    curves = {ended.run_id: curve_of(1, 2), trained.run_id: curve_of(1, 2, 3, 4, 5), new.run_id: curve_of(1)}
    statuses = {ended.run_id: "finished", trained.run_id: "failed"}
    of_mlflow = mlflow_runs(f"sqlite:///{results / 'mlflow.db'}", "tiny")
    of_wandb = {name.removeprefix("tiny-"): run for name, run in wandb_runs(results / "tiny").items()}
    of_tensorboard = {Path(name).name: run for name, run in tensorboard_runs(results / "tiny/tensorboard").items()}
    for stored in (of_tensorboard, of_mlflow, of_wandb):
        assert stored.keys() - {"", "front"} == curves.keys()
        for run_id, curve in curves.items():
            assert stored[run_id].curve == {number: pytest.approx(values) for number, values in curve.items()}
        for run_id, status in statuses.items():
            assert stored[run_id].status.split(":")[0] == status
    assert of_mlflow[new.run_id].status == "KILLED"
    # All of them are seeds of the only configuration.
    assert {name: run.group for name, run in of_mlflow.items()} == {"": "off", **dict.fromkeys(curves, "on")}


def test_epochs_that_the_table_lacked_at_the_resumption_follow_at_the_end(folder):
    """The checkpoint of a run can be later than its stored curve, which is written from time to time."""
    trackers = {"tensorboard": {}, "wandb": {"mode": "offline"}}
    first = World(folder, trackers)
    first.start(first.runs[0], 1)
    first.kill()

    second = World(folder, trackers)
    run = second.runs[0]
    second.start(run, 3, 4)
    second.end(run, epochs=4)
    second.close()
    assert second.notices.failures == []
    results = Path(folder.results) / "tiny"
    of_tensorboard = {Path(name).name: found for name, found in tensorboard_runs(results / "tensorboard").items()}
    for found in (of_tensorboard[run.run_id], wandb_runs(results)[f"tiny-{run.run_id}"]):
        assert found.curve == {number: pytest.approx(values) for number, values in curve_of(1, 2, 3, 4).items()}


def test_only_what_a_tracker_lacks_is_sent_later(folder):
    first = World(folder, None)
    for run in first.runs:
        first.start(run, 1)
        first.end(run)
    logs = Path(folder.local_path, "tensorboard")
    World(folder, ["tensorboard"]).close()
    stored = tensorboard_runs(logs)
    assert len(stored) == 4, "a tracker that is added later receives the stored runs"
    [removed, *_] = logs.glob("vae/*")
    for file in removed.iterdir():
        file.unlink()
    World(folder, ["tensorboard"]).close()
    assert len(tensorboard_runs(logs)) == 3, "nothing is sent again"
    for record in Path(folder.local_path, "trackers").iterdir():
        record.write_text("{")
    World(folder, ["tensorboard"]).close()
    assert tensorboard_runs(logs) == stored, "without a valid record, everything is written again"


@pytest.mark.slow
def test_a_repeated_run_starts_again(folder):
    """A run that ran out of memory is repeated from its first epoch, and so are those of `lagvae retry`."""
    world = World(folder, ["mlflow"])
    run = world.runs[0]
    world.start(run, 1, 2, 3)
    world.end(run, status="out_of_memory")
    [row] = folder.runs()
    world.start(replace(run, stored=row, alone=True), 1)
    world.end(run)
    world.close()
    stored = mlflow_runs(f"sqlite:///{folder.results}/mlflow.db", "tiny")[run.run_id]
    assert (stored.status, stored.curve) == ("finished", {1: pytest.approx(curve_of(1)[1])})


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a function that installs a client of wandb with the given text."""

    def install(text: str) -> dict[str, Any]:
        (tmp_path / "wandb.py").write_text(f"import os, time\nRun = Settings = dict\n{text}")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return {"wandb": {"project": "p", "entity": None, "mode": None, "folder": str(tmp_path), "sweep": "tiny"}}

    return install


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def setup(settings): raise SystemExit('no key')", "SystemExit: no key"),
        ("def setup(settings): os._exit(7)", "its process ended with exit code 7"),
        ("def setup(settings): print('x'); raise OSError('disk full')", "OSError: disk full"),
    ],
)
def test_a_failure_is_reported_once_with_its_reason(folder, client, text, reason):
    world = World(folder, None, client(text))
    for run in world.runs:
        world.start(run, 1)
        world.end(run)
    world.close()
    assert world.notices.failures == [("wandb", reason)]


def test_a_tracker_that_hangs_is_given_up_while_the_sweep_runs(folder, client, monkeypatch):
    monkeypatch.setattr(process, "MAX_QUEUED", 8)
    hanging = client("def setup(settings): time.sleep(1000)")
    assert failures_of_many_events(folder, hanging) == [("wandb", "it cannot keep up: 8 events wait to be sent")]
    monkeypatch.setattr(process, "MAX_QUEUED", 10**6)
    monkeypatch.setattr(process, "STALL_SECONDS", 0.0)
    assert failures_of_many_events(folder, hanging) == [("wandb", "it did not answer for 0 s")]


def failures_of_many_events(folder: ResultsFolder, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the failures after as many events as lead to one, within a minute."""
    world = World(folder, None, settings)
    deadline = time.monotonic() + 60
    while not world.notices.failures and time.monotonic() < deadline:
        world.monitor.on_run_epoch(world.runs[0], epochs_of(1)[0], 9)
    world.close()
    return world.notices.failures


def test_a_tracker_ends_with_a_driver_that_is_killed_although_its_client_hangs(client):
    settings = client("def setup(settings): open('called', 'w').close(); time.sleep(1000)")
    script = f"""
import os, signal, subprocess, sys, time
from sweeps.trackers.process import TrackerProcess
tracker = TrackerProcess("wandb", {settings["wandb"]!r}, [], None)
while not os.path.exists("called"):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with private_home() as home:
        environment = {**home, "PYTHONPATH": settings["wandb"]["folder"]}
        subprocess.run([sys.executable, "-c", script], cwd=environment["PYTHONPATH"], env=environment, timeout=60)
        assert survivors(home[MARK]) == []


class TestSettings:
    def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(self, tmp_path):
        (tmp_path / "x.yaml").write_text(json.dumps(sweep(trackers=["mlflow", "wandb"])))
        before = files_below(tmp_path)
        ended = invoke("run", "x.yaml", folder=tmp_path, without=("ray", "mlflow", "wandb"))
        check_rejected(ended, "trackers.mlflow: mlflow-skinny is not installed", "trackers.wandb", "lagvae[trackers]")
        assert files_below(tmp_path) == before
        assert invoke("plan", "x.yaml", folder=tmp_path, without=("ray", "mlflow", "wandb")).returncode == 0

    def test_results_that_are_not_local_need_a_place(self):
        far = ResultsFolder("s3://bucket/results?region=eu-west-1", "tiny")
        trackers = spec_of(trackers=["tensorboard", "mlflow", "wandb"]).trackers
        with rejects("trackers.tensorboard.folder", "trackers.mlflow.uri"):
            tracker_settings(trackers, far)
        placed = spec_of(trackers={"tensorboard": {"folder": "logs"}, "mlflow": {"uri": "http://127.0.0.1:5000"}})
        settings = tracker_settings(placed.trackers, far)
        assert settings["tensorboard"]["folder"] == str(Path.cwd() / "logs" / "tiny")
        assert settings["mlflow"] == {
            "uri": "http://127.0.0.1:5000",
            "experiment": "tiny",
            "artifacts": None,
            "sweep": "tiny",
        }

    def test_the_environment_is_used_where_the_file_says_nothing(self, folder, monkeypatch):
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE"):
            monkeypatch.setenv(name, f"{name}-value")
        settings = tracker_settings(spec_of(trackers=["mlflow", "wandb"]).trackers, folder)
        assert (settings["mlflow"]["uri"], settings["mlflow"]["experiment"]) == (
            "MLFLOW_TRACKING_URI-value",
            "MLFLOW_EXPERIMENT_NAME-value",
        )
        assert {name: settings["wandb"][name] for name in ("project", "entity", "mode")} == {
            name: f"WANDB_{name.upper()}-value" for name in ("project", "entity", "mode")
        }
        own = spec_of(trackers={"mlflow": {"uri": "http://x", "experiment": "e"}, "wandb": {"project": "p"}}).trackers
        settings = tracker_settings(own, folder)
        assert (settings["mlflow"]["uri"], settings["mlflow"]["experiment"]) == ("http://x", "e")
        assert settings["wandb"]["project"] == "p"
