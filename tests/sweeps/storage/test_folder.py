"""The folder of a sweep: its locations, the exclusion of a second driver, and failing stores."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import rejects

from lagvae_core.errors import ConfigError, StoreError
from sweeps.storage import folder as folder_module
from sweeps.storage import lease, locks
from sweeps.storage.folder import SweepFolder
from sweeps.storage.lease import LeaseHeldError


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(str(tmp_path / "results"), "s")
    folder.prepare()
    return folder


class TestLocations:
    def test_a_file_uri_is_the_plain_path(self, tmp_path):
        root = tmp_path / "re sults"
        plain, uri = SweepFolder(str(root), "s"), SweepFolder(root.as_uri(), "s")
        uri.prepare()
        uri.write("spec.yaml", b"name: s")
        assert plain.read("spec.yaml") == uri.read("spec.yaml") == b"name: s"
        assert plain.local_path == uri.local_path
        assert plain.folders() == uri.folders() == ["checkpoints", "curves", "runs"]
        assert plain.holds("spec.yaml")
        assert uri.holds("spec.yaml")
        uri.remove("spec.yaml")
        uri.remove("spec.yaml")
        assert plain.read("spec.yaml") is None

    def test_a_folder_that_does_not_exist(self, tmp_path):
        folder = SweepFolder(str(tmp_path / "none"), "s")
        assert not folder.holds_folder("runs")
        assert folder.folders() == folder.files("runs") == []
        assert folder.read("spec.yaml") is None
        assert list(tmp_path.iterdir()) == []

    def test_the_root_is_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert SweepFolder("results", "s").root == str(tmp_path / "results")
        assert SweepFolder("file:///x", "s").root == "file:///x"

    def test_a_path_below_a_regular_file_is_not_writable(self, tmp_path):
        (tmp_path / "file").write_text("")
        folder = SweepFolder(str(tmp_path / "file" / "results"), "s")
        assert not folder.holds_folder("runs")
        with rejects("--results") as issues:
            folder.prepare()
        assert issues[0].value == folder.results
        assert issues[0].hint

    @pytest.mark.parametrize("uri", ["nowhere://bucket/x", "://", "file://relative"])
    def test_an_unusable_uri(self, uri):
        with rejects("--results") as issues:
            SweepFolder(uri, "s").folders()
        assert issues[0].value == uri


class TestReadEach:
    def test_contents_are_in_order_and_none_for_missing_files(self, folder, monkeypatch):
        monkeypatch.setattr(folder_module, "READ_AHEAD", 3)
        names = [f"runs/{number}" for number in range(10)]
        for name in names[:-1]:
            folder.write(name, name.encode())
        assert list(folder.read_each(names)) == [*((name, name.encode()) for name in names[:-1]), (names[-1], None)]
        assert list(folder.read_each([])) == []

    def test_files_are_read_concurrently(self, folder, monkeypatch):
        """Both reads must be in progress before one of them can end."""
        both = threading.Barrier(2, timeout=60)

        def read(self, name):
            both.wait()
            return name.encode()

        monkeypatch.setattr(SweepFolder, "_read", read)
        assert list(folder.read_each(["a", "b"])) == [("a", b"a"), ("b", b"b")]

    def test_a_failed_read_is_retried_in_the_calling_thread_which_ctrl_c_interrupts(self, folder, monkeypatch):
        failed_in_main_thread = []

        def read(self, name):
            if len(failed_in_main_thread) < 2:
                failed_in_main_thread.append(threading.current_thread() is threading.main_thread())
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return name.encode()

        monkeypatch.setattr(SweepFolder, "_read", read)
        assert list(replace(folder, patience=60).read_each(["a"])) == [("a", b"a")]
        assert failed_in_main_thread == [False, True]

    def test_an_unreadable_file(self, folder):
        folder.write("runs/a", b"a")
        (Path(folder.results) / "s" / "runs" / "b").mkdir()
        with pytest.raises(StoreError, match="runs/b"):
            list(folder.read_each(["runs/a", "runs/b"]))


class TestLinks:
    """Whoever writes a results folder must not choose the files that a reader of the folder opens or replaces."""

    @pytest.fixture
    def outside(self, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "x").write_bytes(b"precious")
        return outside

    def test_a_folder_that_leads_out_is_rejected(self, folder, outside):
        (Path(folder.results) / "s" / "models").symlink_to(outside)
        where = f"{folder.root}/s/models"
        for act in (
            lambda: folder.read("models/x"),
            lambda: folder.write("models/y", b""),
            lambda: folder.remove("models/x"),
            lambda: folder.holds("models/x"),
            lambda: folder.files("models"),
            lambda: folder.prove_writable("models"),
            lambda: folder.move("models/x", "runs/x"),
        ):
            with pytest.raises(ConfigError, match=where):
                act()
        assert [path.name for path in outside.iterdir()] == ["x"]

    def test_a_file_that_leads_out_is_rejected(self, folder, outside):
        (Path(folder.results) / "s" / "runs" / "a").symlink_to("../../../outside/x")
        assert folder.unsafe("runs/a")
        with pytest.raises(ConfigError, match="runs/a"):
            folder.read("runs/a")

    def test_a_named_pipe_is_rejected(self, folder):
        os.mkfifo(Path(folder.results) / "s" / "spec.yaml")
        with pytest.raises(ConfigError, match="regular"):
            folder.read("spec.yaml")

    def test_links_within_the_folder_and_to_the_whole_folder_are_followed(self, folder, tmp_path):
        folder.write("runs/a", b"a")
        (Path(folder.results) / "s" / "runs" / "b").symlink_to("a")
        (tmp_path / "linked").symlink_to(folder.results)
        linked = SweepFolder(str(tmp_path / "linked"), "s")
        assert linked.read("runs/b") == b"a"
        assert linked.files("runs") == ["runs/a", "runs/b"]


class TestPatience:
    """A store that fails temporarily, as if the network were down or the disk full."""

    @pytest.fixture
    def broken(self, folder):
        """Replace the folder of rows by a file; return a function that repairs it."""
        runs = Path(folder.results) / "s" / "runs"
        aside = runs.rename(runs.with_name("aside"))
        runs.write_text("")

        def repair():
            runs.unlink()
            aside.rename(runs)

        return repair

    def test_without_patience_a_failure_is_reported_at_once(self, folder, broken):
        with pytest.raises(StoreError) as caught:
            folder.write("runs/a-0.parquet", b"")
        assert str(caught.value) == (
            f"Cannot access results in {folder.results}: runs/a-0.parquet cannot be written (File exists). "
            "Check disk space, permissions and the mount. Running the command again resumes the sweep."
        )

    def test_a_write_waits_until_the_store_is_repaired(self, folder, broken):
        threading.Timer(0.7, broken).start()
        replace(folder, patience=60).write("runs/a-0.parquet", b"")
        assert folder.files("runs") == ["runs/a-0.parquet"]

    def test_a_write_fails_when_patience_ends(self, folder, broken):
        begin = time.monotonic()
        with pytest.raises(StoreError):
            replace(folder, patience=1.2).write("runs/a-0.parquet", b"")
        assert 0.4 < time.monotonic() - begin < 10


class TestLock:
    HOLD = (
        "import sys\n"
        "from sweeps.storage.folder import SweepFolder\n"
        "with SweepFolder(sys.argv[1], 's').locked():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )

    def test_a_second_process_fails_until_the_first_ends(self, folder):
        holder = subprocess.Popen(
            [sys.executable, "-c", self.HOLD, folder.results], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(LeaseHeldError), folder.locked():
                pass
            holder.kill()
            holder.wait()
            with folder.locked():
                pass
        finally:
            holder.kill()
            holder.communicate()

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_lease_replaces_the_lock_where_the_file_system_has_none(self, folder, monkeypatch, number):
        def without_locks(file: object, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(locks.fcntl, "flock", without_locks)
        monkeypatch.setattr(lease, "LEASE_TIMING", lease.LeaseTiming(0.05, 2.0, 0.0))
        with folder.locked():
            assert folder.read(lease.LEASE) is not None
            with pytest.raises(LeaseHeldError) as caught:
                folder.locked().__enter__()
            assert caught.value.host == socket.gethostname()
        assert folder.read(lease.LEASE) is None

    @pytest.fixture
    def on_network_filesystem(self, monkeypatch):
        monkeypatch.setattr(folder_module, "is_local_filesystem", lambda folder: False)
        monkeypatch.setattr(lease, "LEASE_TIMING", lease.LeaseTiming(0.05, 2.0, 0.0))

    def test_a_lease_supplements_the_lock_on_a_network_file_system(self, folder, on_network_filesystem, monkeypatch):
        with folder.locked():
            with pytest.raises(LeaseHeldError) as caught:
                folder.locked().__enter__()
            assert caught.value.host == ""
            # A driver on a different machine does not see the lock.
            monkeypatch.setattr(locks.fcntl, "flock", lambda file, operation: None)
            monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
            with pytest.raises(LeaseHeldError) as caught:
                folder.locked().__enter__()
            assert caught.value.host, "the lease names the host, which the lock cannot"
        assert folder.read(lease.LEASE) is None

    def test_after_a_crash_the_same_machine_continues_at_once(self, folder, on_network_filesystem, monkeypatch):
        monkeypatch.setattr(lease, "LEASE_TIMING", lease.LeaseTiming(60, 3600, 0))
        abandoned = {"owner": "killed", "host": "here", "machine": lease.machine_id(), "renewals": 3}
        folder.write(lease.LEASE, json.dumps(abandoned).encode())
        with folder.locked():
            pass

    def test_the_guard_fails_once_another_driver_took_over(self, folder, on_network_filesystem):
        with folder.locked() as guard:
            guard()
            folder.write(lease.LEASE, json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode())
            time.sleep(0.5)  # ten renewals
            with pytest.raises(LeaseHeldError) as caught:
                guard()
            assert str(caught.value).startswith("Another driver on elsewhere took over")
            assert caught.value.host == "elsewhere"

    def test_the_lock_is_released_at_the_end_of_the_block(self, folder):
        for _ in range(2):
            with folder.locked():
                pass
