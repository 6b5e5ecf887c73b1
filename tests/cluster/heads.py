"""A real head node with token authentication, and the `lagvae` command against it."""

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
"""Seconds after which a start hangs; it takes about 10 on two busy cores."""

PATIENCE = 180
"""Seconds after which something that must happen is said not to."""


@dataclass(frozen=True)
class Head:
    """A head node of this machine: its dashboard, the file of its token and the mark of its processes."""

    url: str
    token: Path
    mark: str

    @property
    def secret(self) -> str:
        return self.token.read_text()

    def cluster(self) -> Cluster:
        return Cluster.open(self.url)

    def ask(self, path: str, secret: str | None, method: str = "GET") -> tuple[int, str]:
        """Status and text that the dashboard answers to someone with this token, or none."""
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
        """The living processes of the head and its jobs, with their argv."""
        found = {}
        for pid in descendants(self.mark):
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return found

    def drivers(self) -> list[int]:
        """The processes that run a sweep as the entrypoint of a job."""
        return [pid for pid, argv in self.commands().items() if b"-m\0sweeps\0run\0" in argv]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_head(**variables: str) -> Iterator[Head]:
    """`ray start --head` on the loopback; the environment of this process is that of a client who has its token."""
    with private_home() as environment, pytest.MonkeyPatch.context() as patch:
        home = Path(environment["HOME"])
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        url = f"http://127.0.0.1:{free_port()}"
        ports = [
            f"--{name}={free_port()}" for name in ("port", "dashboard-agent-listen-port", "ray-client-server-port")
        ]
        where = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={url.split(':')[2]}"]
        size = ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats"]
        programs = Path(sys.executable).parent
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        settings |= {"PATH": f"{programs}:{environment['PATH']}", "LAGVAE_CACHE": str(home / "cache")}
        # A job brings its code along.
        environment.pop("PYTHONPATH", None)
        try:
            subprocess.run(
                [str(programs / "ray"), "start", "--head", *ports, *where, *size],
                env=environment | settings | variables,
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
    """`lagvae ARGUMENTS` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    typed = mock.patch.object(sys, "argv", ["lagvae", *arguments])
    with typed, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
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
    """The text of a sweep of eight short runs, with `changes` at its top level."""
    search = {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0}
    values = {"name": "tiny", "trial": TRIAL, "arms": {"vae": [], "beta": ["beta_vae"]}, "search": search}
    return yaml.safe_dump(values | changes, sort_keys=False)


def spec_of(**changes: Any) -> SweepSpec:
    return parse_spec(sweep(**changes))


def until(happens: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"in {seconds:g} s it did not happen that {what}"
        time.sleep(0.1)
