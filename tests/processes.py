"""Commands that run in separate processes, so that a test can kill them. None of their processes outlives the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

__all__ = [
    "MARK",
    "Ended",
    "Listener",
    "descendants",
    "kill_all",
    "lagvae",
    "listeners",
    "private_home",
    "survivors",
    "watched_listeners",
]

MARK = "LAGVAE_TEST_PROCESS"
"""Environment variable that identifies the processes of one command, including Ray's daemons, which inherit it."""

TIMEOUT = 240
"""Timeout of a command [s]. The slowest takes about 30 s on two busy cores."""

MAIN = "\nimport sys\nsys.argv[0] = 'lagvae'\nfrom sweeps.cli.app import main\nmain()\n"


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def descendants(mark: str) -> set[int]:
    """Return the ids of the living processes that carry `mark`."""
    pids = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and state != "Z":
            pids.add(int(folder.name))
    return pids


@dataclass(frozen=True)
class Listener:
    """A socket on which a process accepts connections, and the interface that it is bound to."""

    process: str
    address: IPv4Address | IPv6Address

    @property
    def loopback(self) -> bool:
        """Whether only processes of this machine can connect."""
        address = self.address
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return address.ipv4_mapped.is_loopback
        return address.is_loopback


def listeners(mark: str) -> set[Listener]:
    """Return the listening TCP sockets of the living processes that carry `mark`."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                words = bytes.fromhex(fields[1].partition(":")[0])  # 32-bit words in the byte order of the machine
                order = 1 if sys.byteorder == "big" else -1
                swapped = b"".join(words[i : i + 4][::order] for i in range(0, len(words), 4))
                addresses[f"socket:[{fields[9]}]"] = ip_address(swapped)
    found = set()
    for pid in descendants(mark):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            targets = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found |= {Listener(name, addresses[target]) for target in targets if target in addresses}
    return found


@contextmanager
def watched_listeners(mark: str) -> Iterator[set[Listener]]:
    """Context manager. Yields a set that receives each listening socket of the processes that carry `mark`."""
    found: set[Listener] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            found.update(listeners(mark))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def survivors(mark: str, patience: float = 100.0) -> list[str]:
    """Wait up to `patience` seconds until no process carries `mark`; return the command lines of those that do.

    An agent of Ray whose driver was killed may try to reach the rest of its cluster for a while before it ends.
    """
    deadline = time.monotonic() + patience
    while (left := descendants(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    commands = []
    for pid in left:
        try:
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return commands


def kill_all(mark: str) -> None:
    """Kill every process that carries `mark`."""
    for pid in descendants(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def private_home() -> Iterator[dict[str, str]]:
    """Context manager that yields an environment with a new home folder, which is also Ray's folder.

    At the end, all processes with this environment are killed and the folder is removed. Its path is short, because
    paths of sockets must be short.
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
    """Run `lagvae ARGUMENTS` in a separate process group.

    Args:
        arguments: Arguments of the command.
        cwd: Working directory.
        before: Python code that runs in the process first.
        home: Environment from `private_home`; a new one by default.
    """
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
