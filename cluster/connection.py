"""Connecting to Ray: either an embedded Ray on this machine or a running cluster, with authentication."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lagvae_core.errors import LagvaeError

__all__ = ["ConnectionFailed", "check_address", "connect"]

OBJECT_STORE_BYTES = 200 * 2**20
"""Size of the object store of an embedded Ray. It is small because runs exchange only small records."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


CONNECT_SECONDS = 5.0
"""Timeout for connecting to the port of a cluster [s]. Ray itself would retry a closed port for minutes."""

EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""An empty HTTP/2 SETTINGS frame (type 4), which client and server both send first."""

HINT = "Start a cluster with `ray start --head`, or omit --address to run on this machine."


class ConnectionFailed(LagvaeError):
    """No Ray cluster can be reached at an address. The message includes a hint."""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """Context manager. Connects to Ray for the duration of the block, and shuts an embedded Ray down afterwards.

    Args:
        address: Running cluster to join: `auto` or HOST:PORT. Its token comes from RAY_AUTH_TOKEN_PATH or
            ~/.ray/auth_token. None starts an embedded Ray on this machine, with a new token that only this user
            can read. It has no dashboard, collects no usage statistics and prints no logs.
        cpus: Number of cores of the embedded Ray; all by default.

    Yields:
        The module `ray`, connected to the cluster.

    Raises:
        ConnectionFailed: No cluster answers at `address`.
    """
    if address is not None:
        check_address(address)
    private = Path(tempfile.mkdtemp(prefix="lagvae-"))
    environment: dict[str, str | None] = dict(QUIET)
    if address is None:
        token = private / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        # RAY_AUTH_TOKEN would take precedence over the token file, and RAY_ADDRESS over the embedded Ray.
        environment |= {"RAY_AUTH_TOKEN": None, "RAY_ADDRESS": None}
    elif "RAY_AUTH_MODE" not in os.environ and _token_exists():
        environment["RAY_AUTH_MODE"] = "token"
    before = {name: os.environ.get(name) for name in environment}
    _set(environment)
    try:
        yield _start(address, cpus)
    finally:
        import ray

        ray.shutdown()
        _set(before)
        shutil.rmtree(private, ignore_errors=True)


def _set(environment: Mapping[str, str | None]) -> None:
    """Set environment variables; remove those whose value is None."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


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
    return (Path.home() / ".ray" / "auth_token").exists()


def _start(address: str | None, cpus: int | None) -> Any:
    # The authentication mode is read when ray is imported, so ray must not be imported earlier.
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
        return ray
    try:
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0].rstrip('.')}"
        raise ConnectionFailed(f"Cannot join the Ray cluster at {address}: {reason}. {HINT}") from None
    return ray
