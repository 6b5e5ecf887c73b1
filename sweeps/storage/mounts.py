"""Whether a folder lies on a disk of this machine, by what Linux tells of the folder's mount."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_local_filesystem"]

MOUNTS = Path("/proc/self/mountinfo")

DISKS = frozenset(("btrfs", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "overlay", "tmpfs", "vfat", "xfs", "zfs"))
"""What one machine has to itself."""


def is_local_filesystem(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether `folder` is on a disk that this machine has to itself: then a `flock` there keeps out all who reach it.

    On network file systems it may hold on one machine alone (SSHFS, SMB, NFS with `nolock`, Lustre without
    `-o flock`), or be lost to a machine that was away for long (NFS 4). A kind that is not known is taken for one of
    them; where there is no list of mounts to read, as on macOS, the folder is taken for one of this machine.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return True
    return _kind_of(folder.resolve(), lines) in DISKS


def _kind_of(folder: Path, lines: list[str]) -> str:
    """The file system of the mount that `folder` is on: the deepest, and of several at one place the last."""
    found, depth = "", -1
    for line in lines:
        # ID PARENT DEVICE ROOT PLACE OPTIONS [TAG...] - TYPE SOURCE OPTIONS, blanks in octal
        of_place, _, of_system = line.partition(" - ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), of_place.split(" ")[4]))
        if folder.is_relative_to(path) and len(path.parts) >= depth:
            depth, found = len(path.parts), of_system.split(" ")[0]
    return found
