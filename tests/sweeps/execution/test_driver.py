"""Whole sweeps by `lagvae run`, with real Ray, real processes and real files."""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from processes import MARK, Ended, lagvae, private_home, survivors
from tiny import DIVERGES, TinySweep, numbers, write_tiny_sweep
from worlds import TINY_TRIAL, sweep

from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.studies.trained_model import configuration_of, restore
from sweeps.cli import app as cli
from sweeps.storage.folder import model_name
from sweeps.storage.schema import CURVES_SCHEMA, ENDED, runs_schema
from sweeps.storage.table import ResultsFolder

PARTS = ("runs", "curves")


def call(monkeypatch: pytest.MonkeyPatch, here: Path, *arguments: str) -> int:
    """Run `lagvae ARGUMENTS` in this process and return the exit code."""
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.argv", ["lagvae", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


class TestFinished:
    def test_the_command_succeeds(self, tiny_sweep):
        assert tiny_sweep.ended.returncode == 0, tiny_sweep.ended.stderr
        assert "Pareto front of tiny" in tiny_sweep.ended.stdout
        assert "12 finished" in tiny_sweep.ended.stderr
        assert "Traceback" not in tiny_sweep.ended.stderr

    def test_every_socket_listens_on_the_loopback_interface(self, tiny_sweep):
        assert {"raylet", "gcs_server"} <= {listener.process for listener in tiny_sweep.listeners}
        assert [listener for listener in tiny_sweep.listeners if not listener.loopback] == []

    def test_no_temporary_file_is_left(self, tiny_sweep):
        assert [name for name in tiny_sweep.temporary if name.startswith("lagvae") or name == "ray"] == []

    def test_every_run_has_one_row_of_the_declared_types(self, tiny_sweep):
        files = sorted(Path(tiny_sweep.folder.local_path, "runs").iterdir())
        assert len(files) == 14
        for file in files:
            assert pq.read_schema(file).equals(runs_schema())
            assert file.stem == pq.read_table(file)["run_id"][0].as_py()

    def test_rows_are_complete(self, tiny_sweep):
        rows = tiny_sweep.folder.runs()
        assert {(r["arm"], r["configuration"], r["seed"]) for r in rows} == {
            ("vae", 0, 0),
            ("vae", 0, 1),
            *((arm, i, seed) for arm in ("anneal", "encoder_lr") for i in range(3) for seed in (0, 1)),
        }
        for row in rows:
            always_set = ("config", "parameters", "started_at", "ended_at", "host", "device", "threads", "spec_hash")
            assert all(row[name] is not None for name in always_set)
            assert row["run_id"] == f"{row['config_id']}-{row['seed']}"
            assert (row["attempt"], row["history"], row["threads"]) == (1, None, 1)
            assert row["started_at"] <= row["ended_at"]
            assert json.loads(row["config"])["seed"] == row["seed"]
        for row in rows:
            if row["status"] == "finished":
                measured = ("nll_iw", "nll_elbo", "kl", "mi", "au", "iw_k", "seconds", "encoder_steps", "best_epoch")
                assert all(row[name] is not None for name in measured)
                assert row["iw_k"] == 10
                assert row["epochs"] == 2

    def test_searched_fields_are_in_their_columns(self, tiny_sweep):
        for row in tiny_sweep.folder.runs():
            for name, value in json.loads(row["parameters"]).items():
                assert row[name] == value
            assert (row["kl_linear_epoch.warm_up"] is None) == (row["arm"] != "anneal")
            assert (row["encoder_lr.multiplier"] is None) == (row["arm"] != "encoder_lr")

    def test_curves(self, tiny_sweep):
        finished = {row["run_id"] for row in tiny_sweep.folder.runs() if row["status"] == "finished"}
        curves = tiny_sweep.folder.curves()
        assert [(c["run_id"], c["epoch"]) for c in curves] == [(i, n) for i in sorted(finished) for n in (1, 2)]
        for file in Path(tiny_sweep.folder.local_path, "curves").iterdir():
            assert pq.read_schema(file).equals(CURVES_SCHEMA)

    def test_a_diverged_run_has_a_row_without_metrics(self, tiny_sweep):
        rows = tiny_sweep.folder.runs()
        diverged = [row for row in rows if row["status"] == "diverged"]
        assert [(row["arm"], row["encoder_lr.multiplier"], row["seed"]) for row in diverged] == [
            ("encoder_lr", DIVERGES, 0),
            ("encoder_lr", DIVERGES, 1),
        ]
        for row in diverged:
            assert row["stop_reason"].startswith("the loss is ")
            assert all(row[name] is None for name in ("nll_iw", "nll_elbo", "kl", "mi", "au", "ppl", "mean_variance"))
        assert {row["status"] for row in rows if row not in diverged} == {"finished"}

    def test_no_number_of_the_table_is_nan_or_infinite(self, tiny_sweep):
        for row in [*tiny_sweep.folder.runs(), *tiny_sweep.folder.curves()]:
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))

    def test_no_checkpoint_is_left(self, tiny_sweep):
        assert list(Path(tiny_sweep.folder.local_path, "checkpoints").iterdir()) == []

    def test_only_finished_runs_keep_their_models(self, tiny_sweep):
        stored = {path.stem for path in Path(tiny_sweep.folder.local_path, "models").iterdir()}
        assert stored == {row["run_id"] for row in tiny_sweep.folder.runs() if row["status"] == "finished"}

    def test_a_stored_model_reproduces_the_metrics_of_its_row(self, tiny_sweep):
        for row in tiny_sweep.folder.runs()[:4]:
            content = tiny_sweep.folder.read(model_name(row["run_id"]))
            config = configuration_of(content)
            assert config.model_dump_json() == row["config"]
            trained = restore(content, config, config.data.load())
            measured = evaluate(
                trained.model,
                trained.components,
                trained.dataset,
                trained.dataset.test,
                config.evaluation,
                trained.device,
            )
            assert {name: row[name] for name in measured} == measured

    def test_the_sweep_file_is_stored(self, tiny_sweep):
        assert tiny_sweep.folder.read("spec.yaml") == (tiny_sweep.here / "tiny.yaml").read_bytes()

    def test_a_second_run_changes_no_file(self, tiny_sweep, monkeypatch, capsys):
        before = tiny_sweep.files
        assert call(monkeypatch, tiny_sweep.here, "run", "tiny.yaml") == 0
        assert tiny_sweep.files == before
        assert "14 already stored" in capsys.readouterr().err


