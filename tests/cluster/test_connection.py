"""Starting and joining Ray. Ray reads its environment when it is imported, so each case runs in a separate process."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import MARK, kill_all, private_home, survivors

from cluster.connection import ConnectionFailed, _check_loopback, check_address, connect

SET_BY_RAY = {"PYTHONBREAKPOINT", "RAY_CLIENT_MODE"}
"""Variables that ray.init sets and does not remove."""

TIMEOUT = 180
"""Timeout of a start of Ray [s]. It takes about 10 s on two busy cores."""

EMBEDDED = r"""
import json, os, socket, sys
from pathlib import Path
from cluster.connection import connect

before = dict(os.environ)
seen = {}
with connect(cpus=2) as ray:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    seen["mode"] = os.environ["RAY_AUTH_MODE"]
    seen["overriding"] = [os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_ADDRESS")]
    seen["modes"] = [oct(token.stat().st_mode & 0o777), oct(token.parent.stat().st_mode & 0o777)]
    seen["token"] = token.read_text()
    seen["cpus"] = ray.cluster_resources()["CPU"]
    seen["answer"] = ray.get(ray.remote(lambda: 6 * 7).remote())
    seen["address"] = ray.get_runtime_context().gcs_address
    with socket.socket() as probe:
        seen["dashboard"] = probe.connect_ex(("127.0.0.1", 8265)) == 0 and os.environ["DASHBOARD_BEFORE"] == "0"
    client = "import ray; ray.init(address=%r, log_to_driver=False); print('inside')" % seen["address"]
    import subprocess
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    try:
        ended = subprocess.run([sys.executable, "-c", client], env=plain, capture_output=True, text=True, timeout=12)
        seen["client"] = ended.stdout
    except subprocess.TimeoutExpired as error:
        seen["client"] = (error.stdout or b"").decode()
seen["gone"] = not token.exists() and not token.parent.exists()
after = dict(os.environ)
seen["changed"] = {n: [before.get(n), after.get(n)] for n in before.keys() | after if before.get(n) != after.get(n)}
seen["initialized"] = ray.is_initialized()
with connect(cpus=1) as ray:
    seen["again"] = ray.get(ray.remote(lambda: 6 * 7).remote())
    try:
        with connect(cpus=1):
            pass
    except Exception as error:
        seen["nested"] = type(error).__name__
    seen["still"] = ray.is_initialized()
def fail(**options):
    logs = Path(options["_temp_dir"], "session_latest", "logs")
    logs.mkdir(parents=True)
    (logs / "gcs_server.err").write_text("[2026-11-29 14:16:31,544 C 21 21] Out of ports.\nA stack")
    raise RuntimeError("Failed to start GCS.\nLast 0 lines")
ray.init = fail
try:
    with connect(cpus=1):
        pass
except Exception as error:
    seen["failed"] = [type(error).__name__, str(error)]
seen["left"] = os.listdir(os.environ["TMPDIR"])
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""

SLOW_FIRST_AGENT = """
import os, sys, time
if any(argument.endswith("dashboard/agent.py") for argument in sys.orig_argv):
    try:
        os.mkdir(os.environ["FIRST_AGENT"])
    except FileExistsError:
        pass
    else:
        time.sleep(40)
"""

ANSWER = """
from cluster.connection import connect
with connect(cpus=1) as ray:
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""

JOIN = """
import json, sys
from cluster.connection import connect
with connect(sys.argv[1]) as ray:
    seen = {"answer": ray.get(ray.remote(lambda: 6 * 7).remote()), "address": ray.get_runtime_context().gcs_address}
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""


@dataclass(frozen=True)
class PrivateHome:
    """A private home folder, which is also Ray's folder, and the environment of processes there."""

    folder: Path
    environment: dict[str, str]

    def python(self, code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            start_new_session=True,
        )

    def seen(self) -> dict[str, Any]:
        return json.loads((self.folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def home() -> Iterator[PrivateHome]:
    with private_home() as environment:
        yield PrivateHome(Path(environment["HOME"]), environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Embedded:
    """What the program EMBEDDED has seen, how it ended, and the processes that it left."""

    seen: dict[str, Any]
    ended: subprocess.CompletedProcess[str]
    left: list[str]


@pytest.fixture(scope="module")
def embedded(home) -> Embedded:
    """Start an embedded Ray in an environment whose variables name another cluster."""
    with socket.socket() as probe:
        in_use = probe.connect_ex(("127.0.0.1", 8265)) == 0
    variables = {
        "RAY_ADDRESS": "127.0.0.1:1",
        "RAY_AUTH_TOKEN": "of another cluster",
        "RAY_USE_TLS": "1",
        "DASHBOARD_BEFORE": str(int(in_use)),
    }
    ended = home.python(EMBEDDED, **variables)
    assert ended.returncode == 0, ended.stderr
    return Embedded(home.seen(), ended, survivors(home.environment[MARK]))


class TestEmbedded:
    def test_has_the_requested_cores(self, embedded):
        assert embedded.seen["answer"] == 42
        assert embedded.seen["cpus"] == 2

    def test_prints_nothing(self, embedded):
        assert embedded.ended.stdout == ""
        assert embedded.ended.stderr == ""

    def test_requires_a_new_token(self, embedded):
        assert embedded.seen["mode"] == "token"
        assert len(embedded.seen["token"]) >= 32
        assert embedded.seen["overriding"] == [None, None]

    def test_only_this_user_can_read_the_token(self, embedded):
        assert embedded.seen["modes"] == ["0o600", "0o700"]

    def test_a_client_without_the_token_cannot_join(self, embedded):
        assert "inside" not in embedded.seen["client"]

    def test_no_dashboard_listens(self, embedded):
        assert not embedded.seen["dashboard"]

    def test_restores_the_environment(self, embedded):
        assert embedded.seen["gone"]
        assert embedded.seen["changed"].keys() <= SET_BY_RAY
        assert not embedded.seen["initialized"]

    def test_starts_again_in_the_same_process(self, embedded):
        assert embedded.seen["again"] == 42

    def test_a_connected_process_cannot_connect_and_stays_connected(self, embedded):
        assert embedded.seen["nested"] == "ConnectionFailed"
        assert embedded.seen["still"]

    def test_a_start_that_fails_is_one_line(self, embedded):
        kind, message = embedded.seen["failed"]
        assert kind == "ConnectionFailed"
        assert "gcs_server: Out of ports. " in message
        assert "\n" not in message

    def test_no_file_is_left(self, embedded):
        assert "seen.json" not in embedded.seen["left"]
        assert [name for name in embedded.seen["left"] if name == "ray" or name.startswith("lagvae")] == []

    def test_no_process_is_left(self, embedded):
        assert embedded.left == []

    def test_no_token_is_left_in_the_home(self, embedded, home):
        assert not (home.folder / ".ray" / "auth_token").exists()


@pytest.mark.slow
def test_starts_although_the_first_agent_of_ray_is_slow(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_FIRST_AGENT)
    with private_home() as environment:
        home = PrivateHome(Path(environment["HOME"]), environment)
        ended = home.python(ANSWER, PYTHONPATH=str(tmp_path), FIRST_AGENT=str(tmp_path / "first"))
        assert (ended.returncode, ended.stdout) == (0, "42\n"), ended.stderr
        assert (tmp_path / "first").exists()
        assert survivors(environment[MARK]) == []


@dataclass(frozen=True)
class Head:
    address: str
    token: Path


@pytest.fixture(scope="module")
def head(embedded, home) -> Iterator[Head]:
    """Run `ray start --head` on the loopback interface, with token authentication."""
    token = home.folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    address = f"127.0.0.1:{free_port()}"
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--node-ip-address=127.0.0.1"]
    options = [f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", "--num-cpus=2"]
    quiet = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        subprocess.run(
            [*map(str, command), *options, "--object-store-memory=100000000", "--disable-usage-stats"],
            env=home.environment | quiet,
            cwd=home.folder,
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
            start_new_session=True,
        )
        yield Head(address, token)
    finally:
        kill_all(home.environment[MARK])


class TestJoining:
    @pytest.mark.parametrize("where", ["variable", "home"])
    def test_with_the_token(self, head, home, where):
        variables = {}
        if where == "variable":
            variables = {"RAY_AUTH_TOKEN_PATH": str(head.token)}
        else:
            (home.folder / ".ray").mkdir()
            (home.folder / ".ray" / "auth_token").write_text(head.token.read_text())
        ended = home.python(JOIN, head.address, **variables)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""
        assert home.seen()["answer"] == 42
        assert home.seen()["address"].rpartition(":")[2] == head.address.rpartition(":")[2]

    def test_the_cluster_keeps_running(self, head):
        check_address(head.address)

    def test_a_wrong_token_is_an_error(self, head, home):
        wrong = home.folder / "wrong"
        wrong.write_text(secrets.token_hex(32))
        ended = home.python(JOIN, head.address, RAY_AUTH_TOKEN_PATH=str(wrong))
        assert ended.returncode == 1
        assert "cluster.connection.ConnectionFailed" in ended.stderr


class TestThisMachine:
    """An embedded Ray on an unusual machine."""

    def test_without_a_loopback_interface(self, monkeypatch):
        def refuse(*arguments, **options):
            raise OSError(101, "Network is unreachable")

        monkeypatch.setattr("cluster.connection.socket.create_connection", refuse)
        with pytest.raises(ConnectionFailed, match="Network is unreachable"):
            _check_loopback()


class TestNoCluster:
    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1:{}", "nonsense", "ray://127.0.0.1:10001", "http://x:1", ":6379", "host:", "h:x", "local", ""],
    )
    def test_the_error_is_one_line_with_the_address_and_a_hint(self, address):
        address = address.format(free_port())
        before = dict(os.environ)
        with pytest.raises(ConnectionFailed) as caught, connect(address):
            pass
        assert address in str(caught.value)
        assert "ray start --head" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert dict(os.environ) == before

    def test_an_impossible_port(self):
        with pytest.raises(ConnectionFailed):
            check_address("127.0.0.1:99999999")

    @pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n"])
    def test_a_server_of_another_protocol(self, greeting):
        """Ray itself would retry for minutes."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                line, _ = server.accept()
                with line:
                    line.recv(1000)
                    line.sendall(greeting)

            thread = threading.Thread(target=answer)
            thread.start()
            address = f"127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(ConnectionFailed, match=address):
                check_address(address)
            thread.join()

    def test_auto_is_not_checked(self):
        check_address("auto")
