"""Start an embedded Ray or join a cluster, quietly and with authentication on."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ConnectionFailed", "connect"]

OBJECT_STORE_BYTES = 200 * 2**20
"""Trials exchange only small records, so that an embedded Ray needs little shared memory."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class ConnectionFailed(Exception):
    """The cluster cannot be reached; the message says what to do."""


@contextmanager
def connect(address: str | None = None, cpus: int | None = None, log_folder: Path | None = None) -> Iterator[Any]:
    """The `ray` module, connected; on leaving, disconnected, and shut down if it was started here.

    Without `address` an embedded Ray is started on this machine with `cpus` cores (all by default): token
    authentication with a token of its own that only this user can read, no dashboard, no usage statistics, no logs on
    the terminal. `address` joins a running cluster: `auto`, or HOST:PORT; its token comes from RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token.

    Raises:
        ConnectionFailed: no cluster answers at `address`.
    """
    private = Path(tempfile.mkdtemp(prefix="lagvae-"))
    environment = dict(QUIET)
    if address is None:
        token = private / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.pop("RAY_ADDRESS", None)
    elif "RAY_AUTH_MODE" not in os.environ and _token_is_at_hand():
        environment["RAY_AUTH_MODE"] = "token"
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield _start(address, cpus)
    finally:
        import ray

        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(private, ignore_errors=True)


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
        raise ConnectionFailed(
            f"A Ray cluster must answer at {address}, but {type(error).__name__}: {str(error).splitlines()[0]} "
            "Start one with `ray start --head`, or leave --address out to run on this machine."
        ) from None
    return ray
