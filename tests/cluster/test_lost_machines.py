"""A sweep on a cluster of several machines, which are lost one after the other while it runs.

A separate machine serves the results over the network (SSHFS), so a machine that loses the network also loses the
results. File locks there hold only within one machine.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from heads import TRIAL, sweep, until
from helpers import TINY_DATA
from hosts import HOME, Host, network, serve_ssh, why_no_namespaces

from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

WHY_NOT = why_no_namespaces("sshd", "ssh-keygen", "sshfs", "fusermount3")

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

WORKERS = ("w1", "w2", "w3")
RESULTS = "results $(touch pwned); `touch pwned` ü"
"""Name of a folder. No shell may interpret it."""

FOREVER = 'while true; do ray start "$@" --block; sleep 1; done'
"""Supervisor of a machine: starts Ray again whenever it ends."""

SSHFS = (
    "reconnect,ServerAliveInterval=5,ServerAliveCountMax=2,"
    f"IdentityFile={HOME}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
)

PACED = """
import os, time
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lagvae_core.strategies.base import BuildContext, Strategy
from lagvae_core.strategies.slots import Forward, Penalty


class Paced(Strategy):
    \"""Each update takes a while on a cluster, so that runs last as long on a fast machine as on a slow one.\"""

    slots: ClassVar[frozenset[str]] = frozenset({"penalties"})
    paper: ClassVar[str] = "none"

    kind: Literal["paced"] = "paced"
    seconds: float = Field(0.04, description="duration of a pause [s]")

    def build(self, context: BuildContext) -> dict[str, Any]:
        return {"penalties": (_Pause(self.seconds),)}


class _Pause(Penalty):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def forward(self, forward: Forward) -> Tensor:
        if "RAY_RAYLET_PID" in os.environ and not os.path.exists(os.path.expanduser("~/hurry")):
            time.sleep(self._seconds)
        return forward.rec_B.new_zeros(())
"""
"""A plugin, which has to travel with the job."""

SIZE = ("--object-store-memory=80000000", "--disable-usage-stats")


@dataclass
class World:
    """A head without cores, three workers with two cores each, a laptop, and a store. All mount its folder `shared`."""

    hosts: dict[str, Host]
    shared: Path
    secret: str

    @property
    def head(self) -> Host:
        return self.hosts["head"]

    @property
    def laptop(self) -> Host:
        return self.hosts["laptop"]

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:8265"

    @property
    def results(self) -> Path:
        return self.shared / RESULTS

    def mount(self, host: Host) -> None:
        """Mount the folder of the store at the same path."""
        host.write("key", self.hosts["store"].read("key"))
        host.run("mkdir", "-p", str(self.shared))
        served = f"root@{self.hosts['store'].address}:{self.shared}"
        mounted = host.run("sshfs", served, str(self.shared), "-o", SSHFS)
        assert mounted.returncode == 0, mounted.stderr

    def give_token(self, host: Host) -> None:
        path = host.write("token", self.secret)
        host.environment |= {"RAY_AUTH_TOKEN_PATH": path}

    def start_ray(self, name: str) -> None:
        host = self.hosts[name]
        self.mount(host)
        self.give_token(host)
        common = [f"--node-ip-address={host.address}", *SIZE]
        if name == "head":
            options = ["--head", "--port=6379", f"--dashboard-host={host.address}", "--num-cpus=0", *common]
        else:
            options = [f"--address={self.head.address}:6379", "--num-cpus=2", *common]
        variables = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "LAGVAE_CACHE": f"{HOME}/cache"}
        host.start("bash", "-c", FOREVER, "supervisor", *options, log="ray.log", **variables)

    def wait_for_nodes(self, count: int, seconds: int = 600) -> None:
        head = self.head
        arguments = ("cluster", "wait", f"{head.address}:6379", "--nodes", str(count), "--seconds", str(seconds))
        deadline = time.monotonic() + seconds
        while (ended := head.lagvae(*arguments, RAY_AUTH_MODE="token")).returncode:
            assert time.monotonic() < deadline, f"{ended.stderr}\n{head.read('ray.log')}"

    def lagvae(self, verb: str, *arguments: str, seconds: float = 240) -> Any:
        return self.laptop.lagvae(verb, *arguments, "--address", self.url, "--insecure", seconds=seconds)

    def rows(self) -> list[dict[str, Any]]:
        folder = ResultsFolder(str(self.results), "long")
        return folder.runs() if folder.exists() else []

    def ended(self) -> dict[str, dict[str, Any]]:
        return {row["run_id"]: row for row in self.rows() if row["status"] in ENDED}

    def running(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["status"] == "running"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory(prefix="lvshared") as shared,
        network(["head", *WORKERS, "laptop", "store"], {"store": [Path(shared)]}) as hosts,
    ):
        world, store = World(hosts, Path(shared), secrets.token_hex(32)), hosts["store"]
        store.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/key")
        serve_ssh(store, store.read("key.pub"))
        world.mount(world.laptop)
        for name in ("head", *WORKERS):
            world.start_ray(name)
        world.give_token(world.laptop)
        world.wait_for_nodes(4)
        yield world


def test_every_machine_is_checked(world):
    checked = world.lagvae("cluster", "check", "--results", str(world.results))
    assert checked.returncode == 0, checked.stderr
    assert [line.split()[:2] for line in checked.stdout.splitlines()] == [
        ["ok", world.hosts[name].address] for name in ("head", *WORKERS)
    ]


