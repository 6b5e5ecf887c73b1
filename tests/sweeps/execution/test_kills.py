"""Sweeps whose processes are killed at random: workers, Ray's daemons and the driver with its group.

LAGVAE_KILLS is the number of kills of each kind (default 1). With 20 a test takes about half an hour on two cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import MARK, TIMEOUT, descendants, lagvae, private_home, survivors
from tiny import WHEN_AND_WHERE, numbers
from worlds import TINY_TRIAL, sweep

from sweeps.analysis.stored import current_plan, stored_spec
from sweeps.search.stopping import is_rung
from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

KILLS = int(os.environ.get("LAGVAE_KILLS", "1"))
SEED = 0
CONFIGURATIONS = 2 if KILLS == 1 else 4
EPOCHS = 200 if KILLS == 1 else 1000
"""Epochs of a run. With many kills, a run must not end between two of them, or the sweep would end first."""

PAUSE_SECONDS = 1.0 if KILLS == 1 else 3.0
"""Longest time between the moment when a kill is due and the kill [s]."""
VICTIMS = {"worker": "ray::ImplicitFunc", "raylet": "/raylet/raylet ", "gcs_server": "/gcs_server ", "driver": ""}
"""What may be killed, with a part of its command line."""

EXIT_CODES = {"raylet": 1, "gcs_server": 1, "driver": -signal.SIGKILL}
"""Exit code of the driver if a process is killed without which it cannot continue."""


def write_sweep(here: Path, **changes: Any) -> ResultsFolder:
    """Write a sweep of three arms, or one with `changes`."""
    trial = TINY_TRIAL | {"training": {"epochs": EPOCHS, "decay_min_epoch": EPOCHS}}
    arms = {
        "vae": [{"kind": "encoder_lr", "multiplier": {"low": 0.5, "high": 2.0}}],
        "beta": ["beta_vae"],
        "anneal": [{"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 4}}],
    }
    search = {"sampler": "random", "configurations": CONFIGURATIONS, "seeds": 2, "seed": 0}
    values = sweep(**{"trial": trial, "arms": arms, "search": search} | changes)
    (here / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return ResultsFolder(str(here / "results"), "tiny")


def start(here: Path, home: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("lagvae")), "run", "tiny.yaml"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=here, env=dict(home), text=True, start_new_session=True, **streams)


def find(victim: str, home: Mapping[str, str]) -> list[int]:
    pids = []
    for pid in sorted(descendants(home[MARK])):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if VICTIMS[victim] in command:
            pids.append(pid)
    return pids


def ended_rows(folder: ResultsFolder) -> dict[str, bytes]:
    """Return the files of the ended rows, by run id."""
    if not folder.exists():
        return {}
    ids = [row["run_id"] for row in folder.runs() if row["status"] in ENDED]
    return {name: Path(str(folder.local_path), "runs", f"{name}.parquet").read_bytes() for name in ids}


def run_with_kills(here: Path, folder: ResultsFolder, runs: int) -> None:
    """Run the sweep of about `runs` runs while processes are killed, and start it again until it ends.

    After each kill, all rows that had ended are unchanged.
    """
    generator, kills = random.Random(SEED), [victim for victim in VICTIMS for _ in range(KILLS)]
    generator.shuffle(kills)
    with private_home() as home:
        final, driver, count = dict[str, bytes](), start(here, home), len(kills)
        try:
            while kills:
                # The kills are spread evenly over the sweep, and enough runs are left after the last one.
                due = len(ended_rows(folder)) >= runs * (count - len(kills)) // (count + 1)
                pids = [driver.pid] if kills[0] == "driver" else find(kills[0], home)
                if due and driver.poll() is None and pids and find("worker", home):
                    time.sleep(generator.uniform(0.0, PAUSE_SECONDS))
                    victim = kills.pop(0)
                    try:
                        (os.killpg if victim == "driver" else os.kill)(generator.choice(pids), signal.SIGKILL)
                    except ProcessLookupError:
                        kills.insert(0, victim)
                        continue
                    if victim in EXIT_CODES:
                        stderr = driver.communicate(timeout=TIMEOUT)[1]
                        assert driver.returncode == EXIT_CODES[victim], stderr
                        assert "Traceback" not in stderr
                    stored = ended_rows(folder)
                    assert final.items() <= stored.items(), victim
                    final = stored
                if driver.poll() is not None:
                    if driver.returncode not in (0, *EXIT_CODES.values()):
                        pytest.fail(driver.communicate()[1])
                    assert driver.returncode != 0 or not kills, "the sweep ended before all kills"
                    driver = start(here, home)
                time.sleep(0.3)
            stderr = driver.communicate(timeout=TIMEOUT)[1]
            assert driver.returncode == 0, stderr
        finally:
            driver.kill()
            driver.wait()
        assert survivors(home[MARK]) == []
    assert final.items() <= ended_rows(folder).items()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return the working directories of the sweep with kills and of the one without."""
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    disturbed.mkdir()
    undisturbed.mkdir()
    return disturbed, undisturbed


