"""Detection of local file systems, based on Linux's list of mounts."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_local_filesystem"]

MOUNTS = Path("/proc/self/mountinfo")

LOCAL_FILESYSTEMS = frozenset(
    ("btrfs", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "overlay", "tmpfs", "vfat", "xfs", "zfs")
)
"""Types of file systems whose disk is accessed by one machine only."""


def is_local_filesystem(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether only this machine accesses the disk of `folder`, so that `flock` excludes every other process.

    On a network file system a lock may hold on one machine only (SSHFS, SMB, NFS with `nolock`, Lustre without
    `-o flock`), or be lost if the machine is disconnected for long (NFS 4). An unknown file system counts as a network
    file system. If there is no list of mounts, as on macOS, the folder counts as local.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return True
    return _filesystem_of(folder.resolve(), lines) in LOCAL_FILESYSTEMS


def _filesystem_of(folder: Path, lines: list[str]) -> str:
    """Return the file system type of the deepest mount that contains `folder` (the last of several at one path)."""
    filesystem, depth = "", -1
    for line in lines:
        # ID PARENT DEVICE ROOT PATH OPTIONS [TAG...] - TYPE SOURCE OPTIONS, with spaces as octal escapes
        of_path, _, of_filesystem = line.partition(" - ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), of_path.split(" ")[4]))
        if folder.is_relative_to(path) and len(path.parts) >= depth:
            depth, filesystem = len(path.parts), of_filesystem.split(" ")[0]
    return filesystem
