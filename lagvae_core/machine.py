"""The share of the machine that this process may use: cores and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

__all__ = ["available_cores", "memory_bytes"]


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1.

    This is the smallest of three numbers: the cores of the machine, the cores to which the process is bound (as
    `taskset` and Slurm do), and the quota of CPU time of its control groups (as containers and Kubernetes set it),
    rounded down. Systems other than Linux have only the first number.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quotas = []
    for folder in _control_groups(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if (folder / "cpu.max").exists():
                quota, period = map(float, (folder / "cpu.max").read_text().split())  # "max" is not a number: no quota
            else:
                quota, period = (float((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:  # version 1 writes -1 if there is no quota
                quotas.append(int(quota / period))
    return max(1, min([cores, *quotas]))


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that this process may use [bytes]; None if it is unknown.

    This is the memory of the machine, or the smallest limit of the control groups of this process.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    limits = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # version 2 writes "max" if there is no limit
                limits.append(int((folder / name).read_text()))
    return min(limits, default=None)


def _control_groups(root: Path, controller: Literal["cpu", "memory"]) -> Iterator[Path]:
    """Yield the folders of the control groups of this process and of all groups above them, in versions 1 and 2.

    In a container, the path of a group may be that of the host; then only the root of the hierarchy exists.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or (controllers and controller not in controllers.split(",")):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            yield mount / folder