def test_a_folder_that_is_not_shared_is_detected(world):
    checked = world.lagvae("cluster", "check", "--results", "/tmp/results")
    assert checked.returncode == 2
    assert checked.stdout.count("FAIL") == 4
    assert checked.stdout.count(" /tmp/results: ") == 4


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary", "/api/v0/actors"])
@pytest.mark.parametrize(("header", "code"), [(None, "401"), ("0" * 64, "403")])
def test_requests_without_the_token_are_refused(world, path, header, code):
    options = ["-H", f"Authorization: Bearer {header}"] if header else []
    answer = world.laptop.run("curl", "-s", "-w", "\n%{http_code}", *options, world.url + path)
    assert answer.stdout.splitlines()[-1] == code


def test_the_token_is_not_sent_over_plain_http_without_permission(world):
    refused = world.laptop.lagvae("list", "--address", world.url)
    assert refused.returncode == 2
    assert "--insecure" in refused.stderr


def test_losing_machines_costs_no_run_and_repeats_none(world):
    """Lose a worker, the network of another worker, the store, the driver and the head, one after the other."""
    trial = TRIAL | {"data": TINY_DATA | {"examples": 1000}, "training": {"epochs": 40, "decay_patience": 1000}}
    arms = {"vae": ["paced"], "beta": ["beta_vae", "paced"]}
    search = {"sampler": "random", "configurations": 7, "seeds": 3, "seed": 0}
    plugin = world.laptop.write("paced.py", PACED)
    spec = world.laptop.write("long.yaml", sweep(name="long", trial=trial, arms=arms, search=search, plugins=[plugin]))
    arguments, total = (spec, "--results", str(world.results), "--no-check"), 3 + 7 * 3
    final: dict[str, dict[str, Any]] = {}
    started = time.monotonic()

    def submit(attempt: int) -> None:
        ended = world.lagvae("submit", *arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        submission = json.loads(ended.stdout)
        assert (submission["status"], submission["attempt"]) == ("submitted", attempt)

    def report(event: str) -> None:
        """Print `event`, and check that rows that were final before have not changed."""
        now = world.ended()
        assert {run: now.get(run) for run in final} == final, event
        final.update(now)
        hosts = sorted({row["host"] for row in world.running() if row["host"]})
        print(
            f"{time.monotonic() - started:5.0f} s: {len(now)} of {total} ended, running on {hosts}; {event}", flush=True
        )

    submit(1)
    until(
        lambda: len(world.ended()) >= 1 and {r["host"] for r in world.running()} == set(WORKERS), "all workers are busy"
    )

    report("w1 loses its power")
    world.hosts["w1"].power_off()
    until(lambda: any(row["attempt"] > 1 for row in world.rows()), "a run of w1 resumes on another worker")

    report("w2 loses the network")
    world.hosts["w2"].cut()
    time.sleep(60)
    report("w2 has the network again")
    world.hosts["w2"].mend()
    world.hosts["w1"].boot()
    world.start_ray("w1")
    world.wait_for_nodes(4)
    until(lambda: {r["host"] for r in world.running()} >= {"w1", "w2"}, "both are busy again")

    report("the store loses the network")
    world.hosts["store"].cut()
    time.sleep(30)
    report("the store has the network again")
    world.hosts["store"].mend()
    count = len(world.ended())
    until(lambda: len(world.ended()) > count, "a run finishes")
    assert [job["attempt"] for job in json.loads(world.lagvae("list", "--json").stdout)] == [1], (
        "the driver was replaced"
    )
    refused = world.laptop.lagvae("run", spec, "--results", str(world.results))
    assert refused.returncode == 2, "a second driver was started"
    assert "Another driver on head" in refused.stderr

    report("the driver is killed")
    drivers = [pid for pid, line in world.head.processes().items() if "-m sweeps run" in line and "bash" not in line]
    assert drivers
    world.head.run("kill", "-9", *map(str, drivers))
    followed = world.lagvae("logs", "long", "-f")
    assert followed.returncode == 1
    submit(2)
    count = len(world.ended())
    until(lambda: len(world.ended()) > count, "the second attempt finishes a run")

    report("the head loses its power")
    world.head.power_off()
    time.sleep(5)
    world.head.boot()
    world.start_ray("head")
    world.wait_for_nodes(4)
    assert world.lagvae("list").stdout.count("long") == 0, "the jobs must be lost with the head"
    report("the sweep is submitted again")
    for name in WORKERS:
        world.hosts[name].write("hurry", "")
    submit(1)
    followed = world.lagvae("logs", "long", "-f", seconds=1500)
    report("the end")
    assert followed.returncode == 0, followed.stdout + followed.stderr

    table = world.rows()
    assert {row["status"] for row in table} == {"finished"}
    assert len({row["run_id"] for row in table}) == len(table) == total
    assert {row["host"] for row in table} == set(WORKERS)
    assert max(row["attempt"] for row in table) > 1
    assert list(world.results.glob("long/checkpoints/*")) == []
    assert not list(world.shared.rglob("pwned*"))
    lost = max(table, key=lambda row: row["attempt"])
    repeat = ("trial", "--from", lost["run_id"], "--results", str(world.results), "--trust", "--json")
    again = world.laptop.lagvae(*repeat)
    assert again.returncode == 0, again.stderr
    metrics = json.loads(again.stdout)["metrics"]
    for name in ("nll_iw", "nll_elbo", "kl", "mi"):
        assert metrics[name] == lost[name], (
            "a run that moved between machines has other numbers than a run that did not"
        )