@pytest.mark.slow
def test_kills_neither_lose_nor_change_a_row_and_the_table_is_that_of_an_undisturbed_sweep(folders):
    disturbed, undisturbed = folders
    folder, reference = write_sweep(disturbed), write_sweep(undisturbed)
    run_with_kills(disturbed, folder, runs=6 * CONFIGURATIONS)
    rows = folder.runs()
    assert lagvae("run", "tiny.yaml", cwd=undisturbed).returncode == 0
    assert len(rows) == 6 * CONFIGURATIONS
    assert {row["status"] for row in rows} == {"finished"}
    assert numbers(rows) == numbers(reference.runs())


def without_times(epochs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in epoch.items() if name not in WHEN_AND_WHERE} for epoch in epochs]


@pytest.mark.long
@pytest.mark.parametrize("concurrent", [1, 2])
def test_kills_change_no_decision_of_stopping_and_racing_that_does_not_depend_on_the_order(folders, concurrent):
    """With one run at a time, the tables are equal. With two, the runs that a rule stops may differ, but no value."""
    disturbed, undisturbed = folders
    changes = {
        "arms": {"lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 20, 0.5, 30, 2, 50]}}]},
        "search": {"sampler": "grid", "seeds": {"start": 2, "up_to": 4}},
        "objectives": {"nll_elbo": "min"},
        "stopping": {"rule": "front", "grace": 1},
        "resources": {"concurrent": concurrent},
    }
    folder, reference = write_sweep(disturbed, **changes), write_sweep(undisturbed, **changes)
    run_with_kills(disturbed, folder, runs=14)
    assert lagvae("run", "tiny.yaml", cwd=undisturbed).returncode == 0
    rows, undisturbed_rows = folder.runs(), reference.runs()
    statuses = {row["status"] for row in undisturbed_rows}
    assert {"finished", "stopped_early"} <= statuses <= {"finished", "stopped_early", "diverged"}
    assert current_plan(stored_spec(folder), rows).missing == 0
    curves = {run_id: list(epochs) for run_id, epochs in groupby(folder.curves(), key=itemgetter("run_id"))}
    for row in rows:
        if row["status"] == "diverged":
            continue
        last = row["epochs"]
        assert [epoch["epoch"] for epoch in curves[row["run_id"]]] == list(range(1, last + 1))
        assert row["status"] == "finished" or (row["status"] == "stopped_early" and is_rung(last) and last < EPOCHS)
    if concurrent == 1:
        assert numbers(rows) == numbers(undisturbed_rows)
        assert without_times(folder.curves()) == without_times(reference.curves())
    else:
        expected = {row["run_id"]: row for row in numbers(undisturbed_rows) if row["status"] == "finished"}
        finished = {row["run_id"]: row for row in numbers(rows) if row["status"] == "finished"}
        common = finished.keys() & expected.keys()
        assert common
        assert {run_id: finished[run_id] for run_id in common} == {run_id: expected[run_id] for run_id in common}
