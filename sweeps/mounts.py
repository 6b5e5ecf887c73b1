"""Whether a lock on a folder holds between machines, by what Linux tells of the folder's mount."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["locks_hold_everywhere"]

MOUNTS = Path("/proc/self/mountinfo")

DISKS = frozenset(("btrfs", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "overlay", "tmpfs", "vfat", "xfs", "zfs"))
"""What one machine has to itself."""

CLUSTERS = frozenset(("ceph", "fuse.glusterfs", "gfs2", "ocfs2"))
"""Network file systems whose `flock` holds between machines, whatever their options."""


def locks_hold_everywhere(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether a `flock` in `folder` keeps out every process that can reach it, on whatever machine.

    False where that cannot be told: SSHFS and SMB, the folders that a virtual machine or container is lent by its host,
    NFS mounted with `nolock` or `local_lock`, Lustre without `flock`. Where there is no list of mounts to read, as on
    macOS, the folder is taken for one of this machine.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return True
    kind, options = _mount_of(folder.resolve(), lines)
    if kind in ("nfs", "nfs4"):
        return options.isdisjoint({"nolock", "local_lock=flock", "local_lock=all"})
    if kind == "lustre":
        return "flock" in options
    return kind in DISKS or kind in CLUSTERS


def _mount_of(folder: Path, lines: list[str]) -> tuple[str, set[str]]:
    """Type and options of the mount that `folder` is on: the deepest, and of several at one place the last."""
    found, depth = ("", set[str]()), -1
    for line in lines:
        # ID PARENT DEVICE ROOT PLACE OPTIONS [TAG...] - TYPE SOURCE OPTIONS, blanks in octal
        of_place, _, of_system = line.partition(" - ")
        place, options = of_place.split(" ")[4:6]
        kind, *rest = of_system.split(" ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place))
        if folder.is_relative_to(path) and len(path.parts) >= depth:
            depth = len(path.parts)
            found = kind, {*options.split(","), *(rest[-1].split(",") if rest else ())}
    return found
