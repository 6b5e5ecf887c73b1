"""A sweep of 24 runs whose processes are killed at random: workers, Ray's daemons and the driver with its group.

LAGVAE_KILLS is the number of kills of each kind (default 1). With 20 the test takes about half an hour on two cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from processes import MARK, TIMEOUT, descendants, lagvae, private_home, survivors
from tiny import numbers
from worlds import TINY_TRIAL, sweep

from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

KILLS = int(os.environ.get("LAGVAE_KILLS", "1"))
SEED = 0
RUNS = 24
EPOCHS = 60 if KILLS == 1 else 1000
"""Epochs of a run. With many kills, a run must not end between two of them, or the sweep would end first."""

PAUSE_SECONDS = 3.0
"""Longest time between the moment when a kill is due and the kill [s]."""
VICTIMS = {"worker": "ray::ImplicitFunc", "raylet": "/raylet/raylet ", "gcs_server": "/gcs_server ", "driver": ""}
"""What may be killed, with a part of its command line."""

EXIT_CODES = {"raylet": 1, "gcs_server": 1, "driver": -signal.SIGKILL}
"""Exit code of the driver if a process is killed without which it cannot continue."""


def write_sweep(here: Path) -> ResultsFolder:
    trial = TINY_TRIAL | {"training": {"epochs": EPOCHS, "decay_min_epoch": EPOCHS}}
    arms = {
        "vae": [{"kind": "encoder_lr", "multiplier": {"low": 0.5, "high": 2.0}}],
        "beta": ["beta_vae"],
        "anneal": [{"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 4}}],
    }
    search = {"sampler": "random", "configurations": 4, "seeds": 2, "seed": 0}
    (here / "tiny.yaml").write_text(yaml.safe_dump(sweep(trial=trial, arms=arms, search=search), sort_keys=False))
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


@pytest.mark.slow
def test_kills_neither_lose_nor_change_a_row_and_the_table_is_that_of_an_undisturbed_sweep(tmp_path):
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    disturbed.mkdir()
    undisturbed.mkdir()
    folder, reference = write_sweep(disturbed), write_sweep(undisturbed)
    generator, kills = random.Random(SEED), [victim for victim in VICTIMS for _ in range(KILLS)]
    generator.shuffle(kills)
    with private_home() as home:
        final, driver, count = dict[str, bytes](), start(disturbed, home), len(kills)
        try:
            while kills:
                # The kills are spread evenly over the sweep.
                due = len(ended_rows(folder)) >= RUNS * (count - len(kills)) // count
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
                    assert driver.returncode in (0, *EXIT_CODES.values())
                    assert driver.returncode != 0 or not kills, "the sweep ended before all kills"
                    driver = start(disturbed, home)
                time.sleep(0.3)
            stderr = driver.communicate(timeout=TIMEOUT)[1]
            assert driver.returncode == 0, stderr
        finally:
            driver.kill()
            driver.wait()
        assert survivors(home[MARK]) == []
    rows = folder.runs()
    assert lagvae("run", "tiny.yaml", cwd=undisturbed).returncode == 0
    assert len(rows) == RUNS
    assert {row["status"] for row in rows} == {"finished"}
    assert final.items() <= ended_rows(folder).items()
    assert numbers(rows) == numbers(reference.runs())
