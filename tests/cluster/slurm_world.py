"""A real Slurm on this machine: a controller and two nodes, each in network, host name and /mnt of its own.

Nothing outside `folder` and the nodes' namespaces is touched: munge and Slurm run with sockets, logs and state of their
own. It needs root, because Linux gives namespaces with a bridge between them to root alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOCAL", "Slurm", "slurm", "why_not"]

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "ip", "nsenter", "unshare")

LOCAL = "/mnt"
"""A folder that each node has to itself."""

CONFIGURATION = """
ClusterName=lagvae-test
SlurmctldHost={host}(10.77.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
NodeName=n1 NodeAddr=10.77.0.2 NodeHostname=n1 CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeAddr=10.77.0.3 NodeHostname=n2 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there can be no Slurm here; empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "namespaces with a bridge between them need root"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def _path() -> str:
    """Daemons are installed where the PATH of users does not reach."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Slurm:
    """A running Slurm, and the folder that its nodes share."""

    folder: Path
    environment: dict[str, str]
    daemons: tuple[int, ...]

    def private_files(self) -> list[Path]:
        """What lies in the folder that each node has to itself."""
        return [file for pid in self.daemons for file in Path(f"/proc/{pid}/root{LOCAL}").iterdir()]

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: Path, *options: str) -> int:
        return int(self.call("sbatch", "--parsable", *options, str(script)))

    def job(self, number: int) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: int, *states: str, seconds: float) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while (seen := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, f"{seen}\n{self.log(number)}"
            time.sleep(0.5)
        return seen

    def log(self, number: int) -> str:
        """What the job wrote, and the last words of Slurm's daemons."""
        job, logs = self.folder / f"lagvae-{number}.log", sorted(self.folder.glob("slurm*.log"))
        daemons = [f"{file.name}:\n" + "\n".join(file.read_text().splitlines()[-20:]) for file in logs]
        return "\n".join([job.read_text() if job.exists() else "", *daemons])


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A Slurm with two nodes of two cores; it and all that it started are gone afterwards."""
    host = os.uname().nodename
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "state").mkdir()
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": _path()}
    with ExitStack() as stack:
        stack.enter_context(_network())
        _munge(stack, folder, environment)
        _daemon(stack, folder, environment, "slurmctld", "-D")
        daemons = []
        for node in ("n1", "n2"):
            start = f"hostname {node}; mount -t tmpfs tmpfs {LOCAL}; exec slurmd -D -N {node}"
            inside = ["nsenter", f"--net=/run/netns/lagvae-{node}", "unshare", "--mount", "--uts"]
            daemons.append(_daemon(stack, folder, environment, *inside, "bash", "-c", start))
        world = Slurm(folder, environment, tuple(daemons))
        deadline = time.monotonic() + 60
        while world.call("sinfo", "--noheader", "--states=idle", "--format=%D").strip() != "2":
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.5)
        try:
            yield world
        finally:
            world.call("scancel", "--user=root")
            time.sleep(2)


@contextmanager
def _network() -> Iterator[None]:
    """A bridge on this machine, 10.77.0.1, and two namespaces at it, 10.77.0.2 and 10.77.0.3."""

    def ip(command: str, *, check: bool = True) -> None:
        subprocess.run(["ip", *command.split()], check=check, capture_output=True)

    try:
        ip("link add lagvae-br type bridge")
        ip("address add 10.77.0.1/24 dev lagvae-br")
        ip("link set lagvae-br up")
        for number, node in enumerate(("n1", "n2"), start=2):
            ip(f"netns add lagvae-{node}")
            ip(f"link add lagvae-{node} type veth peer name eth0 netns lagvae-{node}")
            ip(f"link set lagvae-{node} master lagvae-br up")
            ip(f"-n lagvae-{node} address add 10.77.0.{number}/24 dev eth0")
            ip(f"-n lagvae-{node} link set eth0 up")
            ip(f"-n lagvae-{node} link set lo up")
            ip(f"-n lagvae-{node} route add default via 10.77.0.1")
        yield
    finally:
        for node in ("n1", "n2"):
            ip(f"netns del lagvae-{node}", check=False)
        ip("link del lagvae-br", check=False)


def _munge(stack: ExitStack, folder: Path, environment: dict[str, str]) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    names = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    options = [f"--{option}={folder / name}" for option, name in names.items()]
    _daemon(stack, folder, environment, "munged", "--foreground", "--force", f"--key-file={key}", *options)
    deadline = time.monotonic() + 20
    while not (folder / "munge.socket").exists():
        assert time.monotonic() < deadline, "munge does not start"
        time.sleep(0.1)


def _daemon(stack: ExitStack, folder: Path, environment: dict[str, str], *command: str) -> int:
    log = stack.enter_context((folder / "daemons.log").open("a"))
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process.pid
