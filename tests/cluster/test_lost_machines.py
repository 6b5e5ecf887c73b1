"""A sweep on a cluster of several machines, each of which is lost in turn while it runs.

Results lie on a machine that serves them over the network (SSHFS), so that who loses the network loses them, too. Locks
there hold on one machine alone.
"""

from __future__ import annotations

import functools
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from heads import TRIAL, sweep
from heads import until as soon
from helpers import TINY_DATA
from hosts import HOME, Host, network, serve_ssh, why_no_namespaces

from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

until = functools.partial(soon, seconds=240)

WHY_NOT = why_no_namespaces("sshd", "ssh-keygen", "sshfs", "fusermount3")

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

WORKERS = ("w1", "w2", "w3")
RESULTS = "results $(touch pwned); `touch pwned` ü"
"""A folder's name that no shell may read."""

FOREVER = 'while true; do ray start "$@" --block; sleep 1; done'
"""What a machine's supervisor does: it starts Ray again whenever it ends."""

SSHFS = (
    "reconnect,ServerAliveInterval=5,ServerAliveCountMax=2,"
    f"IdentityFile={HOME}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
)

SIZE = ("--object-store-memory=80000000", "--disable-usage-stats")


@dataclass
class World:
    """A head without cores, three workers of two, a laptop, and a store whose folder `shared` all of them mount."""

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
        """Mount the store's folder, where the store has it."""
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
        own = [f"--node-ip-address={host.address}", *SIZE]
        if name == "head":
            options = ["--head", "--port=6379", f"--dashboard-host={host.address}", "--num-cpus=0", *own]
        else:
            options = [f"--address={self.head.address}:6379", "--num-cpus=2", *own]
        more = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "LAGVAE_CACHE": f"{HOME}/cache"}
        host.start("bash", "-c", FOREVER, "supervisor", *options, log="ray.log", **more)

    def wait_for_nodes(self, count: int, seconds: int = 180) -> None:
        head = self.head
        given = ("cluster", "wait", f"{head.address}:6379", "--nodes", str(count), "--seconds", str(seconds))
        deadline = time.monotonic() + seconds
        while (ended := head.lagvae(*given, RAY_AUTH_MODE="token")).returncode:
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


def test_every_machine_answers_for_itself(world):
    checked = world.lagvae("cluster", "check", "--results", str(world.results))
    assert checked.returncode == 0, checked.stderr
    assert [line.split()[:2] for line in checked.stdout.splitlines()] == [
        ["ok", world.hosts[name].address] for name in ("head", *WORKERS)
    ]


def test_a_folder_that_each_machine_has_for_itself_is_found_out(world):
    checked = world.lagvae("cluster", "check", "--results", "/tmp/results")
    assert checked.returncode == 2
    assert checked.stdout.count("FAIL") == 4
    assert checked.stdout.count("are not seen here. Mount shared storage there") == 4


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/version", "/nodes?view=summary", "/api/v0/actors"])
@pytest.mark.parametrize(("header", "code"), [(None, "401"), ("0" * 64, "403")])
def test_a_stranger_on_the_network_gets_nothing(world, path, header, code):
    given = ["-H", f"Authorization: Bearer {header}"] if header else []
    asked = world.laptop.run("curl", "-s", "-w", "\n%{http_code}", *given, world.url + path)
    assert asked.stdout.splitlines()[-1] == code


def test_a_token_does_not_travel_in_the_clear_unasked(world):
    refused = world.laptop.lagvae("list", "--address", world.url)
    assert refused.returncode == 2
    assert "must not travel in the clear" in refused.stderr


