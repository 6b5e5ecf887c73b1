"""The file of a lock that belongs to another user, and one that must not be opened."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from helpers import rejects

from sweeps.storage.locks import lock_file


@pytest.fixture
def of_another_user(tmp_path, monkeypatch):
    """A file that may be read, but not be written."""
    path = tmp_path / ".driver.lock"
    path.write_text("")
    permitted = os.open

    def open_for_reading(name: str, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return permitted(name, flags, *mode)

    monkeypatch.setattr(os, "open", open_for_reading)
    return path


def test_reading_suffices(of_another_user):
    with lock_file(of_another_user) as locked:
        assert locked


def test_a_file_system_that_locks_only_writable_files(of_another_user, monkeypatch):
    def without_right(file: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", without_right)
    with rejects(str(of_another_user)) as issues, lock_file(of_another_user):
        pass
    assert "chmod" in issues[0].hint


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / ".driver.lock").symlink_to(tmp_path / "precious")
    with rejects(str(tmp_path / ".driver.lock")), lock_file(tmp_path / ".driver.lock"):
        pass
    assert (tmp_path / "precious").read_text() == "content"


def test_a_folder_instead_of_the_file(tmp_path):
    (tmp_path / ".driver.lock").mkdir()
    with rejects(str(tmp_path / ".driver.lock")), lock_file(tmp_path / ".driver.lock"):
        pass
