"""The rendered file for machines behind SSH, used by `ray up` on simulated machines with real SSH servers."""

from __future__ import annotations

import secrets
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from heads import sweep, until
from hosts import HOME, REPOSITORY, Host, network, serve_ssh, why_no_namespaces

from cluster.launch.validators import RAY_VERSION
from cluster.render import render
from sweeps.storage.table import ResultsFolder

WHY_NOT = why_no_namespaces("ssh", "rsync", "sshd")

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

MACHINES = ("head", "w1", "laptop")

INSTALL_RAY = r"""
set -eu
mkdir -p ~/site ~/.lagvae
for entry in "$2"/*; do
    case ${entry##*/} in *lagvae*) ;; *) ln -s "$entry" ~/site/ ;; esac
done
"$1" -m venv --without-pip ~/.lagvae/venv
echo ~/site > "$(~/.lagvae/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/site.pth"
printf '#!%s\nfrom ray.scripts.scripts import main\nmain()\n' ~/.lagvae/venv/bin/python > ~/.lagvae/venv/bin/ray
chmod +x ~/.lagvae/venv/bin/ray
"""
"""Create an environment with all packages except lagvae, because the machines cannot reach a package index."""


@dataclass
class World:
    """The machines, the folder that they share, and the wheel in it."""

    hosts: dict[str, Host]
    shared: Path
    wheel: Path

    @property
    def laptop(self) -> Host:
        return self.hosts["laptop"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Start two machines with SSH servers, and a laptop with the key, the token and a wheel."""
    with (
        tempfile.TemporaryDirectory(prefix="lvshared") as shared,
        network(MACHINES, dict.fromkeys(MACHINES, (Path(shared),))) as hosts,
    ):
        wheels = Path(shared) / "wheels"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels)]
        subprocess.run([*pip, str(REPOSITORY)], check=True, timeout=300)
        laptop = hosts["laptop"]
        laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/cluster_key")
        for name in ("head", "w1"):
            host = hosts[name]
            installed = host.run(
                "bash", "-c", INSTALL_RAY, "install_ray", sys.executable, sysconfig.get_path("purelib")
            )
            assert installed.returncode == 0, installed.stderr
            serve_ssh(host, laptop.read("cluster_key.pub"))
        laptop.write(".lagvae/ray_token", secrets.token_hex(32))
        [wheel] = wheels.iterdir()
        yield World(hosts, Path(shared), wheel)


def runs_ray(host: Host) -> bool:
    """Return whether a process of Ray runs on the machine."""
    return any("raylet" in line or "gcs_server" in line for line in host.processes().values())


def test_a_cluster_starts_runs_a_sweep_and_stops(world):
    head, worker, laptop = world.hosts["head"], world.hosts["w1"], world.laptop
    values = {
        "head_ip": head.address,
        "worker_ips": [worker.address],
        "ssh_user": "root",
        "ssh_private_key": f"{HOME}/cluster_key",
        "wheel": str(world.wheel),
        "object_store": "100Mi",
    }
    file = laptop.write("cluster.yaml", render("ray-up", values))
    ray = str(Path(sys.executable).with_name("ray"))
    up = laptop.run(ray, "up", "--yes", "--no-config-cache", file, seconds=300)
    assert up.returncode == 0, up.stdout + up.stderr
    installed = head.run(f"{HOME}/.lagvae/venv/bin/python", "-m", "pip", "list", "--path", f"{HOME}/.lagvae/venv/lib")
    assert RAY_VERSION in head.run(f"{HOME}/.lagvae/venv/bin/ray", "--version").stdout, installed.stdout

    tunnel = ["ssh", "-N", "-i", f"{HOME}/cluster_key", "-o", "StrictHostKeyChecking=no"]
    laptop.start(*tunnel, "-L", "8265:127.0.0.1:8265", f"root@{head.address}", log="tunnel.log")
    token = {"RAY_AUTH_TOKEN_PATH": f"{HOME}/.lagvae/ray_token"}
    address = ("--address", "http://127.0.0.1:8265")
    results = str(world.shared / "results")
    deadline = time.monotonic() + 120
    while (checked := laptop.lagvae("cluster", "check", *address, "--results", results, **token)).stdout.count(
        "ok "
    ) < 2:
        if time.monotonic() > deadline:
            log = head.run("bash", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor.*").stdout
            pytest.fail(f"{checked.stdout}{checked.stderr}{laptop.read('tunnel.log')}{log}")
        time.sleep(2)

    search = {"sampler": "random", "configurations": 1, "seeds": 1}
    spec = laptop.write("tiny.yaml", sweep(search=search))
    submitted = laptop.lagvae("submit", spec, *address, "--results", results, "--no-check", **token)
    assert submitted.returncode == 0, submitted.stderr
    followed = laptop.lagvae("logs", "tiny", "-f", *address, **token)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    rows = ResultsFolder(results, "tiny").runs()
    assert [row["status"] for row in rows] == ["finished"] * 2
    assert {row["host"] for row in rows} == {"w1"}, "the head has no cores for runs"

    modes = head.run("stat", "-c", "%a", f"{HOME}/.lagvae/ray_token", f"{HOME}/.lagvae").stdout.split()
    assert modes == ["600", "700"]
    secret = laptop.read(".lagvae/ray_token")
    for host in (head, worker):
        assert secret not in "".join(host.processes().values())

    # The command is that in the header of the file. The worker ends when its head has gone.
    down = laptop.run(ray, "exec", file, f"{HOME}/.lagvae/venv/bin/ray stop", seconds=180)
    assert down.returncode == 0, down.stdout + down.stderr
    for host in (head, worker):
        until(lambda host=host: not runs_ray(host), f"no Ray runs on {host.name}")
