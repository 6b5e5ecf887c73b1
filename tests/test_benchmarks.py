"""Every benchmark still runs, at its smallest, and gives finite numbers; how fast is none of the tests' business."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import private_home

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SMALLEST = {
    "driver": ["--concurrent", "1", "--epochs", "2", "--pause", "0.1", "--forked"],
    "memory": ["text", "--sentences", "500"],
    "remedies": ["--rounds", "2"],
    "steps": ["--size", "synthetic", "--repetitions", "1"],
    "table": ["--rows", "2", "--away", "1"],
}

HELPERS = {"forked_workers"}
"""What benchmarks share."""


def test_none_is_left_out():
    assert {file.stem for file in BENCHMARKS.glob("*.py")} == SMALLEST.keys() | HELPERS


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs(name, tmp_path):
    with private_home() as home:
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALLEST[name]]
        ended = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\d", ended.stdout)
    assert not re.search(r"\b(nan|inf)\b", ended.stdout)
