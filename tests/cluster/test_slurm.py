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

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(bool(why_not()), reason=f"no Slurm to start: {why_not()}")]

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
    """A batch script for a sweep of this name, whose results are in results/NAME."""
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
    """The rows of a sweep by run_id; no run has two."""
    folder = world.folder / "results" / name / "runs"
    found = [row for file in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert not [run for run, count in Counter(row["run_id"] for row in found).items() if count > 1]
    return {row["run_id"]: row for row in found}


def runs_expected(found: dict[str, dict[str, Any]]) -> bool:
    """Plain VAE once, beta_vae in three configurations, each with two seeds."""
    return Counter(row["arm"] for row in found.values()) == {"vae": 2, "beta": 6}


def test_a_sweep_runs_to_the_end_on_both_nodes(world):
    # Long enough that the second node has its turn before the first has done it all.
    job = world.submit(prepare(world, "whole", epochs=60))
    seen = world.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", seconds=400)
    assert (seen["JobState"], seen["ExitCode"]) == ("COMPLETED", "0:0"), world.log(job)
    assert f"2 nodes at {world.hosts['n1'].address}:" in world.log(job)
    found = rows(world, "whole")
    assert runs_expected(found)
    assert {row["status"] for row in found.values()} == {"finished"}
    assert {row["host"] for row in found.values()} == {"n1", "n2"}
    assert world.private_files() == "", "nothing is left on a node"


def test_a_job_whose_time_is_over_queues_itself_and_goes_on(world):
    job = world.submit(prepare(world, "again", epochs=60))
    deadline = time.monotonic() + 300
    while not (before := done(rows(world, "again"))):
        assert time.monotonic() < deadline, world.log(job)
        time.sleep(0.5)
    world.call("scancel", "--batch", "--signal=USR1", str(job))
    world.wait_for(job, "PENDING", seconds=120)
    assert not runs_expected(done(rows(world, "again"))), "there is something left to do"
    # Slurm lets a requeued job wait for two minutes. This one need not, but for the seconds in which nodes take its new
    # credential for the old one.
    time.sleep(5)
    world.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    seen = world.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", seconds=500)
    assert (seen["JobState"], seen["Restarts"]) == ("COMPLETED", "1"), world.log(job)
    after = rows(world, "again")
    assert runs_expected(done(after))
    assert {run: after[run] for run in before} == before, "what was final is as it was"
    assert world.private_files() == ""


def done(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {run: row for run, row in found.items() if row["status"] == "finished"}
