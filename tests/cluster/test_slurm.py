"""The rendered batch script under a real Slurm of two nodes, with a real Ray."""

from __future__ import annotations

import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml
from helpers import TINY_DATA
from hosts import PATH, REPOSITORY
from slurm_world import LOCAL, Slurm, slurm, why_not

from cluster.render import render

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(bool(why_not()), reason=f"Slurm cannot run here: {why_not()}")]

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "trial": {
        "data": TINY_DATA,
        "model": {"hidden": 8, "embedding": 8, "latent_dim": 2},
        "training": {"epochs": 2},
        "evaluation": {"iw_samples": 10},
    },
    "arms": {"vae": [], "beta": ["beta_vae"]},
    "search": {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0},
}


@pytest.fixture(scope="module")
def world() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, slurm(Path(folder)) as world:
        command = world.folder / "bin" / "lagvae"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m sweeps "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        for host in world.hosts.values():
            host.environment["PATH"] = f"{command.parent}:{PATH}"
        yield world


def prepare(world: Slurm, name: str, **training: Any) -> Path:
    """Write a batch script for a sweep of this name, with results in results/NAME."""
    trial = SWEEP["trial"] | {"training": SWEEP["trial"]["training"] | training}
    file = world.folder / f"{name} it's.yaml"
    file.write_text(yaml.safe_dump(SWEEP | {"name": name, "trial": trial}))
    values = {
        "spec": str(file),
        "results": str(world.folder / "results"),
        "cpus": 1,
        "gpus": 0,
        "memory": "2Gi",
        "object_store": "100Mi",
        "local_folder": LOCAL,
    }
    script = world.folder / f"{name}.sh"
    script.write_text(render("slurm", values))
    return script


def rows(world: Slurm, name: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a sweep by run_id, and check that no run has two."""
    folder = world.folder / "results" / name / "runs"
    files = sorted(folder.glob("*.parquet"))
    table = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert not [run for run, count in Counter(row["run_id"] for row in table).items() if count > 1]
    return {row["run_id"]: row for row in table}


def is_complete(table: dict[str, dict[str, Any]]) -> bool:
    """Return whether there is one configuration of the plain VAE and three of beta_vae, each with two seeds."""
    return Counter(row["arm"] for row in table.values()) == {"vae": 2, "beta": 6}


def test_a_sweep_finishes_on_both_nodes(world):
    # Runs are long enough that the second node joins before the first one has finished them all.
    job = world.submit(prepare(world, "whole", epochs=60))
    state = world.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", seconds=400)
    assert (state["JobState"], state["ExitCode"]) == ("COMPLETED", "0:0"), world.log(job)
    assert f"2 nodes at {world.hosts['n1'].address}:" in world.log(job)
    table = rows(world, "whole")
    assert is_complete(table)
    assert {row["status"] for row in table.values()} == {"finished"}
    assert {row["host"] for row in table.values()} == {"n1", "n2"}
    assert world.private_files() == "", "files are left on a node"


def test_a_job_near_its_time_limit_requeues_itself_and_resumes(world):
    job = world.submit(prepare(world, "again", epochs=60))
    deadline = time.monotonic() + 300
    while not (before := finished(rows(world, "again"))):
        assert time.monotonic() < deadline, world.log(job)
        time.sleep(0.5)
    world.call("scancel", "--batch", "--signal=USR1", str(job))
    world.wait_for(job, "PENDING", seconds=120)
    assert not is_complete(finished(rows(world, "again"))), "no run is left to resume"
    # Slurm delays a requeued job by two minutes. A few seconds suffice, within which nodes would mistake its new
    # credential for the old one.
    time.sleep(5)
    world.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    state = world.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", seconds=500)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), world.log(job)
    after = rows(world, "again")
    assert is_complete(finished(after))
    assert {run: after[run] for run in before} == before, "a final row has changed"
    assert world.private_files() == ""


def finished(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the rows of finished runs."""
    return {run: row for run, row in table.items() if row["status"] == "finished"}
