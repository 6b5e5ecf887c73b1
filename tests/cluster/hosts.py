"""Simulated machines that share only a network: each runs in separate namespaces, connected by one switch.

A machine has a separate network, host name, /tmp, /dev/shm and home folder, and separate processes. It shares with the
real machine the programs, the code, and the folders that are declared as shared. When it is switched off, everything
except the shared folders is lost at once, as in a power cut. On Linux only root can create such namespaces with a
switch between them.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["HOME", "PATH", "REPOSITORY", "Host", "network", "serve_ssh", "why_no_namespaces"]

REPOSITORY = Path(__file__).parents[2]

HOME = pwd.getpwuid(os.getuid()).pw_dir
"""Home folder of the only user of each machine. It is empty when the machine is switched on."""

COVERED = ("/tmp", "/run", "/dev/shm", HOME)
"""Folders that each machine does not share."""

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
"""Search path of programs, with the folders for administrators, which the PATH of users may lack."""

PROGRAMS = ("ip", "nsenter", "unshare", "mount")

BOOT = r"""
set -eu
hostname "$1"
covered=$2
shift 2
mount -t tmpfs tmpfs /mnt
number=0
for folder in "$@"; do
    number=$((number + 1))
    mkdir "/mnt/$number"
    mount --rbind "$folder" "/mnt/$number"
done
for folder in $covered; do
    mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
chmod 700 "$HOME"
number=0
for folder in "$@"; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --rbind "/mnt/$number" "$folder"
done
echo up
while :; do sleep 3600 & wait $!; done
"""
"""The first process of a machine. It mounts an empty folder over each covered one, keeping the needed folders visible.
Then it reaps orphaned processes."""


SSHD = """
Port 22
HostKey {home}/hostkey
AuthorizedKeysFile {home}/.ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


def why_no_namespaces(*programs: str) -> str:
    """Return the reason why such machines with these programs are impossible here; "" if they are possible."""
    missing = [name for name in (*PROGRAMS, *programs) if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (see .ci/run for their packages)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    commands = (
        ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "true"],
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "bridge"],
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "veth", "peer", "name", "eborp"],
    )
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": PATH})
        if result.returncode:
            return f"namespaces are not available here: {result.stderr.strip()}"
    return ""


def _ip(command: str, *, check: bool = True) -> None:
    subprocess.run(["ip", *command.split()], check=check, capture_output=True, env=os.environ | {"PATH": PATH})


