"""The processes of an embedded Ray: separated from the signals of this process, watched, and removed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lagvae_core.errors import LagvaeError

__all__ = ["RayLost", "RayProcesses"]

MARK = "LAGVAE_DRIVER"
"""Environment variable that identifies the processes of one embedded Ray. They inherit it from this process."""

ESSENTIAL = ("gcs_server", "raylet")
"""Processes without which an embedded Ray does not work, as Ray calls them."""

ON_LINUX = sys.platform.startswith("linux")


class RayLost(LagvaeError):
    """A process of the embedded Ray ended unexpectedly. Running the command again resumes the sweep."""

    exit_code = 1


class RayProcesses:
    """Context manager around `connect` for an embedded Ray.

    On Linux, each daemon of Ray gets a process group of its own. Otherwise, a signal to the group of this process, as
    `timeout` and a closed terminal send it, would end Ray before running runs can save their checkpoints. All processes
    that are left at the end of the block are killed. On other systems, Ray's own reaper does this, and it needs the
    common group.
    """

    def __init__(self) -> None:
        self._mark = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._killed = False

    def __enter__(self) -> RayProcesses:
        os.environ[MARK] = self._mark
        _own_groups(True)
        return self

    def __exit__(self, *error: object) -> None:
        _own_groups(False)
        os.environ.pop(MARK, None)
        self.kill()

    def failure(self) -> RayLost | None:
        """Return an error if an essential process of Ray has ended."""
        from ray._private import worker

        node: Any = worker._global_node
        if node is None:
            return None
        for name, process in node.dead_processes():
            if name in ESSENTIAL:
                return RayLost(
                    f"Ray's process {name} ended unexpectedly ({_how(process.returncode)}). "
                    "Check memory and disk space. Running the command again resumes the sweep."
                )
        return None

    def kill(self) -> None:
        """Kill all processes of Ray that are left."""
        for pid in self._left():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> Iterator[int]:
        if not ON_LINUX:
            return
        entry = f"{MARK}={self._mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(folder.name) != os.getpid() and entry in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


_in_own_group = False


def _own_groups(active: bool) -> None:
    """Set whether children get process groups of their own, if they are started as Ray starts its daemons."""
    global _in_own_group
    _in_own_group = active


def _after_fork() -> None:
    if _in_own_group:
        os.setpgid(0, 0)


if ON_LINUX:
    # Ray starts its daemons with a `preexec_fn`. Python calls this function in the children before that one.
    os.register_at_fork(after_in_child=_after_fork)
