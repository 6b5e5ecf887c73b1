"""The folder of a sweep: where it may lie, who may write in it, and what becomes of a store that fails."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lagvae_core.errors import ConfigError, StoreError
from sweeps.storage import folder as store
from sweeps.storage import lease
from sweeps.storage.folder import SweepFolder


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(str(tmp_path / "results"), "s")
    folder.prepare()
    return folder


class TestPlaces:
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

    def test_what_is_not_there(self, tmp_path):
        folder = SweepFolder(str(tmp_path / "none"), "s")
        assert not folder.holds_folder("runs")
        assert folder.folders() == folder.files("runs") == []
        assert folder.read("spec.yaml") is None
        assert list(tmp_path.iterdir()) == []

    def test_the_root_for_workers_is_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert SweepFolder("results", "s").root == str(tmp_path / "results")
        assert SweepFolder("file:///x", "s").root == "file:///x"

    def test_below_a_regular_file_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        folder = SweepFolder(str(tmp_path / "file" / "results"), "s")
        assert not folder.holds_folder("runs")
        with pytest.raises(ConfigError, match="--results must be a folder that can be written to"):
            folder.prepare()

    @pytest.mark.parametrize("uri", ["nowhere://bucket/x", "://", "file://relative"])
    def test_a_uri_that_nothing_reads(self, uri):
        with pytest.raises(ConfigError, match="--results must be a usable URI"):
            SweepFolder(uri, "s").folders()


class TestReadingEach:
    def test_in_order_with_none_for_what_is_gone(self, folder, monkeypatch):
        monkeypatch.setattr(store, "READ_AHEAD", 3)
        names = [f"runs/{number}" for number in range(10)]
        for name in names[:-1]:
            folder.write(name, name.encode())
        assert list(folder.read_each(names)) == [*((name, name.encode()) for name in names[:-1]), (names[-1], None)]
        assert list(folder.read_each([])) == []

    def test_several_at_a_time(self, folder, monkeypatch):
        """One after the other would wait for each other for ever."""
        together = threading.Barrier(2, timeout=60)

        def read(self, name):
            together.wait()
            return name.encode()

        monkeypatch.setattr(SweepFolder, "_read", read)
        assert list(folder.read_each(["a", "b"])) == [("a", b"a"), ("b", b"b")]

    def test_what_fails_is_tried_again_by_who_asks_so_that_ctrl_c_ends_it(self, folder, monkeypatch):
        failed_in = []

        def read(self, name):
            if len(failed_in) < 2:
                failed_in.append(threading.current_thread() is threading.main_thread())
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return name.encode()

        monkeypatch.setattr(SweepFolder, "_read", read)
        assert list(replace(folder, patience=60).read_each(["a"])) == [("a", b"a")]
        assert failed_in == [False, True]

    def test_what_cannot_be_read_is_told(self, folder):
        folder.write("runs/a", b"a")
        (Path(folder.results) / "s" / "runs" / "b").mkdir()
        with pytest.raises(StoreError, match="runs/b cannot be read"):
            list(folder.read_each(["runs/a", "runs/b"]))


class TestPatience:
    """A store that fails for a while: a network that is cut, a disk that is full."""

    @pytest.fixture
    def broken(self, folder):
        """The folder of rows is a file; what mends it."""
        runs = Path(folder.results) / "s" / "runs"
        aside = runs.rename(runs.with_name("aside"))
        runs.write_text("")

        def mend():
            runs.unlink()
            aside.rename(runs)

        return mend

    def test_at_first_what_fails_is_told_in_a_sentence(self, folder, broken):
        with pytest.raises(StoreError) as caught:
            folder.write("runs/a-0.parquet", b"")
        assert str(caught.value) == (
            f"The results in {folder.results} must be at hand, but runs/a-0.parquet cannot be written (File exists). "
            "Look after room, rights and the way to them; a sweep that is run again goes on where it stood."
        )

    def test_a_running_sweep_waits_until_it_is_mended(self, folder, broken):
        threading.Timer(0.7, broken).start()
        replace(folder, patience=60).write("runs/a-0.parquet", b"")
        assert folder.files("runs") == ["runs/a-0.parquet"]

    def test_but_not_for_ever(self, folder, broken):
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

    def test_a_second_process_is_refused_until_the_first_ends(self, folder):
        holder = subprocess.Popen(
            [sys.executable, "-c", self.HOLD, folder.results], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(ConfigError, match="one process at a time"), folder.locked():
                pass
            holder.kill()
            holder.wait()
            with folder.locked():
                pass
        finally:
            holder.kill()
            holder.communicate()

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_where_the_file_system_has_no_locks_a_lease_stands_for_one(self, folder, monkeypatch, number):
        def without_locks(file: object, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(store.fcntl, "flock", without_locks)
        monkeypatch.setattr(lease, "PACE", lease.LeaseTiming(0.05, 2.0, 0.0))
        with folder.locked():
            assert folder.read(lease.LEASE) is not None
            with pytest.raises(ConfigError, match=r"driven by one process at a time, and another one on .* is running"):
                folder.locked().__enter__()
        assert folder.read(lease.LEASE) is None

    @pytest.fixture
    def on_sshfs(self, monkeypatch):
        monkeypatch.setattr(store, "on_own_disk", lambda folder: False)
        monkeypatch.setattr(lease, "PACE", lease.LeaseTiming(0.05, 2.0, 0.0))

    def test_where_a_lock_holds_on_one_machine_alone_a_lease_stands_beside_it(self, folder, on_sshfs, monkeypatch):
        with folder.locked():
            with pytest.raises(ConfigError, match="another one is running it"):
                folder.locked().__enter__()
            # A driver of another machine does not see the lock.
            monkeypatch.setattr(store.fcntl, "flock", lambda file, operation: None)
            monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
            with pytest.raises(ConfigError, match=r"another one on .* is running it"):
                folder.locked().__enter__()
        assert folder.read(lease.LEASE) is None

    def test_after_a_crash_the_same_machine_goes_on_at_once(self, folder, on_sshfs, monkeypatch):
        monkeypatch.setattr(lease, "PACE", lease.LeaseTiming(60, 3600, 0))
        left = {"owner": "killed", "host": "here", "machine": lease.machine_id(), "renewals": 3}
        folder.write(lease.LEASE, json.dumps(left).encode())
        with folder.locked():
            pass

    def test_who_was_away_too_long_must_write_nothing_more(self, folder, on_sshfs):
        with folder.locked() as guard:
            guard()
            folder.write(lease.LEASE, json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode())
            time.sleep(0.5)  # ten renewals
            with pytest.raises(ConfigError, match="and one on elsewhere has taken it over"):
                guard()

    def test_released_at_the_end_of_the_block(self, folder):
        for _ in range(2):
            with folder.locked():
                pass