@dataclass
class Host:
    """One machine. It is off until `boot`."""

    name: str
    address: str
    network: str
    switch: str
    port: str
    shared: Sequence[Path]
    environment: dict[str, str] = field(default_factory=dict)
    _power: subprocess.Popen[str] | None = None
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def boot(self) -> None:
        """Switch it on. Its folders that are not shared are empty."""
        assert self._power is None
        arguments = [" ".join(COVERED), *_needed(), *map(str, self.shared)]
        unshare = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self._power = subprocess.Popen(
            ["ip", "netns", "exec", self.network, *unshare, "bash", "-c", BOOT, "boot", self.name, *arguments],
            env={"PATH": PATH, "HOME": HOME},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._power.stdout is not None
        assert self._power.stdout.readline() == "up\n", f"{self.name} did not start"

    def power_off(self) -> None:
        """Kill all its processes at once."""
        if self._power is not None:
            self._power.kill()
            # The first process of the namespace held the other end of the pipe, and all others died with it.
            self._power.communicate()
            self._power = None
        while self._started:
            self._started.pop().wait()

    def cut(self) -> None:
        """Disconnect it from the switch."""
        _ip(f"-n {self.switch} link set {self.port} down")

    def mend(self) -> None:
        """Connect it to the switch again."""
        _ip(f"-n {self.switch} link set {self.port} up")

    def _inside(self, command: Sequence[str]) -> list[str]:
        assert self._power is not None, f"{self.name} is off"
        first = Path(f"/proc/{self._power.pid}/task/{self._power.pid}/children").read_text().split()[0]
        home = ["bash", "-c", 'cd "$HOME" && exec "$@"', "inside"]
        return ["nsenter", f"--target={first}", "--all", "--", *home, *command]

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        common = {"HOME": HOME, "PATH": PATH, "LANG": "C.UTF-8", "COLUMNS": "200", "TMPDIR": "/tmp"}
        return common | self.environment | dict(more)

    def start(self, *command: str, log: str, **more: str) -> None:
        """Start a process that runs until the machine is switched off. Its output goes to the file `log` in HOME."""
        line = 'log=$1; shift; exec "$@" > "$log" 2>&1 < /dev/null'
        inside = self._inside(["bash", "-c", line, "start", log, *command])
        self._started.append(subprocess.Popen(inside, env=self._variables(more), start_new_session=True))

    def run(self, *command: str, seconds: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command and wait for its end."""
        return subprocess.run(
            self._inside(command),
            env=self._variables(more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def lagvae(self, *arguments: str, seconds: float = 240, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `lagvae ARGUMENTS` with the code of this checkout."""
        command = [sys.executable, "-m", "sweeps", *arguments]
        return self.run(*command, seconds=seconds, PYTHONPATH=str(REPOSITORY), **more)

    def write(self, name: str, content: str, mode: str = "600") -> str:
        """Write a file in its home folder and return its path."""
        path = f"{HOME}/{name}"
        line = 'umask 077; mkdir -p "$(dirname "$1")"; cat > "$1"; chmod "$2" "$1"'
        subprocess.run(
            self._inside(["bash", "-c", line, "write", path, mode]),
            env=self._variables({}),
            input=content,
            text=True,
            check=True,
        )
        return path

    def read(self, name: str) -> str:
        """Return the content of a file in its home folder."""
        return self.run("cat", f"{HOME}/{name}").stdout

    def processes(self) -> dict[int, str]:
        """Return the command lines of its processes, by their ids there."""
        listed = self.run("ps", "-eo", "pid=,args=", "ww").stdout.splitlines()
        return {int(line.split(None, 1)[0]): line.split(None, 1)[1] for line in listed if len(line.split(None, 1)) == 2}


def serve_ssh(host: Host, public_key: str) -> None:
    """Start an SSH server that accepts the private key of `public_key`, and wait until it answers."""
    host.write(".ssh/authorized_keys", public_key)
    host.write("sshd_config", SSHD.format(home=HOME))
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{HOME}/hostkey")
    host.run("mkdir", "-p", "/run/sshd")
    host.start("/usr/sbin/sshd", "-D", "-e", "-f", f"{HOME}/sshd_config", log="sshd.log")
    deadline = time.monotonic() + 60
    while not host.run("ssh-keyscan", "-T", "5", host.address).stdout:
        assert time.monotonic() < deadline, f"no SSH server on {host.name}: {host.read('sshd.log')}"
        time.sleep(0.2)


def _needed() -> list[str]:
    """Return the folders of programs and code that lie below a covered folder."""
    places = {str(REPOSITORY), sys.prefix, sys.base_prefix}
    return sorted(place for place in places if place.startswith(tuple(f"{folder}/" for folder in COVERED)))


@contextmanager
def network(names: Sequence[str], shared: Mapping[str, Sequence[Path]]) -> Iterator[dict[str, Host]]:
    """Context manager. Yields running machines, which are removed at the end.

    Args:
        names: Their names. Their addresses are 10.78.0.1, .2, and so on.
        shared: Folders of the real machine that each of them shares; none by default.
    """
    mark = f"lv{os.getpid()}{secrets.token_hex(2)}"
    hosts: dict[str, Host] = {}
    with ExitStack() as stack:
        switch = f"{mark}-switch"
        _netns(stack, switch)
        _ip(f"-n {switch} link add switch type bridge")
        _ip(f"-n {switch} link set switch up")
        for number, name in enumerate(names, start=1):
            namespace, address = f"{mark}-{name}", f"10.78.0.{number}"
            _netns(stack, namespace)
            _ip(f"-n {switch} link add port{number} type veth peer name eth0 netns {namespace}")
            _ip(f"-n {switch} link set port{number} master switch up")
            _ip(f"-n {namespace} address add {address}/24 dev eth0")
            _ip(f"-n {namespace} link set eth0 up")
            _ip(f"-n {namespace} link set lo up")
            # Ray determines its address from the default route.
            _ip(f"-n {namespace} route add default dev eth0")
            hosts[name] = Host(name, address, namespace, switch, f"port{number}", shared.get(name, ()))
            stack.callback(hosts[name].power_off)
            hosts[name].boot()
        yield hosts


def _netns(stack: ExitStack, name: str) -> None:
    _ip(f"netns add {name}")
    stack.callback(_ip, f"netns del {name}", check=False)
