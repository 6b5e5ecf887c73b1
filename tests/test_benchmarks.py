"""Every benchmark runs at its smallest size and prints finite numbers. Speed is not tested."""

from __future__ import annotations

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
    "memory": ["text", "--sentences", "500"],
    "remedies": ["--rounds", "2"],
    "search": ["--repetitions", "2", "--configurations", "6"],
    "steps": ["--size", "synthetic", "--repetitions", "1"],
    "table": ["--rows", "2", "--away", "1"],
}

HELPERS = {"forked_workers", "tabulated"}
"""Modules that benchmarks import; they are not run themselves."""


def test_every_benchmark_is_listed():
    assert {file.stem for file in BENCHMARKS.glob("*.py")} == SMALLEST.keys() | HELPERS


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs(name, tmp_path):
    with private_home() as home:
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALLEST[name]]
        completed = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=240)
    assert completed.returncode == 0, completed.stderr
    assert re.search(r"\d", completed.stdout)
    assert not re.search(r"\b(nan|inf)\b", completed.stdout)
