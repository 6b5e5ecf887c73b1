"""The cores and the memory that a process may use, read from invented control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lagvae_core.machine import available_cores, memory_bytes


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 64 cores, of which the process is bound to 16."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V1 = "12:memory:/docker/0a\n5:cpu,cpuacct:/docker/0a\n1:name=systemd:/docker/0a\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        # The group itself, and a group above it.
        ("0::/kubepods/pod1/c1\n", {"kubepods/pod1/c1/cpu.max": "400000 100000\n"}, 4),
        (
            "0::/user.slice/a.scope\n",
            {"user.slice/cpu.max": "300000 100000\n", "user.slice/a.scope/cpu.max": "max 100000\n"},
            3,
        ),
        # A path of the host, of which the container sees only the root.
        ("0::/../../docker/0a\n", {"cpu.max": "500000 100000\n"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        (V1, {"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (
            V1 + "0::/docker/0a\n",
            {"cpu/docker/0a/cpu.cfs_quota_us": "200000", "cpu/docker/0a/cpu.cfs_period_us": "50000"},
            4,
        ),
        # Damaged files.
        ("0::/\n", {"cpu.max": ""}, 16),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
        ("nonsense\n", {}, 16),
    ],
)
def test_quotas_of_control_groups(tmp_path, groups, files, cores):
    root = write(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    assert available_cores(write(root, {"proc/self/cgroup": groups})) == cores


def test_a_process_may_be_bound_to_fewer_cores(tmp_path, monkeypatch):
    assert available_cores(tmp_path) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert available_cores(tmp_path) == 1


def test_a_system_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores(tmp_path) == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": "1048576\n"}, 2**20),
        ("0::/a/b\n", {"a/memory.max": "2097152\n", "a/b/memory.max": "max\n"}, 2**21),
        ("7:memory:/docker/0a\n", {"memory/memory.limit_in_bytes": "1048576\n"}, 2**20),
        ("7:memory:/docker/0a\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ("0::/\n", {"memory.max": "many\n"}, None),
    ],
)
def test_limits_of_memory(tmp_path, groups, files, limit):
    root = write(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in files.items()})
    whole = memory_bytes(tmp_path)
    assert whole is not None
    assert memory_bytes(write(root, {"proc/self/cgroup": groups})) == (limit or whole)
