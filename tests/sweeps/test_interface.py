"""Sweeps from Python: the same numbers as on the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from commands import invoke
from helpers import rejects
from worlds import sweep

from lagvae_core.config.trial import parse_trial
from sweeps import Results, Sweep, read_results


@pytest.fixture
def here(tiny_sweep, tmp_path, monkeypatch):
    """The working directory of a finished sweep."""
    for name in ("results", "tiny.yaml"):
        source = tiny_sweep.here / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_finished_sweep_has_nothing_to_do_and_its_tables_are_those_of_the_files(here, tiny_sweep):
    planned = Sweep.from_yaml("tiny.yaml").plan()
    assert planned["missing"].sum() == 0
    assert planned["runs"].sum() == 14
    results = Sweep.from_yaml("tiny.yaml").run()
    assert results.outcome.exit_code == 0
    runs = results.runs
    stored = tiny_sweep.folder.runs()
    assert runs["run_id"].tolist() == [row["run_id"] for row in stored]
    assert runs["nll_iw"].dropna().tolist() == [row["nll_iw"] for row in stored if row["nll_iw"] is not None]
    assert set(results.curves["run_id"]) == {row["run_id"] for row in stored if row["status"] == "finished"}


def test_the_front_is_that_of_the_command(here):
    shown = json.loads(invoke("results", "pareto", "tiny", "--json", folder=here).stdout)
    front = read_results("results/tiny").front()
    assert front["config_id"].tolist() == [row["config_id"] for row in shown]
    assert front["nll_iw"].tolist() == [row["nll_iw"] for row in shown]
    other = read_results(here / "results" / "tiny").front({"kl": "max"})
    assert (other["standing"] == "on").sum() >= 1


def test_a_notebook_shows_short_tables(here):
    results = read_results("results/tiny")
    assert repr(results) == "Results('tiny', 12 finished, 2 diverged)"
    assert results._repr_html_().count("<tr") <= 22
    assert repr(Sweep.from_yaml("tiny.yaml")) == "Sweep('tiny', arms=['vae', 'anneal', 'encoder_lr'])"


def test_a_sweep_of_plain_data_is_that_of_a_file(here, tmp_path):
    values = sweep(search={"sampler": "random", "configurations": 2, "seeds": 2, "seed": 0})
    (tmp_path / "same.yaml").write_text(json.dumps(values))
    assert Sweep.from_dict(values).spec.hash == Sweep.from_yaml("same.yaml").spec.hash
    overridden = Sweep.from_yaml("same.yaml", {"search.seeds": 3})
    assert overridden.plan()["runs"].sum() == 3 * (1 + 2)


def test_trackers_of_the_file_are_used(here, monkeypatch, capsys):
    sweep = Sweep.from_yaml("tiny.yaml", {"trackers": ["tensorboard"]})
    sweep.run()
    logs = here / "results" / "tiny" / "tensorboard"
    assert {path.name for path in logs.glob("*/*-*")} == {row["run_id"] for row in sweep.run().folder.runs()}
    assert capsys.readouterr().out == ""
    broken = here / "clients" / "tensorboard"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    Sweep.from_yaml("tiny.yaml", {"trackers": {"tensorboard": {"folder": "logs"}}}).run()
    assert capsys.readouterr().out.startswith("warning, tensorboard failed: ModuleNotFoundError: ")


def test_mistakes_are_those_of_the_file(here):
    with rejects("search.seeds"):
        Sweep.from_dict(sweep(search={"seeds": 0}))
    with rejects("SWEEP"):
        read_results("results/nothing")


def test_runs_can_be_repeated_from_the_table(here):
    row = read_results("results/tiny").runs.iloc[0]
    config = parse_trial(json.loads(row["config"]))
    assert config.run_id(row["data_fingerprint"]) == row["run_id"]


@pytest.mark.slow
def test_a_sweep_runs_from_a_script(tmp_path):
    values = sweep(arms={"vae": []}, search={"sampler": "random", "configurations": 1, "seeds": 2, "seed": 0})
    script = f"from sweeps import Sweep; print(Sweep.from_dict({values!r}).run('out'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    assert last == "Results('tiny', 2 finished)"
    assert [line.startswith("vae, configuration 0, seed ") for line in lines] == [True, True]
    assert isinstance(read_results(tmp_path / "out" / "tiny"), Results)