def test_what_is_lost_in_turn_costs_no_run_and_repeats_none(world):
    """One long story: a worker, the network of another, the driver, the head."""
    trial = TRIAL | {"data": TINY_DATA | {"examples": 1000}, "training": {"epochs": 150, "decay_patience": 1000}}
    search = {"sampler": "random", "configurations": 8, "seeds": 3, "seed": 0}
    spec = world.laptop.write("long.yaml", sweep(name="long", trial=trial, search=search))
    to, whole = (spec, "--results", str(world.results), "--no-check"), 3 + 8 * 3
    final: dict[str, dict[str, Any]] = {}
    began = time.monotonic()

    def submitted(attempt: int) -> None:
        ended = world.lagvae("submit", *to, "--json")
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert (told["status"], told["attempt"]) == ("submitted", attempt)

    def tell(what: str) -> None:
        """What happens; and whatever was final before must still be as it was."""
        now = world.ended()
        assert {run: now.get(run) for run in final} == final, what
        final.update(now)
        hosts = sorted({row["host"] for row in world.running() if row["host"]})
        print(f"{time.monotonic() - began:5.0f} s: {len(now)} of {whole} ended, running on {hosts}; {what}", flush=True)

    submitted(1)
    until(lambda: len(world.ended()) >= 1 and {r["host"] for r in world.running()} == set(WORKERS), "all work")

    tell("w1 loses its power")
    world.hosts["w1"].power_off()
    until(lambda: any(row["attempt"] > 1 for row in world.rows()), "a run of w1 goes on elsewhere")

    tell("w2 loses the network")
    world.hosts["w2"].cut()
    time.sleep(60)
    tell("w2 has the network again")
    world.hosts["w2"].mend()
    world.hosts["w1"].boot()
    world.start_ray("w1")
    world.wait_for_nodes(4)
    until(lambda: {r["host"] for r in world.running()} >= {"w1", "w2"}, "both work again")

    tell("the store loses the network")
    world.hosts["store"].cut()
    time.sleep(30)
    tell("the store has the network again")
    world.hosts["store"].mend()
    count = len(world.ended())
    until(lambda: len(world.ended()) > count, "the sweep gets on")
    assert [job["attempt"] for job in json.loads(world.lagvae("list", "--json").stdout)] == [1], "by the same driver"
    refused = world.laptop.lagvae("run", spec, "--results", str(world.results))
    assert refused.returncode == 2, "no second driver, on whatever machine"
    assert "Another driver on head is running the sweep" in refused.stderr

    tell("the driver is killed")
    drivers = [pid for pid, line in world.head.processes().items() if "-m sweeps run" in line and "bash" not in line]
    assert drivers
    world.head.run("kill", "-9", *map(str, drivers))
    followed = world.lagvae("logs", "long", "-f")
    assert followed.returncode == 1
    submitted(2)
    count = len(world.ended())
    until(lambda: len(world.ended()) > count, "the second attempt gets on")

    tell("the head loses its power")
    world.head.power_off()
    time.sleep(5)
    world.head.boot()
    world.start_ray("head")
    world.wait_for_nodes(4)
    assert world.lagvae("list").stdout.count("long") == 0, "the jobs went with the head"
    tell("the sweep is submitted again")
    submitted(1)
    followed = world.lagvae("logs", "long", "-f", seconds=500)
    tell("the end")
    assert followed.returncode == 0, followed.stdout + followed.stderr

    table = world.rows()
    assert {row["status"] for row in table} == {"finished"}
    assert len({row["run_id"] for row in table}) == len(table) == whole
    assert {row["host"] for row in table} == set(WORKERS)
    assert max(row["attempt"] for row in table) > 1
    assert list(world.results.glob("long/checkpoints/*")) == []
    assert not list(world.shared.rglob("pwned*"))
    lost = max(table, key=lambda row: row["attempt"])
    again = world.laptop.lagvae("trial", "--from", lost["run_id"], "--results", str(world.results), "--json")
    assert again.returncode == 0, again.stderr
    metrics = json.loads(again.stdout)["metrics"]
    for name in ("nll_iw", "nll_elbo", "kl", "mi"):
        assert metrics[name] == lost[name], (
            "a run that moved from machine to machine has the numbers of one that did not"
        )
