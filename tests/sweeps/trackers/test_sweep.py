"""Whole sweeps with trackers: their tools hold what the table holds, and no tracker changes the table."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from processes import MARK, TIMEOUT, Ended, kill_all, lagvae, private_home, survivors
from reading import Stored, mlflow_runs, tensorboard_runs, wandb_runs
from tiny import numbers, write_tiny_sweep

from sweeps.interface import read_results
from sweeps.storage.schema import CURVES_SCHEMA, objective_columns
from sweeps.storage.table import ResultsFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::DeprecationWarning"),  # of MLflow's libraries
]

TOOLS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, eq=False)
class Tracked:
    """The tiny sweep with all trackers, whose driver was killed once and started again.

    Args:
        here: Working directory of the command.
        killed: The rows at the time of the kill.
        ended: Result of the second driver.
    """

    here: Path
    killed: list[dict[str, Any]]
    ended: Ended

    @property
    def folder(self) -> ResultsFolder:
        return ResultsFolder(str(self.here / "results"), "tiny")

    @functools.cache  # noqa: B019  # there is one object
    def stored(self, tool: str) -> dict[str, Stored]:
        """Return the runs of a tool by run id, without those for the sweep itself."""
        results = self.here / "results"
        match tool:
            case "tensorboard":
                runs = tensorboard_runs(results / "tiny" / "tensorboard")
            case "mlflow":
                runs = mlflow_runs(f"sqlite:///{results / 'mlflow.db'}", "tiny")
            case _:
                runs = wandb_runs(results / "tiny")
        by_id = {name.rpartition("/")[2].removeprefix("tiny-"): run for name, run in runs.items()}
        assert len(by_id) == len(runs)
        return {run_id: run for run_id, run in by_id.items() if run_id not in ("", "front")}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    here = tmp_path_factory.mktemp("tracked")
    write_tiny_sweep(here, trackers={"tensorboard": {}, "mlflow": {}, "wandb": {"mode": "offline"}})
    folder = ResultsFolder(str(here / "results"), "tiny")
    command = [str(Path(sys.executable).with_name("lagvae")), "run", "tiny.yaml"]
    with private_home() as home:
        environment = {name: value for name, value in home.items() if not name.startswith(("MLFLOW_", "WANDB_"))}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        driver = subprocess.Popen(command, cwd=here, env=environment, start_new_session=True, **streams)
        try:
            deadline = time.monotonic() + TIMEOUT
            # A run that ended, of which a tracker may know all, a part or nothing.
            while not folder.exists() or not any(row["status"] == "finished" for row in folder.runs()):
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
        kill_all(home[MARK])  # the rest of Ray would take a while to notice
        return Tracked(here, folder.runs(), lagvae("run", "tiny.yaml", cwd=here, home=environment))


def close_to(stored: dict[str, float]) -> Any:
    """Compare with the numbers of a tool. TensorBoard stores 32 bits, wandb and MLflow 64."""
    return pytest.approx(stored, rel=1e-6, abs=1e-9)


class TestTracked:
    def test_a_killed_and_resumed_sweep_with_trackers_has_the_table_of_one_without(self, tracked, tiny_sweep):
        assert {row["status"] for row in tracked.killed} > {"finished"}, "the sweep ended before the kill"
        assert tracked.ended.returncode == 0, tracked.ended.stderr
        assert numbers(tracked.folder.runs()) == numbers(tiny_sweep.folder.runs())

    def test_trackers_print_nothing(self, tracked):
        expected = ("data: ", "sweep tiny: ", "2 runs at a time", "[", "2 diverged", "waiting up to", "warning, ")
        lines = tracked.ended.stderr.splitlines()
        assert [line for line in lines if not line.startswith(expected) or " failed: " in line] == []

    @pytest.mark.parametrize("tool", TOOLS)
    def test_each_run_has_one_run_in_the_tool_with_the_values_of_its_row(self, tracked, tool):
        stored = tracked.stored(tool)
        rows = {row["run_id"]: row for row in tracked.folder.runs()}
        assert stored.keys() == rows.keys()
        for run_id, row in rows.items():
            expected = {name: row[name] for name in objective_columns() if row[name] is not None}
            final = {name: value for name, value in stored[run_id].values.items() if name in objective_columns()}
            assert final == close_to(expected)
            assert stored[run_id].status.split(":")[0] == row["status"]

    @pytest.mark.parametrize("tool", TOOLS)
    def test_each_curve_is_that_of_the_table(self, tracked, tool):
        stored = tracked.stored(tool)
        columns = {name for name in CURVES_SCHEMA.names if name not in ("seed", "seconds")}
        curves = [row for row in tracked.folder.curves() if row["run_id"] in stored]
        assert len(curves) == 24
        for row in curves:
            expected = {name: row[name] for name in columns if isinstance(row[name], int | float)}
            found = {
                name: value for name, value in stored[row["run_id"]].curve[row["epoch"]].items() if name in columns
            }
            assert found == close_to(expected)
        assert sum(len(run.curve) for run in stored.values()) >= len(curves)

    @pytest.mark.parametrize("tool", TOOLS)
    def test_the_configuration_is_that_of_the_row(self, tracked, tool):
        for row in tracked.folder.runs():
            config = tracked.stored(tool)[row["run_id"]].config
            assert (config["arm"], config["config_id"]) == (row["arm"], row["config_id"])
            numbers = {"seed": row["seed"], "training.epochs": 2, **json.loads(row["parameters"])}
            assert {name: float(config[name]) for name in numbers} == numbers

    def test_the_front(self, tracked):
        results = tracked.here / "results"
        shown = json.loads(invoke("results", "pareto", "tiny", "--json", folder=tracked.here).stdout)
        members = {row["config_id"] for row in shown if row["standing"] in ("on", "in doubt")}
        runs = mlflow_runs(f"sqlite:///{results / 'mlflow.db'}", "tiny")
        on_front = {run.config["config_id"] for run in runs.values() if run.group == "on"}
        assert on_front == members
        [table] = results.glob("tiny/mlflow/*/artifacts/front.csv")
        assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == [
            row["config_id"] for row in shown
        ]
        picture = io.BytesIO()
        read_results(results / "tiny").plot().savefig(picture, format="png", dpi=150)
        assert table.with_suffix(".png").read_bytes() == picture.getvalue()
        text = tensorboard_runs(results / "tiny" / "tensorboard")["front"].status
        assert [config_id for row in shown if (config_id := row["config_id"]) not in text] == []
        assert "front" in wandb_runs(results / "tiny")["tiny-front"].values

    def test_wandb_groups_the_runs_by_arm(self, tracked):
        stored = tracked.stored("wandb")
        assert {run_id: run.group for run_id, run in stored.items()} == {
            row["run_id"]: row["arm"] for row in tracked.folder.runs()
        }

    def test_a_later_session_sends_nothing_again(self, tracked):
        before = {path: path.stat().st_mtime_ns for path in tracked.here.rglob("*") if path.is_file()}
        assert invoke("run", "tiny.yaml", folder=tracked.here).returncode == 0
        after = {path: path.stat().st_mtime_ns for path in tracked.here.rglob("*") if path.is_file()}
        assert [path.name for path in after if after[path] != before.get(path)] == ["spec.yaml"]


BROKEN_MLFLOW = """
class MlflowClient:
    def __init__(self, **options):
        pass

    def __getattr__(self, name):
        raise OSError(f"the server is away: {name}")
