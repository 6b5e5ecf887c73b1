"""Whether a lock holds everywhere, by the lists of mounts that Linux shows of the file systems concerned."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.mounts import MOUNTS, locks_hold_everywhere

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


def told(tmp_path: Path, kind: str, options: str, place: str = "/shared") -> bool:
    """What is said of a folder below `place`, where a file system of this kind and options is mounted."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"{ROOT}40 22 0:50 / {place} rw,noatime shared:7 master:2 - {kind} server:/export {options}\n")
    return locks_hold_everywhere(Path("/shared/results/mine"), mounts)


@pytest.mark.parametrize(
    ("kind", "options", "everywhere"),
    [
        ("nfs4", "rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1", True),
        ("nfs", "rw,vers=3,hard,nolock,local_lock=all,addr=10.0.0.1", False),
        ("nfs", "rw,vers=3,hard,local_lock=flock,addr=10.0.0.1", False),
        ("nfs", "rw,vers=3,hard,local_lock=posix,addr=10.0.0.1", True),
        ("lustre", "rw,checksum,flock,user_xattr", True),
        ("lustre", "rw,checksum,localflock,user_xattr", False),
        ("lustre", "rw,checksum,noflock,user_xattr", False),
        ("ceph", "rw,name=lab,acl", True),
        ("fuse.glusterfs", "rw,user_id=0,group_id=0", True),
        ("fuse.sshfs", "rw,user_id=0,group_id=0", False),
        ("cifs", "rw,vers=3.1.1", False),
        ("9p", "rw,trans=virtio", False),
        ("virtiofs", "rw", False),
        ("xfs", "rw", True),
        ("zfs", "rw,xattr", True),
        ("a kind of next year's", "rw", False),
    ],
)
def test_by_kind_and_options(tmp_path, kind, options, everywhere):
    assert told(tmp_path, kind.replace(" ", "_"), options) is everywhere


def test_the_deepest_mount_counts_and_of_two_at_one_place_the_last(tmp_path):
    mounts = tmp_path / "mountinfo"
    over, under = "50 22 0:51 / /a/b rw - {} x rw\n", "41 22 0:50 / /a rw - {} x rw\n"
    mounts.write_text(over.format("fuse.sshfs") + under.format("ext4") + ROOT)
    assert not locks_hold_everywhere(Path("/a/b/c"), mounts)
    assert locks_hold_everywhere(Path("/a/bc"), mounts)
    mounts.write_text(ROOT + under.format("fuse.sshfs") + under.format("ext4"))
    assert locks_hold_everywhere(Path("/a"), mounts)


def test_names_with_blanks(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(ROOT + "41 22 0:50 / /our\\040lab\\134s rw - fuse.sshfs x rw\n", encoding="utf-8")
    assert not locks_hold_everywhere(Path("/our lab\\s/results"), mounts)
    assert locks_hold_everywhere(Path("/our"), mounts)


def test_a_link_is_where_it_leads(tmp_path):
    (tmp_path / "link").symlink_to("/shared/results")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(ROOT + "41 22 0:50 / /shared rw - fuse.sshfs x rw\n")
    assert not locks_hold_everywhere(tmp_path / "link", mounts)


def test_where_there_is_no_list_of_mounts_it_is_this_machine(tmp_path):
    assert locks_hold_everywhere(tmp_path, tmp_path / "nothing")


@pytest.mark.skipif(not MOUNTS.exists(), reason="only Linux lists its mounts there")
def test_the_list_of_this_machine_is_understood():
    assert not locks_hold_everywhere(Path("/proc/self"))