class TestFront:
    def test_keys_and_values_equal_those_computed_by_hand(self, tiny_sweep, monkeypatch, capsys):
        assert call(monkeypatch, tiny_sweep.here, "results", "pareto", "tiny", "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in tiny_sweep.folder.runs():
            if row["status"] == "finished":
                groups.setdefault(row["config_id"], []).append(row)
        points = {}
        for config_id, rows in groups.items():
            nll, au = [[row[name] for row in rows] for name in ("nll_iw", "au")]
            assert len(rows) == 2
            points[config_id] = {
                "arm": rows[0]["arm"],
                "config_id": config_id,
                "nll_iw": sum(nll) / 2,
                "nll_iw_se": abs(nll[0] - nll[1]) / 2,
                "au": sum(au) / 2,
                "au_se": abs(au[0] - au[1]) / 2,
                "n": 2,
                "parameters": json.loads(rows[0]["parameters"]),
            }

        def dominated(p: dict[str, Any]) -> bool:
            return any(
                q["nll_iw"] <= p["nll_iw"] and q["au"] >= p["au"] and (q["nll_iw"] < p["nll_iw"] or q["au"] > p["au"])
                for q in points.values()
            )

        expected = sorted((p for p in points.values() if not dominated(p)), key=lambda p: p["nll_iw"])
        shown = [point for point in shown if point["standing"] != "tied"]
        assert [list(point) for point in shown] == [[*point, "standing", "rival"] for point in expected]
        for point, expected_point in zip(shown, expected, strict=True):
            for name, value in expected_point.items():
                assert point[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name

    def test_a_diverged_configuration_is_never_on_it(self, tiny_sweep, monkeypatch, capsys):
        diverged = {row["config_id"] for row in tiny_sweep.folder.runs() if row["status"] == "diverged"}
        for axes in ("nll_iw:min,au:max", "nll_iw:max,au:min", "kl:max,mi:max", "nll_iw:min"):
            assert call(monkeypatch, tiny_sweep.here, "results", "pareto", "tiny", "--json", "--objectives", axes) == 0
            members = json.loads(capsys.readouterr().out)
            assert members
            assert not diverged & {member["config_id"] for member in members}


def test_a_used_up_budget_ends_the_command_with_the_front(tiny_sweep, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_sweep.here, tmp_path, dirs_exist_ok=True)
    more = ("--set", "search.seeds=3", "--set", "search.budget.gradient_evaluations=10")
    assert call(monkeypatch, tmp_path, "run", "tiny.yaml", *more) == 0
    out, err = capsys.readouterr()
    assert "Pareto front of tiny" in out
    assert "search.budget.gradient_evaluations" in err.splitlines()[-1]
    assert len(ResultsFolder(str(tmp_path / "results"), "tiny").runs()) == 14


@pytest.fixture(scope="module")
def extended(tiny_sweep, tmp_path_factory) -> TinySweep:
    here = tmp_path_factory.mktemp("extended")
    shutil.copytree(tiny_sweep.here, here, dirs_exist_ok=True)
    more = ["--set", "search.configurations=4", "--set", "search.seeds=3"]
    return TinySweep(here, lagvae("run", "tiny.yaml", *more, cwd=here))


class TestExtension:
    def test_only_missing_runs_are_added(self, tiny_sweep, extended):
        assert extended.ended.returncode == 0, extended.ended.stderr
        before = {name: content for name, content in tiny_sweep.files.items() if not name.endswith("spec.yaml")}
        after = extended.files
        assert {name: after[name] for name in before} == before
        added = [row for row in extended.folder.runs() if f"tiny/runs/{row['run_id']}.parquet" not in before]
        assert {(row["arm"], row["configuration"], row["seed"]) for row in added} == {
            *((arm, 0, 2) for arm in ("vae", "anneal", "encoder_lr")),
            *((arm, i, 2) for arm in ("anneal", "encoder_lr") for i in (1, 2)),
            *(("anneal", 3, seed) for seed in (0, 1, 2)),
        }

    def test_the_stored_spec_is_the_extended_one(self, extended):
        stored = yaml.safe_load(extended.folder.read("spec.yaml"))
        assert stored["search"]["configurations"] == 4
        assert stored["search"]["seeds"] == 3


KILL_BETWEEN_CURVE_AND_ROW = """
import os, signal
from sweeps.execution.recorder import RunRecorder
from sweeps.storage.table import ResultsFolder
record_end, write, ending, calls = RunRecorder._record_end, ResultsFolder.write_curve, [], []
def record_end_and_note(self, *arguments):
    ending.append(1)
    record_end(self, *arguments)
    ending.clear()
def write_curve(self, *arguments):
    write(self, *arguments)
    calls.extend(ending)
    if len(calls) == 3:
        os.killpg(0, signal.SIGKILL)
RunRecorder._record_end, ResultsFolder.write_curve = record_end_and_note, write_curve
"""
COUNT_ENDS = """
import os, signal, time
from sweeps.execution.recorder import RunRecorder
record_end, on_run_progress, ends = RunRecorder._record_end, RunRecorder.on_run_progress, []
def record_end_and_count(self, *arguments):
    record_end(self, *arguments)
    ends.append(1)
RunRecorder._record_end = record_end_and_count
"""
KILL_BEFORE_A_ROW_IS_RENAMED = f"""{COUNT_ENDS}
replace, reports = os.replace, []
def on_run_progress_at_risk(self, *arguments, **options):
    reports.append(1)
    on_run_progress(self, *arguments, **options)
    reports.clear()
def replace_or_die(source, target, **options):
    if ends and reports and "/tiny/runs/" in str(target):  # a run has ended, and the row of another is `running`
        os.killpg(0, signal.SIGKILL)
    replace(source, target, **options)
RunRecorder.on_run_progress, os.replace = on_run_progress_at_risk, replace_or_die
"""
CTRL_C_AFTER_TWO_ENDS = f"""{COUNT_ENDS}
def on_run_progress_and_interrupt(self, *arguments, **options):
    on_run_progress(self, *arguments, **options)
    if len(ends) >= 2 and options["report"].get("epoch") == 1:
        ends.clear()
        os.killpg(0, signal.SIGINT)
        time.sleep(1.5)  # the run looks for the stop flag once per second, and continues when this method has returned
RunRecorder.on_run_progress = on_run_progress_and_interrupt
"""
KILL_THE_WORKER_OF_THE_FIRST_REPORT = """
import os, signal
from sweeps.execution.recorder import RunRecorder
on_run_progress, killed = RunRecorder.on_run_progress, []
def on_run_progress_and_kill(self, run_id, report):
    on_run_progress(self, run_id, report)
    if not killed and report.get("epoch") == 1:
        killed.append(report["pid"])
        os.kill(report["pid"], signal.SIGKILL)
RunRecorder.on_run_progress = on_run_progress_and_kill
"""


@dataclass(frozen=True)
class Stage:
    """The table after a driver ended: all rows, the files of the ended rows, and all file names."""

    ended: Ended
    rows: list[dict[str, Any]]
    files: dict[str, bytes]
    names: list[str]
    survivors: list[str]


@dataclass(frozen=True)
class Story:
    """The tiny sweep after four drivers: two were killed, one was interrupted, and the last one lost a worker."""

    sweep: TinySweep
    killed: Stage
    killed_again: Stage
    interrupted: Stage


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    here = tmp_path_factory.mktemp("story")
    write_tiny_sweep(here)
    tiny = TinySweep(here, Ended(0, "", ""))

    def run_with(fault: str) -> Stage:
        with private_home() as home:
            ended = lagvae("run", "tiny.yaml", cwd=here, before=fault, home=home)
            left = survivors(home[MARK])
        rows = tiny.folder.runs()
        done = {f"tiny/{part}/{r['run_id']}.parquet" for r in rows if r["status"] in ENDED for part in PARTS}
        files = tiny.files
        return Stage(ended, rows, {name: files[name] for name in done & files.keys()}, list(files), left)

    killed = run_with(KILL_BETWEEN_CURVE_AND_ROW)
    killed_again = run_with(KILL_BEFORE_A_ROW_IS_RENAMED)
    interrupted = run_with(CTRL_C_AFTER_TWO_ENDS)
    last = lagvae("run", "tiny.yaml", cwd=here, before=KILL_THE_WORKER_OF_THE_FIRST_REPORT)
    return Story(replace(tiny, ended=last), killed, killed_again, interrupted)


class TestInterruptions:
    def test_killed_drivers_leave_running_rows(self, story):
        for stage in (story.killed, story.killed_again):
            assert stage.ended.returncode == -signal.SIGKILL
            states = {row["status"] for row in stage.rows}
            assert "running" in states
            assert "finished" in states
            assert "interrupted" not in states

    def test_a_keyboard_interrupt_exits_with_130_and_leaves_interrupted_rows(self, story):
        assert story.interrupted.ended.returncode == 130
        assert "Traceback" not in story.interrupted.ended.stderr
        states = {row["status"] for row in story.interrupted.rows}
        assert "interrupted" in states
        assert "running" not in states
        assert "failed" not in states
        for row in story.interrupted.rows:
            if row["status"] == "interrupted":
                assert row["stop_reason"]
                assert row["ended_at"] is not None

    def test_a_finished_row_always_has_its_model(self, story):
        for stage in (story.killed, story.killed_again, story.interrupted):
            finished = {row["run_id"] for row in stage.rows if row["status"] == "finished"}
            assert finished
            assert {f"tiny/{model_name(run_id)}" for run_id in finished} <= set(stage.names)

    def test_no_process_outlives_its_driver(self, story):
        assert [stage.survivors for stage in (story.killed, story.killed_again, story.interrupted)] == [[], [], []]

    def test_the_last_driver_succeeds(self, story):
        assert story.sweep.ended.returncode == 0, story.sweep.ended.stderr
        assert "to be resumed" in story.sweep.ended.stderr

    def test_every_driver_adds_ended_rows(self, story):
        counts = [len(stage.files) for stage in (story.killed, story.killed_again, story.interrupted)]
        assert 0 < counts[0] < counts[1] < counts[2]

    def test_ended_rows_are_never_rewritten(self, story):
        files = story.sweep.files
        for stage in (story.killed, story.killed_again, story.interrupted):
            assert {name: files[name] for name in stage.files} == stage.files

    def test_the_runs_are_those_of_an_undisturbed_sweep(self, story, tiny_sweep):
        ids = [row["run_id"] for row in story.sweep.folder.runs()]
        assert ids == [row["run_id"] for row in tiny_sweep.folder.runs()]
        assert len(ids) == len(set(ids)) == 14

    def test_the_numbers_are_those_of_an_undisturbed_sweep(self, story, tiny_sweep):
        assert numbers(story.sweep.folder.runs()) == numbers(tiny_sweep.folder.runs())

    def test_the_curves_are_those_of_an_undisturbed_sweep(self, story, tiny_sweep):
        assert numbers(story.sweep.folder.curves()) == numbers(tiny_sweep.folder.curves())

    def test_attempts_and_their_histories(self, story):
        for row in story.sweep.folder.runs():
            history = json.loads(row["history"] or "[]")
            assert [entry["attempt"] for entry in history] == list(range(1, row["attempt"]))
            assert {entry["status"] for entry in history} <= {"running", "interrupted"}

    def test_a_run_is_restarted_after_its_worker_was_killed(self, story):
        lost = []
        for row in story.sweep.folder.runs():
            history = json.loads(row["history"] or "[]")
            lost += [row for entry in history if entry["error_class"] == "WorkerLost"]
        (row,) = lost
        assert row["status"] == "finished"
        assert row["attempt"] >= 2

    def test_no_temporary_file_is_left(self, story):
        assert any(name.endswith(".tmp") for name in story.killed_again.names), (
            "the test needs a driver that died while writing"
        )
        assert {Path(name).suffix for name in story.sweep.files} == {".parquet", ".yaml", ".lock", ".pt"}
        assert list(Path(story.sweep.folder.local_path, "checkpoints").iterdir()) == []


def test_sigterm_interrupts_a_driver_like_ctrl_c(tmp_path):
    """Schedulers and containers send SIGTERM; `timeout` sends it to the whole process group."""
    write_tiny_sweep(tmp_path)
    sigterm = CTRL_C_AFTER_TWO_ENDS.replace("signal.SIGINT", "signal.SIGTERM")
    with private_home() as home:
        ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=sigterm, home=home)
        assert survivors(home[MARK]) == []
    assert ended.returncode == 130, ended.stderr
    assert ended.stdout == "", "an interrupted command ends at once, without a front"
    assert "interrupted; " in ended.stderr
    assert "SIGTERM" not in ended.stderr
    states = {row["status"] for row in ResultsFolder(str(tmp_path / "results"), "tiny").runs()}
    assert states >= {"finished", "interrupted"}
    assert "running" not in states


TIME_UP_AFTER_TWO_ENDS = (
    CTRL_C_AFTER_TWO_ENDS.replace("os.killpg(0, signal.SIGINT)", "supervisors[0]._end = time.monotonic()")
    + """
from sweeps.execution.supervisor import Supervisor
supervise, supervisors = Supervisor.__init__, []
def init(self, monitor, seconds):
    assert seconds == 3600.0
    supervise(self, monitor, seconds)
    supervisors.append(self)
Supervisor.__init__ = init
"""
)


@pytest.mark.slow
def test_at_the_end_of_its_time_a_driver_saves_its_runs_and_says_how_to_go_on(tmp_path):
    write_tiny_sweep(tmp_path)
    with private_home() as home:
        ended = lagvae("run", "tiny.yaml", "--for", "1h", cwd=tmp_path, before=TIME_UP_AFTER_TWO_ENDS, home=home)
        assert survivors(home[MARK]) == []
    assert ended.returncode == 130, ended.stderr
    assert ended.stdout == ""
    assert "--for" in ended.stderr.splitlines()[-1]
    states = {row["status"] for row in ResultsFolder(str(tmp_path / "results"), "tiny").runs()}
    assert states >= {"finished", "interrupted"}
    assert "running" not in states


REPORT_EACH_BATCH = """
from sweeps.execution import tune
tune.phase_seconds = lambda concurrent, resources: 0.0
"""


@pytest.mark.slow
def test_reports_within_an_epoch_end_no_run(tmp_path):
    search = {"sampler": "random", "configurations": 1, "seeds": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep(search=search)))
    ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=REPORT_EACH_BATCH)
    assert ended.returncode == 0, ended.stderr
    rows = ResultsFolder(str(tmp_path / "results"), "tiny").runs()
    assert [(row["status"], row["attempt"]) for row in rows] == [("finished", 1)] * 4


