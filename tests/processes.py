"""Commands in processes of their own, so that a test may kill them; nothing of theirs outlives the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MARK", "Ended", "descendants", "kill_all", "lagvae", "private_home", "survivors"]

MARK = "LAGVAE_TEST_PROCESS"
"""A variable that only the processes of one command carry; Ray's daemons inherit it."""

TIMEOUT = 240
"""Seconds after which a command hangs; the slowest takes about 30 on two busy cores."""

MAIN = "\nimport sys\nsys.argv[0] = 'lagvae'\nfrom sweeps.cli.app import main\nmain()\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def descendants(mark: str) -> set[int]:
    """The living processes that carry `mark`."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and state != "Z":
            found.add(int(folder.name))
    return found


def survivors(mark: str, patience: float = 30.0) -> list[str]:
    """The commands of the processes that still carry `mark` when all should have ended; waits for them to do so."""
    deadline = time.monotonic() + patience
    while (left := descendants(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = []
    for pid in left:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def kill_all(mark: str) -> None:
    """Kill every process that carries `mark`."""
    for pid in descendants(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def private_home() -> Iterator[dict[str, str]]:
    """An environment whose home and Ray folder are new, and are gone afterwards with every process that has it.

    The folder is short, as the path of a socket must be.
    """
    mark, folder = uuid.uuid4().hex, tempfile.mkdtemp(prefix="lv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LAGVAE_RESULTS"))}
    environment |= {MARK: mark, "COLUMNS": "200", **dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), folder)}
    try:
        yield environment
    finally:
        kill_all(mark)
        shutil.rmtree(folder, ignore_errors=True)


def lagvae(*arguments: str, cwd: Path, before: str = "", home: Mapping[str, str] | None = None) -> Ended:
    """`lagvae ARGUMENTS` in a process group of its own; `before` is Python that runs in it first."""
    command = [sys.executable, "-c", before + MAIN] if before else [str(Path(sys.executable).with_name("lagvae"))]
    if home is None:
        with private_home() as fresh:
            return lagvae(*arguments, cwd=cwd, before=before, home=fresh)
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=cwd,
        env=dict(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, stdout, stderr)
