"""Detection of local file systems from lists of mounts in the format of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.storage.mounts import MOUNTS, is_local_filesystem

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("filesystem", "options", "local"),
    [
        ("xfs", "rw", True),
        ("zfs", "rw,xattr", True),
        ("overlay", "rw,lowerdir=/a,upperdir=/b", True),
        ("nfs4", "rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1", False),
        ("nfs", "rw,vers=3,hard,nolock,local_lock=all,addr=10.0.0.1", False),
        ("lustre", "rw,checksum,flock,user_xattr", False),
        ("fuse.sshfs", "rw,user_id=0,group_id=0", False),
        ("cifs", "rw,vers=3.1.1", False),
        ("virtiofs", "rw", False),
        ("of_next_year", "rw", False),
    ],
)
def test_local_and_network_file_systems(tmp_path, filesystem, options, local):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"{ROOT}40 22 0:50 / /shared rw,noatime shared:7 master:2 - {filesystem} server:/export {options}\n"
    )
    assert is_local_filesystem(Path("/shared/results/mine"), mounts) is local
    assert is_local_filesystem(Path("/home/results"), mounts)


def test_the_deepest_mount_counts_and_of_two_at_one_path_the_last(tmp_path):
    mounts = tmp_path / "mountinfo"
    over, under = "50 22 0:51 / /a/b rw - {} x rw\n", "41 22 0:50 / /a rw - {} x rw\n"
    mounts.write_text(over.format("fuse.sshfs") + under.format("ext4") + ROOT)
    assert not is_local_filesystem(Path("/a/b/c"), mounts)
    assert is_local_filesystem(Path("/a/bc"), mounts)
    mounts.write_text(ROOT + under.format("fuse.sshfs") + under.format("ext4"))
    assert is_local_filesystem(Path("/a"), mounts)


def test_names_with_blanks(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(ROOT + "41 22 0:50 / /our\\040lab\\134s rw - fuse.sshfs x rw\n", encoding="utf-8")
    assert not is_local_filesystem(Path("/our lab\\s/results"), mounts)
    assert is_local_filesystem(Path("/our"), mounts)


def test_a_link_is_resolved(tmp_path):
    (tmp_path / "link").symlink_to("/shared/results")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(ROOT + "41 22 0:50 / /shared rw - fuse.sshfs x rw\n")
    assert not is_local_filesystem(tmp_path / "link", mounts)


def test_without_a_list_of_mounts_a_folder_is_local(tmp_path):
    assert is_local_filesystem(tmp_path, tmp_path / "nothing")


@pytest.mark.skipif(not MOUNTS.exists(), reason="needs the list of mounts of Linux")
def test_the_mounts_of_this_machine():
    assert not is_local_filesystem(Path("/proc/self"))
