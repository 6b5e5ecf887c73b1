"""A real Slurm on simulated machines: a controller and two nodes, which share one folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heads import until
from hosts import Host, network, why_no_namespaces

__all__ = ["LOCAL", "Slurm", "slurm", "why_not"]

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")

NODES = ("n1", "n2")

LOCAL = "/run/scratch"
"""Folder that the nodes do not share."""

SOCKET = "/run/munge.socket"

CONFIGURATION = """
ClusterName=lagvae-test
SlurmctldHost=controller({controller})
AuthType=auth/munge
AuthInfo=socket={socket}
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/run/state
SlurmdSpoolDir=/run/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
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
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return the reason why Slurm cannot run here; "" if it can."""
    return why_no_namespaces(*PROGRAMS)


@dataclass(frozen=True)
class Slurm:
    """A running Slurm, its machines, and the folder that they share."""

    folder: Path
    hosts: dict[str, Host]

    def private_files(self) -> str:
        """Return the names of the files in the local folders of the nodes."""
        listed = [self.hosts[node].run("ls", "-A", LOCAL) for node in NODES]
        assert not any(command.returncode for command in listed), listed
        return "".join(command.stdout for command in listed)

    def call(self, *command: str) -> str:
        """Run a command on the controller and return its output."""
        result = self.hosts["controller"].run(*command)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def submit(self, script: Path) -> int:
        """Submit a batch script and return the number of the job."""
        return int(self.call("sbatch", "--parsable", f"--chdir={self.folder}", str(script)))

    def is_idle(self) -> bool:
        """Return whether all nodes wait for jobs."""
        idle = self.hosts["controller"].run("sinfo", "--noheader", "--states=idle", "--format=%D")
        return idle.stdout.strip() == str(len(NODES))

    def job(self, number: int) -> dict[str, str]:
        """Return the fields of a job in Slurm: JobState, ExitCode, Restarts, ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: int, *states: str, seconds: float) -> dict[str, str]:
        """Wait until the job is in one of `states`, and return its fields."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, f"{job}\n{self.log(number)}"
            time.sleep(0.5)
        return job

    def log(self, number: int) -> str:
        """Return the output of the job and the last lines of the logs of Slurm's daemons."""
        job, logs = self.folder / f"lagvae-{number}.log", sorted(self.folder.glob("slurm*.log"))
        daemons = [f"{file.name}:\n" + "\n".join(file.read_text().splitlines()[-20:]) for file in logs]
        return "\n".join([job.read_text() if job.exists() else "", *daemons])


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Context manager. Yields a Slurm with two nodes of two cores; all its processes are killed at the end."""
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    with network(machines := ("controller", *NODES), dict.fromkeys(machines, (folder,))) as hosts:
        nodes = "\n".join(
            f"NodeName={node} NodeAddr={hosts[node].address} CPUs=2 RealMemory=4000 State=UNKNOWN" for node in NODES
        )
        address = hosts["controller"].address
        configuration.write_text(CONFIGURATION.format(folder=folder, socket=SOCKET, controller=address, nodes=nodes))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for host in hosts.values():
            host.environment["SLURM_CONF"] = str(configuration)
            host.run("mkdir", LOCAL, "/run/state", "/run/spool")
            files = {"socket": SOCKET, "pid-file": "/run/munge.pid", "log-file": "/run/munge.log"}
            options = [
                f"--{option}={file}" for option, file in ({"key-file": key, "seed-file": "/run/seed"} | files).items()
            ]
            host.start("munged", "--foreground", "--force", *options, log="munged")
            until(lambda host=host: host.run("test", "-S", SOCKET).returncode == 0, f"munge runs on {host.name}")
        hosts["controller"].start("slurmctld", "-D", log="slurmctld")
        for node in NODES:
            hosts[node].start("slurmd", "-D", "-N", node, log="slurmd")
        world = Slurm(folder, hosts)
        until(world.is_idle, "both nodes wait for jobs")
        yield world
