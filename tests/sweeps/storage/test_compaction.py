"""Compaction: every row once, for every reader, after every kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from sweeps.storage import compaction, parquet
from sweeps.storage.compaction import FINAL, compact, split
from sweeps.storage.schema import STATUSES, runs_schema
from sweeps.storage.table import ResultsFolder, is_compacted

STATUS_OF = ("finished", "stopped_early", "diverged", "failed", "running", "finished")
"""Status of each run of the folder."""


def row(number: int, **values: Any) -> dict[str, Any]:
    config_id = f"{number:012}"
    identity = {"sweep": "s", "arm": "vae", "run_id": f"{config_id}-0", "config_id": config_id, "seed": 0}
    ended = {"configuration": number, "attempt": 1, "status": "finished", "nll_iw": 90.0 + number}
    return {**dict.fromkeys(runs_schema().names), **identity, **ended, **values}


def write(folder: ResultsFolder, number: int, **values: Any) -> None:
    written = row(number, **values)
    folder.write_run(written)
    folder.write_curve(written, [{"epoch": epoch, "step": 4 * epoch, "valid_kl": 1.0} for epoch in (1, 2)])


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(str(tmp_path / "results"), "s")
    folder.prepare()
    for number, status in enumerate(STATUS_OF):
        write(folder, number, status=status, mean_variance=[0.5, float(number)])
    return folder


@pytest.fixture(params=["exchange", "replace"])
def way(request, monkeypatch) -> str:
    """Whether the file system can exchange two folders."""
    if request.param == "replace":

        def refuse(first: Path, second: Path) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(compaction, "exchange_folders", refuse)
    return str(request.param)


def path_of(folder: ResultsFolder, name: str) -> Path:
    assert folder.local_path is not None
    return folder.local_path / name


def count(folder: ResultsFolder, part: str = "runs") -> tuple[int, int]:
    """Return the numbers of rows and of runs that DuckDB sees."""
    files = path_of(folder, f"{part}/*.parquet")
    ((rows, runs),) = duckdb.sql(f"SELECT count(*), count(DISTINCT run_id) FROM '{files}'").fetchall()
    return rows, runs


class TestCompact:
    def test_no_row_changes(self, folder, way):
        runs, curves = folder.runs(), folder.curves()
        parts = compact(folder)
        assert [(part.part, part.before, part.after) for part in parts] == [("runs", 6, 3), ("curves", 6, 3)]
        assert folder.runs() == runs
        assert folder.curves() == curves
        assert not list(path_of(folder, ".").glob(".*.tmp"))

    def test_only_runs_that_no_driver_writes_again_are_compacted(self, folder, way):
        assert FINAL < STATUSES
        compact(folder)
        own = [name for name in folder.files("runs") if not is_compacted(name)]
        assert own == [f"runs/{n:012}-0.parquet" for n, status in enumerate(STATUS_OF) if status not in FINAL]

    def test_other_readers_see_the_same_table(self, folder, way):
        compact(folder)
        assert count(folder) == (6, 6)
        assert count(folder, "curves") == (12, 6)
        for file in path_of(folder, "runs").iterdir():
            assert pq.read_schema(file).equals(runs_schema())
        table = pa.dataset.dataset(path_of(folder, "runs"), format="parquet").to_table()
        assert table.schema.equals(runs_schema())
        assert sorted(table["nll_iw"].to_pylist()) == [90.0 + n for n in range(6)]

    def test_new_rows_are_files_of_their_own_until_the_next_compaction(self, folder, way):
        compact(folder)
        write(folder, 7)
        assert len(folder.files("runs")) == 4
        assert len(folder.runs()) == 7
        compact(folder)
        assert len(folder.files("runs")) == 3
        assert count(folder) == (7, 7)

    def test_a_row_that_is_written_again_counts(self, folder, way):
        compact(folder)
        write(folder, 0, nll_iw=1.0, attempt=2)
        assert {r["run_id"]: r["nll_iw"] for r in folder.runs()}[f"{0:012}-0"] == 1.0
        assert folder.read_table("runs", runs_schema()).copies == {}
        compact(folder)
        assert [r["nll_iw"] for r in folder.runs()] == [1.0, *(90.0 + n for n in range(1, 6))]
        assert count(folder) == (6, 6)

    def test_a_second_compaction_writes_nothing(self, folder, way, monkeypatch):
        compact(folder)
        monkeypatch.setattr(ResultsFolder, "_write", None)
        parts = compact(folder)
        assert all(part.before == part.after for part in parts)

    def test_several_files_are_complete_and_hold_whole_runs(self, folder, way, monkeypatch):
        monkeypatch.setattr(compaction, "FILE_BYTES", 1)
        monkeypatch.setattr(compaction, "BATCH_FILES", 3)
        runs, curves = folder.runs(), folder.curves()
        compact(folder)
        assert len(list(filter(is_compacted, folder.files("runs")))) == 2
        assert len(list(filter(is_compacted, folder.files("curves")))) == 2
        assert (folder.runs(), folder.curves()) == (runs, curves)
        compact(folder)
        assert (folder.runs(), folder.curves()) == (runs, curves)

    def test_a_large_file_is_read_in_full(self, folder, monkeypatch):
        monkeypatch.setattr(parquet, "MANY_ROWS", 2)
        runs = folder.runs()
        compact(folder)
        assert folder.runs() == runs
        assert [set(r) >= {"run_id", "nll_iw"} and "config" not in r for r in folder.runs(only=["nll_iw"])] == [
            True
        ] * 6
        assert [r["nll_iw"] for r in folder.runs(only=["nll_iw"])] == [r["nll_iw"] for r in runs]

    @pytest.mark.filterwarnings("ignore:.*not counted")
    def test_files_that_do_not_count_stay(self, folder, way):
        first = path_of(folder, f"runs/{0:012}-0.parquet")
        shutil.copy(first, first.with_name("copy.parquet"))
        first.with_name("notes.txt").write_text("notes")
        first.with_name(f"{5:012}-0.parquet").write_bytes(b"damaged")
        first.with_name("link.parquet").symlink_to("/etc/hostname")
        compact(folder)
        names = {path.name for path in first.parent.iterdir()}
        assert {"copy.parquet", "notes.txt", f"{5:012}-0.parquet", "link.parquet"} < names
        assert len(folder.runs()) == 5

    def test_a_folder_in_the_folder_stays(self, folder):
        path_of(folder, "runs/other").mkdir()
        compact(folder)
        assert path_of(folder, "runs/other").is_dir()
        assert count(folder) == (6, 6)

    def test_a_file_with_unknown_columns_stays(self, folder, way):
        path = path_of(folder, f"runs/{0:012}-0.parquet")
        table = pq.read_table(path).append_column("my_remedy.rate", pa.array([0.5]))
        folder.write_table(f"runs/{path.name}", table)
        runs, _ = compact(folder)
        assert runs.unknown == [f"runs/{path.name}"]
        assert folder.runs()[0]["my_remedy.rate"] == 0.5

    def test_rows_of_an_earlier_version_get_the_missing_columns(self, folder, way):
        stored = {name: value for name, value in row(0).items() if value is not None}
        pq.write_table(pa.Table.from_pylist([stored]), path_of(folder, f"runs/{0:012}-0.parquet"))
        runs = folder.runs()
        compact(folder)
        assert folder.runs() == runs
        assert count(folder) == (6, 6)


class TestCurve:
    def test_the_curve_of_a_compacted_run(self, folder):
        curve = folder.curve(f"{0:012}-0")
        assert [epoch["epoch"] for epoch in curve] == [1, 2]
        compact(folder)
        assert folder.curve(f"{0:012}-0") == curve
        assert folder.curve(f"{9:012}-0") == []


class TestDamage:
    def test_a_damaged_file_is_reported_and_stays(self, folder):
        compact(folder)
        (name,) = filter(is_compacted, folder.files("runs"))
        path = path_of(folder, name)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.warns(UserWarning, match="compacted-.* is not counted"):
            assert len(folder.runs(set_aside=True)) == 2
        write(folder, 7)
        compact(folder)
        assert path.exists()
        assert len(folder.files("runs")) == 4

    def test_only_a_compacted_file_may_hold_several_runs(self, folder):
        compact(folder)
        (name,) = filter(is_compacted, folder.files("runs"))
        path = path_of(folder, name)
        path.rename(path.with_name("table.parquet"))
        with pytest.warns(UserWarning, match="does not hold the rows of one run"):
            assert len(folder.runs()) == 2

    def test_a_row_twice_in_a_file(self, folder):
        table = pa.Table.from_pylist([row(0), row(0)], schema=runs_schema())
        folder.write_table("runs/compacted-000000000000.parquet", table)
        assert list(folder.read_table("runs", runs_schema()).unreadable) == ["runs/compacted-000000000000.parquet"]

    def test_a_second_compacted_file_with_the_same_runs_is_a_copy(self, folder):
        compact(folder)
        (name,) = filter(is_compacted, folder.files("runs"))
        folder.write("runs/compacted-000000000000.parquet", folder.read(name))
        assert list(folder.read_table("runs", runs_schema()).copies) == [name]
        with pytest.warns(UserWarning, match="copies of rows"):
            assert len(folder.runs()) == 6
        compact(folder)
        assert count(folder) == (6, 6)


class TestSplit:
    def test_runs_get_files_of_their_own_again(self, folder):
        compact(folder)
        runs, curves = folder.runs(), folder.curves()
        split(folder, {f"{0:012}-0", f"{1:012}-0", f"{9:012}-0"})
        assert {f"{part}/{n:012}-0.parquet" for part in ("runs", "curves") for n in (0, 1)} < {
            *folder.files("runs"),
            *folder.files("curves"),
        }
        assert (folder.runs(), folder.curves()) == (runs, curves)
        assert count(folder) == (6, 6)

    def test_a_file_without_rows_is_removed(self, folder):
        compact(folder)
        split(folder, {r["run_id"] for r in folder.runs()})
        assert not any(map(is_compacted, folder.files("runs")))
        assert count(folder) == (6, 6)


@pytest.mark.parametrize("way", ["exchange", "replace"])
def test_a_kill_at_any_step_loses_and_doubles_no_row(tmp_path, way):
    """The folder has two compacted rows, one of which was written again, a new row and one of a running run."""
    folder = ResultsFolder(str(tmp_path / "results"), "s")
    folder.prepare()
    write(folder, 0)
    write(folder, 1)
    compact(folder)
    write(folder, 0, nll_iw=1.0, attempt=2)
    write(folder, 2)
    write(folder, 3, status="running")
    runs, curves = folder.runs(), folder.curves()
    script, place = Path(__file__).with_name("kill_compaction.py"), tmp_path / "copies"
    subprocess.run([sys.executable, script, folder.results, "s", place, way], check=True, timeout=200)
    killed = [ResultsFolder(str(path), "s") for path in sorted(place.iterdir(), key=lambda path: int(path.name))]
    assert len(killed) > 12
    for copy in killed:
        assert copy.read_table("runs", runs_schema()).unreadable == {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResultsFolder, "_warn", lambda *_: None)  # of copies, which the next compaction removes
            assert (copy.runs(), copy.curves()) == (runs, curves)
        if way == "exchange":  # before it, there is the outdated row of the run that was written again
            assert count(copy) in ((4, 4), (5, 4))
        with copy.locked():
            compact(copy)
        assert (copy.runs(), copy.curves()) == (runs, curves)
        assert (count(copy), count(copy, "curves")) == ((4, 4), (8, 4))
        assert not list(path_of(copy, ".").glob(".*.tmp"))


def test_a_listing_that_the_removal_of_the_old_folder_cuts_short_is_no_table(folder, monkeypatch):
    """Its reader has opened the old folder before the exchange, and opens the files by their names afterwards."""
    listings: list[set[str]] = []
    monkeypatch.setattr(os, "unlink", lambda path, unlink=os.unlink: (unlink(path), listings.append(names(path))))

    def names(path: Path) -> set[str]:
        return {file.name for file in Path(path).parent.iterdir()}

    compact(folder)
    new = {path.name for path in path_of(folder, "runs").iterdir()}
    listings = [listing for listing in listings if any(f"{number:012}-0.parquet" in listing for number in range(6))]
    assert len(listings) > 8
    assert not [listing for listing in listings if listing <= new]


def test_the_reader_lists_an_empty_folder_again(folder, monkeypatch):
    listings = iter([[], folder.table_files("runs")])
    monkeypatch.setattr(folder, "table_files", lambda _: next(listings))
    assert len(folder.runs()) == 6


def test_the_reader_lists_the_folder_again_if_files_vanish_while_it_is_listed(folder, monkeypatch):
    """Some file systems do not say what kind of entry a name is, so that it is looked up."""

    @contextlib.contextmanager
    def scan(path: str, scandir=os.scandir) -> Iterator[list[Any]]:
        monkeypatch.setattr(os, "scandir", scandir)
        with scandir(path) as entries:
            listed = list(entries)
        compact(folder)
        yield [SimpleNamespace(name=e.name, path=e.path, is_file=lambda e=e: os.path.isfile(e.path)) for e in listed]

    monkeypatch.setattr(os, "scandir", scan)
    assert len(folder.runs()) == 6


def test_a_concurrent_reader_sees_every_row_once(folder):
    """DuckDB's list of a folder is not complete while files vanish, but it counts no row twice."""
    expected = {r["run_id"] for r in folder.runs()}
    ended = threading.Event()
    failures: list[object] = []
    seen = {"lagvae": 0, "duckdb": 0}

    def read() -> None:
        while not ended.is_set():
            run_ids = [r["run_id"] for r in folder.read_table("runs", runs_schema(), ["status"]).rows]
            if sorted(run_ids) != sorted(expected):
                failures.append(run_ids)
            seen["lagvae"] += 1

    def count_rows() -> None:
        connection = duckdb.connect()
        files = path_of(folder, "runs/*.parquet")
        while not ended.is_set():
            try:
                found = connection.sql(f"SELECT count(run_id), count(DISTINCT run_id) FROM '{files}'").fetchall()
            except duckdb.Error:  # a file that DuckDB has listed is gone
                continue
            ((rows, runs),) = found
            if rows != runs:  # DuckDB leaves out files that have vanished since it listed the folder
                failures.append(found)
            seen["duckdb"] += rows == 6

    threads = [threading.Thread(target=target) for target in (read, count_rows)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            compact(folder)
            _restore(folder)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert min(seen.values()) > 3, seen


def _restore(folder: ResultsFolder) -> None:
    """Bring the files of single runs back, in one step as well."""
    staged, runs = path_of(folder, ".restored.tmp"), path_of(folder, "runs")
    staged.mkdir()
    for stored in folder.read_table("runs", runs_schema()).rows:
        folder.write_table(f".restored.tmp/{stored['run_id']}.parquet", pa.Table.from_pylist([stored], runs_schema()))
    compaction.exchange_folders(staged, runs)
    compaction.remove_old_folder(staged, runs)
