"""Start an embedded Ray or join a cluster, quietly and with authentication on."""

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
"""Trials exchange only small records, so that an embedded Ray needs little shared memory."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


CONNECT_SECONDS = 5.0
"""How long a cluster's port may take to answer; Ray itself would ask a dead one for minutes."""

EMPTY_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The frame of HTTP/2 that either end sends first: its length, type 4, flags, and stream."""

REMEDY = "Start one with `ray start --head`, or leave --address out to run on this machine."


class ConnectionFailed(LagvaeError):
    """The cluster cannot be reached; the message says what to do."""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """The `ray` module, connected; on leaving, disconnected, and shut down if it was started here.

    Without `address` an embedded Ray is started on this machine with `cpus` cores (all by default): token
    authentication with a token of its own that only this user can read, no dashboard, no usage statistics, no logs on
    the terminal. `address` joins a running cluster: `auto`, or HOST:PORT; its token comes from RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token.

    Raises:
        ConnectionFailed: no cluster answers at `address`.
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
        # Either would go before what is set here.
        environment |= {"RAY_AUTH_TOKEN": None, "RAY_ADDRESS": None}
    elif "RAY_AUTH_MODE" not in os.environ and _token_is_at_hand():
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
    """Put these variables into the environment; None takes one out."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def check_address(address: str) -> None:
    """Ask whether a Ray cluster may answer at `address`, in seconds.

    Raises:
        ConnectionFailed: nothing does, or something else, or it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConnectionFailed(f"--address must be `auto` or HOST:PORT, but is {address!r}. {REMEDY}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as line:
            if os.environ.get("RAY_USE_TLS") != "1" and not _speaks_http2(line):
                raise ConnectionFailed(f"A Ray cluster must answer at {address}, but something else does. {REMEDY}")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionFailed(
            f"A Ray cluster must answer at {address}, but nothing does ({reason}). {REMEDY}"
        ) from None


def _speaks_http2(line: socket.socket) -> bool:
    """Whether the other end is a server of gRPC, as Ray's is; Ray itself would ask any other for minutes."""
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)
    with line.makefile("rb") as answer:
        frame = answer.read(len(EMPTY_SETTINGS))
    return frame[3:4] == EMPTY_SETTINGS[3:4]


def _token_is_at_hand() -> bool:
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
        raise ConnectionFailed(f"A Ray cluster must answer at {address}, but {reason}. {REMEDY}") from None
    return ray