STOP_WORKERS = """
import os, signal, sys
from sweeps.execution import tune
from sweeps.execution.recorder import RunRecorder
tune.CHECKPOINT_SECONDS = 0.0
on_run_progress, stops, pids, stopped = RunRecorder.on_run_progress, {"0": 2, "1": 1}, set(), set()
def on_run_progress_and_stop(self, run_id, report):
    on_run_progress(self, run_id, report)
    if "curve" not in report:
        return
    seed, pid = run_id.rpartition("-")[2], report["pid"]
    if pid not in pids:
        pids.add(pid)
        print("PROCESS", seed, pid, report["epoch"], file=sys.__stderr__)
    # A resumed run reports its last stored epoch again.
    if report["epoch"] >= 3 and stops[seed] and pid not in stopped:
        stops[seed] -= 1
        stopped.add(pid)
        os.kill(pid, signal.SIGSTOP)
RunRecorder.on_run_progress = on_run_progress_and_stop
"""


@pytest.mark.slow
def test_a_run_whose_process_hangs_is_ended_and_tried_once_more_from_its_checkpoint(tmp_path):
    # The run goes on until the signal arrives, so it has more epochs than it can train in this time.
    trial = TINY_TRIAL | {"training": {"epochs": 60, "decay_min_epoch": 60}}
    search = {"sampler": "random", "configurations": 1, "seeds": 2}
    values = sweep(trial=trial, arms={"vae": []}, search=search, resources={"patience": 30})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    with private_home() as home:
        ended = lagvae("run", "tiny.yaml", cwd=tmp_path, before=STOP_WORKERS, home=home)
        assert survivors(home[MARK]) == []
    assert ended.returncode == 1, ended.stderr
    twice, once = ResultsFolder(str(tmp_path / "results"), "tiny").runs()
    assert (twice["status"], once["status"]) == ("failed", "finished")
    for row in (twice, once):
        assert row["attempt"] == 2
        [before] = json.loads(row["history"])
        assert (before["status"], before["error_class"]) == ("interrupted", "WorkerSilent")
    assert (twice["error_class"], once["error_class"]) == ("WorkerSilent", None)
    first_epochs: dict[str, list[int]] = {}
    for line in ended.stderr.splitlines():
        if line.startswith("PROCESS"):
            _, seed, _, epoch = line.split()
            first_epochs.setdefault(seed, []).append(int(epoch))
    for started, *resumed in first_epochs.values():
        assert started == 1
        assert min(resumed) > 1, "the run started again from its beginning"
    assert first_epochs.keys() == {"0", "1"}


