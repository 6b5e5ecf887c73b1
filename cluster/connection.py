"""Connecting to Ray: either an embedded Ray on this machine or a running cluster, with authentication."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.scratch import RAY_FOLDER, scratch_folder
from lagvae_core.errors import LagvaeError

__all__ = ["ConnectionFailed", "check_address", "connect"]

OBJECT_STORE_BYTES = 200 * 2**20
"""Size of the object store of an embedded Ray. It is small because runs exchange only small records."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

EMBEDDED = {
    "RAY_AUTH_MODE": "token",
    # These would take precedence over the token file and over the embedded Ray, or need certificates.
    "RAY_AUTH_TOKEN": None,
    "RAY_ADDRESS": None,
    "RAY_REDIS_ADDRESS": None,
    "RAY_USE_TLS": None,
    "RAY_enable_metrics_collection": "0",
    "RAY_gcs_server_port_wait_time_s": "20",
}
"""Environment variables of an embedded Ray: authentication, no other cluster, no server of metrics."""

COMMON = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
"""Arguments of each call of `ray.init`."""

AGENT_TIMEOUT = "Timed out waiting for file"
"""What the raylet logs when its agent has not started within 15 s, which Ray does not let users change."""

CONNECT_SECONDS = 5.0
"""Timeout for connecting to the port of a cluster [s]. Ray itself would retry a closed port for minutes."""

EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""An empty HTTP/2 SETTINGS frame (type 4), which client and server both send first."""

HINT = "Start a cluster with `ray start --head`, or omit --address to run on this machine."


class ConnectionFailed(LagvaeError):
    """Ray cannot be started on this machine, or no cluster can be reached at an address."""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None, scratch: Path | None = None) -> Iterator[Any]:
    """Context manager. Connects to Ray for the duration of the block, and shuts an embedded Ray down afterwards.

    Args:
        address: Running cluster to join: `auto` or HOST:PORT. Its token comes from RAY_AUTH_TOKEN_PATH or
            ~/.ray/auth_token. None starts an embedded Ray on this machine, with a new token that only this user
            can read. All its sockets listen on the loopback interface. It has no dashboard, collects no statistics
            and prints no logs.
        cpus: Number of cores of the embedded Ray; all by default.
        scratch: Folder for the token and the files of the embedded Ray, from `scratch_folder`; a new one by default.

    Yields:
        The module `ray`, connected to the cluster.

    Raises:
        ConnectionFailed: No cluster answers at `address`, the embedded Ray does not start, or this process is already
            connected to a cluster.
        ConfigError: There is no folder for the files of an embedded Ray.
    """
    if address is not None:
        check_address(address)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise ConnectionFailed("This process is already connected to Ray. Call ray.shutdown() first.")
    with ExitStack() as stack:
        environment: dict[str, str | None] = dict(QUIET)
        if address is None:
            scratch = scratch or stack.enter_context(scratch_folder())
            environment |= EMBEDDED | {"RAY_AUTH_TOKEN_PATH": str(_new_token(scratch))}
        elif "RAY_AUTH_MODE" not in os.environ and _token_exists():
            environment["RAY_AUTH_MODE"] = "token"
        if scratch is not None and os.path.expanduser("~") == "~":
            environment["HOME"] = str(scratch)  # this user has no home, and Ray needs one
        before = {name: os.environ.get(name) for name in environment}
        _set(environment)
        stack.callback(_set, before)
        # The authentication mode is read when ray is imported, so it must not be imported earlier.
        import ray

        stack.callback(ray.shutdown, wait_for_processes=True)
        logging.getLogger("ray").setLevel(logging.ERROR)
        if address is None:
            assert scratch is not None
            _start(cpus, scratch)
        else:
            _join(address)
        yield ray


def _new_token(scratch: Path) -> Path:
    token = scratch / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return token


def _set(environment: Mapping[str, str | None]) -> None:
    """Set environment variables; remove those whose value is None. Ray reads them again if it is already imported."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "ray" in sys.modules:
        from ray import _raylet

        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def check_address(address: str) -> None:
    """Check within seconds that the server at `address` could be a Ray cluster.

    Raises:
        ConnectionFailed: Nothing answers, the server does not speak gRPC, or the address is malformed.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConnectionFailed(f"--address must be `auto` or HOST:PORT, got {address!r}. {HINT}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as line:
            if os.environ.get("RAY_USE_TLS") != "1" and not _speaks_http2(line):
                raise ConnectionFailed(f"The server at {address} is not a Ray cluster. {HINT}")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionFailed(f"No Ray cluster answers at {address} ({reason}). {HINT}") from None


def _speaks_http2(line: socket.socket) -> bool:
    """Return whether the server speaks HTTP/2, as gRPC requires. Ray would retry any other server for minutes."""
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)
    with line.makefile("rb") as answer:
        frame = answer.read(len(EMPTY_SETTINGS))
    return frame[3:4] == EMPTY_SETTINGS[3:4]


def _token_exists() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return os.path.exists(os.path.expanduser("~/.ray/auth_token"))


def _start(cpus: int | None, scratch: Path) -> None:
    """Start an embedded Ray whose sockets listen on the loopback interface.

    Raises:
        ConnectionFailed: Ray does not start.
    """
    import ray
    from ray._private import ray_constants

    _check_loopback()
    # Ray uses the loopback interface on macOS and Windows, where it does not support clusters, and has no public option
    # for it elsewhere: it replaces _node_ip_address="127.0.0.1" by the address of another interface.
    supports_clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    arguments: dict[str, Any] = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": str(scratch / RAY_FOLDER),
        **COMMON,
    }
    try:
        try:
            ray.init(**arguments)
        except Exception:
            if AGENT_TIMEOUT not in _logged_error(scratch):
                raise
            # On a busy machine or a slow shared file system, the first imports take longer; the second ones are cached.
            ray.init(**arguments)
    except Exception as error:
        hint = "Check the limits on memory, processes and open files (ulimit -a)."
        reason = _logged_error(scratch) or _reason(error)
        raise ConnectionFailed(f"Ray cannot start on this machine: {reason}. {hint}") from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = supports_clusters
    listens_at = ray.nodes()[0]["NodeManagerAddress"]
    assert ipaddress.ip_address(listens_at).is_loopback, f"the embedded Ray listens at {listens_at}"


def _logged_error(scratch: Path) -> str:
    """Return the first line that a server of an embedded Ray has written on its stderr; "" if there is none."""
    for server in ("gcs_server", "raylet"):
        with suppress(OSError):
            log = scratch / RAY_FOLDER / "session_latest" / "logs" / f"{server}.err"
            if first := log.read_text(errors="replace").partition("\n")[0]:
                return f"{server}: {first.rpartition('] ')[2].strip().rstrip('.')}"
    return ""


def _check_loopback() -> None:
    """Check that a server on the loopback interface can be reached. Ray itself would retry for half a minute."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=CONNECT_SECONDS),
        ):
            pass
    except OSError as error:
        reason = f"no connection to 127.0.0.1 is possible ({error.strerror or error})"
        hint = "Check the loopback interface and the firewall. As root, `ip link set lo up` starts the interface."
        raise ConnectionFailed(f"Ray cannot start on this machine: {reason}. {hint}") from None


def _join(address: str) -> None:
    """Join the cluster at `address`.

    Raises:
        ConnectionFailed: No cluster can be joined there.
    """
    import ray

    try:
        ray.init(address=address, **COMMON)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionFailed(f"Cannot join the Ray cluster at {address}: {_reason(error)}. {HINT}") from None


def _reason(error: Exception) -> str:
    """Return the name of an exception and the first line of its message."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first.rstrip('.')}"
