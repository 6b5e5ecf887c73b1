"""A real head node with token authentication, and the command `lagvae` for it."""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from helpers import TINY_DATA
from processes import MARK, Ended, descendants, kill_all, private_home

from cluster.jobs import Cluster
from sweeps.cli import app as cli
from sweeps.spec.sweep import SweepSpec, parse_spec

START_SECONDS = 180
"""Timeout of a start of Ray [s]. It takes about 10 s on two busy cores."""

PATIENCE = 600
"""Timeout of `until` [s]. It is long because tests may run side by side."""


@dataclass(frozen=True)
class Head:
    """A head node on this machine.

    Args:
        url: URL of its dashboard.
        token: File with its token.
        mark: Identifies its processes.
    """

    url: str
    token: Path
    mark: str

    @property
    def secret(self) -> str:
        return self.token.read_text()

    def cluster(self) -> Cluster:
        return Cluster.open(self.url)

    def ask(self, path: str, secret: str | None, method: str = "GET") -> tuple[int, str]:
        """Send a request with the token `secret`, or none. Return status and text of the answer."""
        headers = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
        data = b"{}" if method in ("POST", "PUT") else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def commands(self) -> dict[int, bytes]:
        """Return the command lines of the processes of the head and its jobs, by process id."""
        commands = {}
        for pid in descendants(self.mark):
            with contextlib.suppress(OSError):
                commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return commands

    def drivers(self) -> list[int]:
        """Return the ids of the processes that run a sweep as the entrypoint of a job."""
        return [pid for pid, argv in self.commands().items() if b"-m\0sweeps\0run\0" in argv]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_head(**variables: str) -> Iterator[Head]:
    """Context manager. Runs `ray start --head` on the loopback interface.

    Meanwhile the environment of this process is that of a client with the token. `variables` are added to the
    environment of the head.
    """
    with private_home() as environment, pytest.MonkeyPatch.context() as patch:
        home = Path(environment["HOME"])
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        url = f"http://127.0.0.1:{free_port()}"
        ports = [
            f"--{name}={free_port()}" for name in ("port", "dashboard-agent-listen-port", "ray-client-server-port")
        ]
        addresses = [
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={url.split(':')[2]}",
        ]
        size = ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats"]
        programs = Path(sys.executable).parent
        ray_variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        ray_variables |= {"PATH": f"{programs}:{environment['PATH']}", "LAGVAE_CACHE": str(home / "cache")}
        # The code of a job is uploaded with it.
        environment.pop("PYTHONPATH", None)
        try:
            subprocess.run(
                [str(programs / "ray"), "start", "--head", *ports, *addresses, *size],
                env=environment | ray_variables | variables,
                cwd=home,
                check=True,
                capture_output=True,
                timeout=START_SECONDS,
                start_new_session=True,
            )
            patch.setenv("HOME", str(home))
            patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
            for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "LAGVAE_RESULTS"):
                patch.delenv(name, raising=False)
            yield Head(url, token, environment[MARK])
        finally:
            kill_all(environment[MARK])


def lagvae(*arguments: str) -> Ended:
    """Run `lagvae ARGUMENTS` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments_patch = mock.patch.object(sys, "argv", ["lagvae", *arguments])
    with arguments_patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


TRIAL: dict[str, Any] = {
    "data": TINY_DATA,
    "model": {"hidden": 8, "embedding": 8, "latent_dim": 2},
    "training": {"epochs": 2},
    "evaluation": {"iw_samples": 10},
}


def sweep(**changes: Any) -> str:
    """Return the text of a sweep file with eight short runs, with `changes` of its top-level keys."""
    search = {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0}
    values = {"name": "tiny", "trial": TRIAL, "arms": {"vae": [], "beta": ["beta_vae"]}, "search": search}
    return yaml.safe_dump(values | changes, sort_keys=False)


def spec_of(**changes: Any) -> SweepSpec:
    """Return the sweep of `sweep`, parsed."""
    return parse_spec(sweep(**changes))


def until(condition: Callable[[], object], description: str, seconds: float = PATIENCE) -> None:
    """Wait until `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {description}"
        time.sleep(0.1)
