"""Signs of a driver, seen without locking or writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import files_below

from sweeps.storage.driver_observer import DriverObserver, DriverState
from sweeps.storage.folder import SweepFolder
from sweeps.storage.lease import LEASE, LEASE_TIMING
from sweeps.storage.locks import LOCKS, is_locked, lock_file


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(str(tmp_path), "tiny")
    folder.prepare()
    return folder


def renew(folder: SweepFolder, renewals: int) -> None:
    folder.write(LEASE, json.dumps({"owner": "o", "host": "node-1", "renewals": renewals}).encode())


@pytest.mark.skipif(not LOCKS.exists(), reason="only Linux lists locks")
def test_a_lock_is_seen_and_its_end_too(folder, tmp_path):
    observer = DriverObserver(folder)
    assert observer.observe().state is DriverState.UNKNOWN, "the lock may be one of another container"
    with folder.locked():
        before = files_below(tmp_path)
        assert observer.observe().state is DriverState.PRESENT
        assert files_below(tmp_path) == before
    assert observer.observe().state is DriverState.ABSENT
    assert DriverObserver(folder).observe().state is DriverState.UNKNOWN


def test_a_lock_that_is_only_waited_for_or_belongs_to_another_file(tmp_path):
    path, locks = tmp_path / "file", tmp_path / "locks"
    with lock_file(path):
        lines = LOCKS.read_text()
        [own] = [line for line in lines.splitlines() if str(path.stat().st_ino) in line.split()[5].split(":")]
        assert is_locked(path)
        assert not is_locked(tmp_path / "missing")
    for text, expected in ((own, True), (own.replace("FLOCK", "-> FLOCK"), False), (own + "0", True), ("", False)):
        locks.write_text(text)
        assert is_locked(path, locks) is expected, text
    assert not is_locked(path, tmp_path / "absent")


def test_a_lease_is_compared_with_itself(folder):
    seconds = [0.0]
    observer = DriverObserver(folder, clock=lambda: seconds[0])
    seen = []
    for renewals, at in ((0, 0.0), (0, LEASE_TIMING.patience), (0, 60.0), (1, 61.0)):
        renew(folder, renewals)
        seconds[0] = at
        seen.append(observer.observe())
    present, silent = DriverState.PRESENT, DriverState.SILENT
    assert [sign.state for sign in seen] == [present, present, silent, present]
    assert {sign.host for sign in seen} == {"node-1"}
    assert (seen[2].seconds, seen[3].seconds) == (60.0, 0.0)


def test_a_storage_that_needs_a_lease_and_has_none(folder, monkeypatch):
    monkeypatch.setattr("sweeps.storage.driver_observer.is_local_filesystem", lambda path: False)
    assert DriverObserver(folder).observe().state is DriverState.ABSENT
