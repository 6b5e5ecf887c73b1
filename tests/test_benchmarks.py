"""Every benchmark runs at its smallest size and prints finite numbers. Speed is not tested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import private_home

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"

SMALLEST = {
    "compare_checkouts": [str(ROOT), str(ROOT), "--only", "synthetic"],
    "driver": ["--concurrent", "1", "--epochs", "2", "--pause", "0.1", "--forked"],
    "linear_collapse": ["--points", "1", "--epochs", "1", "--png", "collapse.png"],
    "memory": ["text", "--sentences", "500"],
    "remedies": ["--rounds", "2"],
    "search": ["--repetitions", "2", "--configurations", "6"],
    "steps": ["--size", "synthetic", "--repetitions", "1"],
    "table": ["--rows", "2", "--away", "1"],
}

HELPERS = {"forked_workers", "generated", "tabulated"}
"""Modules that benchmarks import; they are not run themselves."""


def test_every_benchmark_is_listed():
    assert {file.stem for file in BENCHMARKS.glob("*.py")} == SMALLEST.keys() | HELPERS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *SMALLEST.items(),
        ("driver", ["--runs", "10", "--epochs", "2"]),
        ("table", ["--generated", "60"]),
        ("table", ["--generated", "60", "--single"]),
    ],
)
def test_benchmark_runs(name, arguments, tmp_path):
    with private_home() as home:
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
        completed = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=240)
    assert completed.returncode == 0, completed.stderr
    assert re.search(r"\d", completed.stdout)
    assert not re.search(r"\b(nan|inf)\b", completed.stdout)


REPLAYED = """
import argparse, json, sys, tempfile
sys.path.insert(0, {folder!r})
import search
from sweeps.execution import driver
from sweeps.execution.monitor import SilentMonitor
from sweeps.storage.table import ResultsFolder
from tabulated import Table, TabulatedTrial, replayed
file = search.FOLDER / "bn_vae.parquet"
table = Table(file)
spec = search.spec_of(table, {{"sampler": "random"}}, 4, 3)
folder = ResultsFolder({place!r}, spec.name)
with replayed(TabulatedTrial(file, 0.01), 2):
    driver.run_sweep(spec, folder, SilentMonitor())
rows = [row for _, row in search.simulate(spec, table, 2)]
judge = search.Judge(table, spec.objectives)
print(json.dumps({{
    "runs": len(folder.runs()),
    "ids": sorted(row["run_id"] for row in folder.runs()) == sorted(row["run_id"] for row in rows),
    "hypervolumes": [judge.hypervolume(folder.runs()), judge.hypervolume(rows)],
    "metrics": all(row.items() >= table.runs[row["run_id"]].metrics.items() for row in folder.runs()),
    "costs": all(row.items() >= table.runs[row["run_id"]].costs.items() for row in folder.runs()),
    "curves": all(tuple(folder.curve(row["run_id"])) == table.runs[row["run_id"]].curve for row in rows),
}}))
"""


@pytest.mark.slow
def test_runs_that_ray_replays_have_the_rows_curves_and_front_of_their_table(tmp_path):
    with private_home() as home:
        script = REPLAYED.format(folder=str(BENCHMARKS), place=str(tmp_path / "results"))
        command = [sys.executable, "-c", script]
        completed = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=240)
    assert completed.returncode == 0, completed.stderr
    found = json.loads(completed.stdout)
    replayed, simulated = found.pop("hypervolumes")
    assert replayed == simulated > 0
    assert found == {"runs": 12, "ids": True, "metrics": True, "costs": True, "curves": True}