"""
HANGING_WANDB = "import time\nRun = Settings = dict\nsetup = lambda settings: time.sleep(1000)\n"
SHORT_WAIT = "import sweeps.trackers.monitor as monitor\nmonitor.CLOSE_SECONDS = 2.0\n"


def test_failing_trackers_are_reported_once_and_change_no_row(tiny_sweep, tmp_path):
    """One client raises an exception at every call, one hangs, and one lacks a module."""
    clients = {
        "mlflow/__init__.py": BROKEN_MLFLOW,
        "mlflow/entities.py": "Metric = Param = Run = dict\n",
        "wandb.py": HANGING_WANDB,
        "tensorboard/__init__.py": "",
    }
    for name, text in clients.items():
        (tmp_path / "clients" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clients" / name).write_text(text)
    write_tiny_sweep(tmp_path, trackers=["tensorboard", "mlflow", "wandb"])
    with private_home() as home:
        environment = {**home, "PYTHONPATH": str(tmp_path / "clients")}
        ended = lagvae("run", "tiny.yaml", cwd=tmp_path, home=environment, before=SHORT_WAIT)
        assert survivors(home[MARK]) == []
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    warnings = sorted(line for line in ended.stderr.splitlines() if " failed: " in line)
    assert [warning.split(". This does not")[0] for warning in warnings] == [
        "warning, mlflow failed: OSError: the server is away: get_experiment_by_name",
        "warning, tensorboard failed: ModuleNotFoundError: No module named 'tensorboard.compat'",
        "warning, wandb failed: it did not receive everything within 2 s after the sweep",
    ]
    rows = ResultsFolder(str(tmp_path / "results"), "tiny").runs()
    assert numbers(rows) == numbers(tiny_sweep.folder.runs())
