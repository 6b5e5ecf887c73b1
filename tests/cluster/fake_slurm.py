"""Fakes of srun, ray, lagvae, scontrol, hostname and module. Each call appends a record to a file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FakeSlurm", "free_job"]

COMMON = """#!{python}
import json, os, signal, socket, subprocess, sys, threading, time
from pathlib import Path

def record(**more):
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(token) if token else None
    call = dict(name=Path(sys.argv[0]).name, argv=sys.argv[1:], environment=dict(os.environ), **more)
    if file and file.exists():
        call |= dict(token=file.read_text(), mode=oct(file.stat().st_mode & 0o777),
                     folder_mode=oct(file.parent.stat().st_mode & 0o777))
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(json.dumps(call) + "\\n")
"""

PROGRAMS = {
    "srun": """
record()
count = int(next(a for a in sys.argv if a.startswith("--ntasks=")).partition("=")[2])
command = sys.argv[sys.argv.index("bash"):]
tasks = [subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"SLURM_PROCID": str(number)})
         for number in range(count)]

def end_with_the_tasks():
    codes = [task.wait() for task in tasks]
    os._exit(max(codes))

threading.Thread(target=end_with_the_tasks).start()
while text := os.read(0, 4096):
    for task in tasks:
        task.stdin.write(text)
        task.stdin.flush()
for task in tasks:
    task.stdin.close()
""",
    "ray": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
options = dict(a.split("=", 1) for a in sys.argv[2:] if "=" in a)
record(started=sorted(os.listdir(options["--temp-dir"])))
if os.environ.get("RAY_FAILS"):
    print("the reason")
    sys.exit(7)
if "--head" in sys.argv:
    listening = socket.create_server(("127.0.0.1", int(options["--port"])))
while True:
    time.sleep(60)
""",
    "lagvae": """
if sys.argv[1:3] == ["cluster", "wait"]:
    deadline = time.monotonic() + 60
    expected = int(sys.argv[3].partition("=")[2])
    while time.monotonic() < deadline:
        lines = Path(os.environ["CALLS"]).read_text().splitlines()
        if sum(json.loads(line)["name"] == "ray" for line in lines) >= expected:
            break
        time.sleep(0.05)
    if os.environ.get("RAY_FAILS"):
        time.sleep(60)
record()
if sys.argv[1] == "run" and os.environ.get("HANGS"):
    try:
        Path(os.environ["CALLS"] + ".running").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        record(interrupted=True)
        sys.exit(130)
sys.exit(int(os.environ.get("CODE", 0)) if sys.argv[1] == "run" else 0)
""",
    "scontrol": "record()\n",
    "hostname": "print('127.0.0.1 ::1' if sys.argv[1:] == ['-I'] else 'fake')\n",
    "module": "record()\n",
}


def free_job() -> int:
    """Return a job number for which the ports of the batch script are free on this machine."""
    for number in range(os.getpid() % 5000, 6000):
        try:
            for port in (20000 + 2 * number, 20001 + 2 * number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return number
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class FakeSlurm:
    """A folder with the fake programs in `bin`, a home in `work`, and the records of their calls in `calls`."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        (self.folder / "work").mkdir()
        for name, body in PROGRAMS.items():
            file = self.folder / "bin" / name
            file.write_text(COMMON.replace("{python}", sys.executable) + body)
            file.chmod(0o755)

    @property
    def running(self) -> Path:
        """File that exists as soon as `lagvae run` waits to be interrupted."""
        return self.folder / "calls.running"

    def start(self, script: str, **variables: str) -> subprocess.Popen[str]:
        """Start the batch script as Slurm does on the first node."""
        file = self.folder / "job.sh"
        file.write_text(script)
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder / "work"),
            "CALLS": str(self.folder / "calls"),
            "SLURM_JOB_ID": str(free_job()),
            "LC_ALL": "C.UTF-8",
            **variables,
        }
        (self.folder / "calls").touch()
        return subprocess.Popen(
            ["bash", str(file)],
            cwd=self.folder / "work",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self, name: str) -> list[dict[str, Any]]:
        """Return the records of the calls of one program."""
        return [call for call in self._all() if call["name"] == name]

    def _all(self) -> Iterator[dict[str, Any]]:
        for line in (self.folder / "calls").read_text().splitlines():
            yield json.loads(line)
