"""The scratch folder of a driver, in folders for temporary files that are unusable in various ways."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import rejects

from cluster import scratch
from cluster.scratch import RAY_SOCKET, SOCKET_BYTES, VARIABLES, scratch_folder


@pytest.fixture
def place(monkeypatch) -> Iterator[Path]:
    """Return a new folder with a short path, which TMPDIR names."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="lv", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_lies_in_the_folder_that_tmpdir_names_and_is_removed(place):
    with scratch_folder() as folder:
        assert folder.parent == place
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.iterdir()) == []
        assert f"-{os.getpid()}-" in folder.name
        (folder / "session" / "logs").mkdir(parents=True)
    assert list(place.iterdir()) == []


def test_is_removed_after_an_exception(place):
    with pytest.raises(KeyboardInterrupt), scratch_folder():
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMP"])
def test_other_variables(place, monkeypatch, variable):
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv(variable, str(place))
    with scratch_folder() as folder:
        assert folder.parent == place


def test_a_relative_folder(place, monkeypatch):
    (place / "t").mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", "t")
    with scratch_folder() as folder:
        assert folder.is_absolute()
        assert folder.parent == place / "t"


def test_a_variable_that_names_no_folder_is_ignored(place, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(place / "missing"))
    with scratch_folder() as folder:
        assert folder.parent == place


def test_a_long_path_leads_to_a_folder_whose_sockets_are_possible(place, monkeypatch):
    long = place / "user" / ("n" * 60)
    long.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(place / "missing"), str(place)))
    with scratch_folder() as folder:
        assert folder.parent == place
        assert len(os.fsencode(folder)) + len(RAY_SOCKET) <= SOCKET_BYTES
    assert list(long.iterdir()) == []


def test_the_longest_possible_path(place, monkeypatch):
    with scratch_folder() as folder:
        spare = SOCKET_BYTES - len(RAY_SOCKET) - len(os.fsencode(folder))
    for length, expected in ((spare - 1, True), (spare, False)):
        longest = place / ("é" * (length // 2) + "e" * (length % 2))
        longest.mkdir()
        monkeypatch.setenv("TMPDIR", str(longest))
        monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(place),))
        with scratch_folder() as folder:
            assert (folder.parent == longest) is expected


def test_a_file_system_without_sockets(place, monkeypatch):
    def refuse(self, path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("cluster.scratch.socket.socket.bind", refuse)
    monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(place),))
    with rejects("TMPDIR") as issues, scratch_folder():
        pass
    assert "Operation not permitted" in issues[0].message
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_is_read_only(place, monkeypatch, variable):
    def refuse(**arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setenv(variable, str(place))
    monkeypatch.setattr("cluster.scratch.tempfile.mkdtemp", refuse)
    with rejects(variable) as issues, scratch_folder():
        pass
    assert issues[0].value == str(place)
    assert "Read-only file system" in issues[0].message


def test_a_full_folder(place, monkeypatch):
    """/dev/full accepts no byte, as a full disk does."""
    check = scratch._check

    def full(folder):
        (folder / "file").symlink_to("/dev/full")
        check(folder)

    monkeypatch.setattr(scratch, "_check", full)
    with rejects("TMPDIR") as issues, scratch_folder():
        pass
    assert issues[0].value == str(place)
    assert "No space left" in issues[0].message
    assert list(place.iterdir()) == []


def test_no_folder_at_all(place, monkeypatch):
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(scratch, "SHORT_FOLDERS", (str(place / "a"), str(place / "b")))
    with rejects("TMPDIR") as issues, scratch_folder():
        pass
    assert issues[0].value is None
    assert f"{place}/a" in issues[0].message
    assert f"{place}/b" in issues[0].message


def test_folders_of_dead_drivers_are_removed_and_all_others_stay(place):
    for name in ("lagvae-1-abcdefgh", "lagvae-12345-_a_b_c_1"):
        (place / name).mkdir(mode=0o700)
        (place / name / "session" / "logs").mkdir(parents=True)
        (place / name / "token").write_text("secret")
    # A driver of an older version, a job package, and a user's folder.
    others = {"lagvae-abcdefgh", "lagvae-job-12345678", "lagvae-2026-results-mine", "lagvae-4-shared__"}
    for name in others:
        (place / name).mkdir(mode=0o755 if name == "lagvae-4-shared__" else 0o700)
    (place / "elsewhere").mkdir()
    (place / "lagvae-2-linklink").symlink_to(place / "elsewhere")
    (place / "lagvae-3-filefile").write_text("")
    with scratch_folder() as first, scratch_folder() as second:
        left = {path.name for path in place.iterdir()}
    assert left == others | {first.name, second.name, "elsewhere", "lagvae-2-linklink", "lagvae-3-filefile"}


def test_a_folder_that_is_removed_before_it_is_locked_is_created_again(place, monkeypatch):
    lock, removed = fcntl.flock, []

    def remove_first(file, operation):
        if not removed:
            removed.append(next(place.iterdir()))
            removed[0].rmdir()
        lock(file, operation)

    monkeypatch.setattr("cluster.scratch.fcntl.flock", remove_first)
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert folder != removed[0]
