"""The curves of running runs, with a clock and a folder of the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sweeps.execution.live_curves import CURVE_SECONDS, WRITING_FRACTION, LiveCurves


@dataclass
class Folder:
    """Records the curves that are written; each write takes `seconds`."""

    now: float = 0.0
    seconds: float = 0.0
    writes: list[tuple[str, list[int]]] = field(default_factory=list)

    def write_curve(self, row: dict[str, Any], epochs: list[dict[str, Any]]) -> None:
        self.now += self.seconds
        self.writes.append((row["run_id"], [epoch["epoch"] for epoch in epochs]))


@pytest.fixture
def folder() -> Folder:
    return Folder()


@pytest.fixture
def curves(folder) -> LiveCurves:
    return LiveCurves(lambda: folder.now)


def numbers(curves: LiveCurves, run_id: str) -> list[int]:
    return [epoch["epoch"] for epoch in curves.get(run_id)]


def test_a_resumed_run_keeps_the_stored_epochs_up_to_where_it_resumed(curves):
    curves.start("a", [{"epoch": n, "kl": "stored"} for n in (1, 2, 3, 4)])
    assert numbers(curves, "a") == [1, 2, 3, 4]
    for n in (3, 4, 5, 5):
        curves.add("a", {"epoch": n, "kl": "new"})
    assert [(epoch["epoch"], epoch["kl"]) for epoch in curves.get("a")] == [
        *((n, "stored") for n in (1, 2)),
        *((n, "new") for n in (3, 4, 5)),
    ]
    curves.end("a")
    assert curves.get("a") == []


def test_the_first_epoch_is_written_at_once_and_the_others_from_time_to_time(curves, folder):
    row = {"run_id": "a"}
    for n in range(1, 31):
        curves.add("a", {"epoch": n})
        curves.write_if_due(folder, row)
        folder.now += 1
    assert [epochs[-1] for _, epochs in folder.writes] == [1, 11, 21]
    folder.now += CURVE_SECONDS
    curves.write_if_due(folder, row)
    curves.write_if_due(folder, row)
    assert [epochs[-1] for _, epochs in folder.writes] == [1, 11, 21, 30]
    curves.write(folder, row)
    assert len(folder.writes) == 4, "there is no new epoch"
    curves.add("a", {"epoch": 31})
    curves.write(folder, row)
    assert folder.writes[-1] == ("a", list(range(1, 32)))


def test_slow_writes_of_many_runs_take_a_small_part_of_the_time(curves, folder):
    folder.seconds = 0.1
    names, seconds = [f"run{i}" for i in range(100)], 1000
    for n in range(1, seconds // 10):
        for name in names:
            curves.add(name, {"epoch": n})
            curves.write_if_due(folder, {"run_id": name})
        folder.now += 10
    assert {name for name, epochs in folder.writes if len(epochs) == 1} >= set(names)
    later = len(folder.writes) - len(names)
    assert 0 < later * folder.seconds <= WRITING_FRACTION * folder.now