LOSE_THE_DATA = """
import shutil
from sweeps.execution import driver
origin = driver.provenance
def provenance():
    shutil.rmtree("corpus")
    return origin()
driver.provenance = provenance
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> TinySweep:
    here = tmp_path_factory.mktemp("failed")
    (here / "corpus").mkdir()
    for name in ("train", "valid", "test"):
        (here / "corpus" / f"{name}.txt").write_text("a b c\nb c d\n" * 8)
    trial = sweep()["trial"] | {"data": {"kind": "text", "path": "corpus"}}
    values = sweep(trial=trial, arms={"beta": ["beta_vae"]}, search={"configurations": 4, "seeds": 2})
    (here / "tiny.yaml").write_text(yaml.safe_dump(values))
    return TinySweep(here, lagvae("run", "tiny.yaml", cwd=here, before=LOSE_THE_DATA))


class TestFailure:
    """The data vanish after the plan was made. Every run fails, and the sweep must stop."""

    def test_the_exit_code_is_1(self, failed):
        assert failed.ended.returncode == 1

    def test_three_identical_failures_stop_the_sweep(self, failed):
        assert "The first 3 runs all failed with" in failed.ended.stderr
        assert "data.path" in failed.ended.stderr
        rows = failed.folder.runs()
        assert 3 <= [row["status"] for row in rows].count("failed") < 8

    def test_a_failed_run_has_a_row(self, failed):
        for row in failed.folder.runs():
            if row["status"] == "failed":
                assert row["error_class"] == "DataError"
                assert "lagvae_core" in row["traceback"]
                assert row["stop_reason"]
                assert row["attempt"] == 1, "an exception of the training is not retried"


def test_a_cluster_that_does_not_respond_changes_nothing(tiny_sweep, monkeypatch, capsys):
    before = tiny_sweep.files
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: silent.accept()[0].close()).start()
        more = ("--set", "search.seeds=5", "--address", f"127.0.0.1:{silent.getsockname()[1]}")
        assert call(monkeypatch, tiny_sweep.here, "run", "tiny.yaml", *more) == 2
    assert "127.0.0.1:" in capsys.readouterr().err
    assert tiny_sweep.files == before


def test_a_second_driver_is_refused(tiny_sweep, monkeypatch, capsys):
    with tiny_sweep.folder.locked():
        assert call(monkeypatch, tiny_sweep.here, "run", "tiny.yaml") == 2
    assert "Another driver is running the sweep" in capsys.readouterr().err


def test_the_folder_may_be_a_uri(tiny_sweep, monkeypatch, capsys):
    uri = (tiny_sweep.here / "results").as_uri()
    assert call(monkeypatch, tiny_sweep.here, "run", "tiny.yaml", "--results", uri) == 0
    assert "14 already stored" in capsys.readouterr().err
    assert ResultsFolder(uri, "tiny").runs() == tiny_sweep.folder.runs()
