"""The Parquet table: round trips, foreign and damaged files, and other readers."""

from __future__ import annotations

import datetime
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from helpers import rejects
from worlds import FINGERPRINT, spec_of

from lagvae_core.errors import StoreError
from sweeps.search.plan import Plan
from sweeps.storage.schema import CURVES_SCHEMA, SCHEMA_VERSION, runs_schema
from sweeps.storage.table import ResultsFolder, stored_sweeps

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=datetime.UTC)


A, B = "a" * 12, "b" * 12
"""Ids of two configurations."""


def row(config_id: str = A, seed: int = 0, **values: Any) -> dict[str, Any]:
    identity = {"sweep": "s", "arm": "vae", "run_id": f"{config_id}-{seed}", "config_id": config_id, "seed": seed}
    ended = {"configuration": 0, "attempt": 1, "status": "finished"}
    return {**dict.fromkeys(runs_schema().names), **identity, **ended, **values}


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    folder = ResultsFolder(str(tmp_path / "results"), "s")
    folder.prepare()
    return folder


def path_of(folder: ResultsFolder, name: str) -> Path:
    assert folder.local_path is not None
    return folder.local_path / name


class TestRoundTrip:
    def test_a_file_contains_the_version_of_its_schema(self, folder):
        folder.write_run(row())
        metadata = pq.read_schema(path_of(folder, f"runs/{A}-0.parquet")).metadata
        assert metadata[b"lagvae_schema"] == SCHEMA_VERSION.encode()

    def test_a_row_of_nulls_keeps_the_types(self, folder):
        folder.write_run(row())
        assert pq.read_schema(path_of(folder, f"runs/{A}-0.parquet")).equals(runs_schema())
        assert folder.runs() == [row()]

    def test_a_full_row(self, folder):
        full = row(
            status="diverged",
            nll_iw=28.25,
            au=2,
            mean_variance=[0.5, 0.25],
            kl_by_dimension=None,
            git_dirty=False,
            started_at=MOMENT,
            traceback="Zeile 1\nZeile 2: ä\U0001f600",
            **{"aggressive.budget": "converge", "beta_vae.beta": 0.1},
        )
        folder.write_run(full)
        assert folder.runs() == [full]

    def test_a_later_row_replaces_the_earlier_one(self, folder):
        folder.write_run(row(status="running"))
        folder.write_run(row(nll_iw=1.0))
        assert [(r["status"], r["nll_iw"]) for r in folder.runs()] == [("finished", 1.0)]

    def test_rows_are_sorted_by_arm_configuration_and_seed(self, folder):
        for arm, configuration, seed in (("b", 0, 0), ("a", 10, 0), ("a", 2, 1), ("a", 2, 0)):
            folder.write_run(row(f"{arm * 10}{configuration:02}", seed, arm=arm, configuration=configuration))
        assert [r["run_id"][9:] for r in folder.runs()] == ["a02-0", "a02-1", "a10-0", "b00-0"]

    def test_curves(self, folder):
        epochs = [dict.fromkeys((f.name for f in CURVES_SCHEMA), 1) | {"epoch": n} for n in (2, 1)]
        for epoch in epochs:
            for name in ("sweep", "arm", "run_id", "config_id", "seed"):
                del epoch[name]
        folder.write_curve(row(), epochs)
        assert [(r["run_id"], r["epoch"]) for r in folder.curves()] == [(f"{A}-0", 1), (f"{A}-0", 2)]
        assert pq.read_schema(path_of(folder, f"curves/{A}-0.parquet")).equals(CURVES_SCHEMA)

    def test_a_column_without_a_declaration_is_an_internal_error(self, folder):
        with pytest.raises(AssertionError, match="nll_of_the_moon"):
            folder.write_run(row(nll_of_the_moon=1.0))
        assert folder.runs() == []

    def test_missing_columns_of_a_file_are_null_and_unknown_ones_are_kept(self, folder):
        stored = {name: value for name, value in row().items() if value is not None}
        pq.write_table(pa.Table.from_pylist([stored | {"gone": 1}]), path_of(folder, f"runs/{A}-0.parquet"))
        (stored,) = folder.runs()
        assert set(stored) == {*runs_schema().names, "gone"}
        assert stored["gone"] == 1
        assert stored["run_id"] == f"{A}-0"
        assert stored["nll_iw"] is None


class TestForeignFiles:
    """Other files in a folder that people have access to."""

    def test_a_foreign_table_is_skipped_with_a_warning(self, folder):
        folder.write_run(row())
        pq.write_table(pa.table({"x": [1]}), path_of(folder, "runs/foreign.parquet"))
        with pytest.warns(UserWarning, match=r"foreign\.parquet"):
            assert [r["run_id"] for r in folder.runs()] == [f"{A}-0"]

    def test_a_folder_with_the_name_of_a_row_is_ignored(self, folder):
        folder.write_run(row())
        path_of(folder, f"runs/{B}-0.parquet").mkdir()
        assert [r["run_id"] for r in folder.runs()] == [f"{A}-0"]

    def test_nan_and_infinity_are_read_as_null(self, folder):
        folder.write_run(row(nll_iw=float("nan"), kl=float("inf"), mi=1.0))
        (stored,) = folder.runs()
        assert (stored["nll_iw"], stored["kl"], stored["mi"]) == (None, None, 1.0)

    @pytest.mark.parametrize("parameters", ["{bad", "[]", "[1]", "3", '"x"'])
    def test_a_row_with_unreadable_parameters_belongs_to_no_sweep(self, parameters):
        spec = spec_of()
        stored = row(arm=spec.arms[0].name, parameters=parameters, config_id=A)
        assert Plan(spec, FINGERPRINT, [stored]).others == [stored]

    def test_results_that_are_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="Cannot access results"):
            stored_sweeps(str(tmp_path / "file"))


class TestLocations:
    def test_a_file_uri_is_the_plain_path(self, tmp_path):
        root = tmp_path / "re sults"
        plain, uri = ResultsFolder(str(root), "s"), ResultsFolder(root.as_uri(), "s")
        uri.prepare()
        uri.write_run(row(nll_iw=2.0))
        assert plain.runs() == uri.runs() == [row(nll_iw=2.0)]
        assert uri.exists()

    def test_a_folder_that_does_not_exist(self, tmp_path):
        folder = ResultsFolder(str(tmp_path / "none"), "s")
        assert not folder.exists()
        assert folder.runs() == folder.curves() == []
        assert list(tmp_path.iterdir()) == []

    def test_a_path_below_a_regular_file_has_no_table(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert not ResultsFolder(str(tmp_path / "file" / "results"), "s").exists()

    @pytest.mark.parametrize("uri", ["nowhere://bucket/x", "://", "file://relative"])
    def test_an_unusable_uri(self, uri):
        with rejects("--results"):
            ResultsFolder(uri, "s").exists()

    def test_a_write_waits_until_the_store_is_repaired(self, folder):
        folder.write_run(row())
        runs = path_of(folder, "runs")
        aside = runs.rename(runs.with_name("aside"))
        runs.write_text("")

        def repair():
            runs.unlink()
            aside.rename(runs)

        threading.Timer(0.7, repair).start()
        replace(folder, patience=60).write_run(row(A, 1))
        assert len(folder.runs()) == 2


class TestOtherReaders:
    """Other engines read the folder as one table, although single files have columns that are all null."""

    @pytest.fixture
    def two(self, folder) -> ResultsFolder:
        folder.write_run(row(A, nll_iw=1.5, au=3, mean_variance=[1.0], started_at=MOMENT))
        folder.write_run(row(B, status="diverged", **{"aggressive.budget": "10"}))
        return folder

    def test_pyarrow(self, two):
        table = pa.dataset.dataset(path_of(two, "runs"), format="parquet").to_table()
        assert table.schema.equals(runs_schema())
        assert sorted(table["nll_iw"].to_pylist(), key=str) == [1.5, None]
        files = sorted(path_of(two, "runs").glob("*.parquet"))
        assert pa.concat_tables([pq.read_table(file) for file in files]).num_rows == 2

    def test_pandas(self, two):
        frame = pd.read_parquet(path_of(two, "runs"))
        assert len(frame) == 2
        assert frame.set_index("run_id").loc[f"{A}-0", "nll_iw"] == 1.5
        assert frame["au"].isna().sum() == 1

    def test_duckdb(self, two, monkeypatch):
        monkeypatch.chdir(path_of(two, "."))
        found = duckdb.sql(
            "SELECT run_id, nll_iw, au, \"aggressive.budget\" FROM 'runs/*.parquet' ORDER BY 1"
        ).fetchall()
        assert found == [(f"{A}-0", 1.5, 3, None), (f"{B}-0", None, None, "10")]


class TestDamage:
    def test_a_truncated_file_is_skipped_with_a_warning(self, folder):
        folder.write_run(row(A))
        folder.write_run(row(B))
        damaged = path_of(folder, f"runs/{A}-0.parquet")
        damaged.write_bytes(damaged.read_bytes()[:-20])
        with pytest.warns(UserWarning, match=r"a-0\.parquet is not counted"):
            assert [r["run_id"] for r in folder.runs()] == [f"{B}-0"]

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but quite long enough"])
    def test_an_unreadable_file_is_skipped_with_a_warning(self, folder, content):
        path_of(folder, f"runs/{A}-0.parquet").write_bytes(content)
        with pytest.warns(UserWarning, match=r"a-0\.parquet is not counted"):
            assert folder.runs() == []

    def test_temporary_hidden_and_other_files_are_ignored(self, folder):
        folder.write_run(row())
        for name in (".a-0.parquet.99.tmp", ".hidden.parquet", "notes.txt", "b-0.parquet.tmp"):
            path_of(folder, f"runs/{name}").write_bytes(b"rubbish")
        assert [r["run_id"] for r in folder.runs()] == [f"{A}-0"]

    def test_a_row_that_cannot_be_read_is_not_skipped(self, folder, monkeypatch):
        """A driver that skips it would repeat its run and overwrite it."""
        folder.write_run(row())

        def fail(self, name):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(ResultsFolder, "_read", fail)
        with pytest.raises(StoreError, match=r"runs/\S+ .*Input/output error"):
            folder.runs()

    def test_a_process_killed_before_the_rename_leaves_the_old_row(self, folder, monkeypatch):
        folder.write_run(row(status="running"))
        before = path_of(folder, f"runs/{A}-0.parquet").read_bytes()

        def kill(source: object, target: object) -> None:
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill)
            with pytest.raises(SystemExit):
                folder.write_run(row(nll_iw=1.0))
        assert path_of(folder, f"runs/{A}-0.parquet").read_bytes() == before
        assert [r["status"] for r in folder.runs()] == ["running"]

    def test_a_changed_byte_is_never_read_as_another_value(self, folder):
        folder.write_run(row(nll_iw=14.25))
        path = path_of(folder, f"runs/{A}-0.parquet")
        content = path.read_bytes()
        for position in range(4, len(content), 997):
            path.write_bytes(content[:position] + bytes([content[position] ^ 8]) + content[position + 1 :])
            with pytest.warns(UserWarning, match="is not counted"):
                assert folder.runs() == []

    def test_a_driver_sets_an_unreadable_row_aside(self, folder):
        """The driver trains the run again, and must not overwrite what may be restored."""
        folder.write_run(row(B))
        for name in (f"{A}-0.parquet", "foreign.parquet"):
            path_of(folder, f"runs/{name}").write_bytes(b"damaged")
        moved, foreign = pytest.warns(UserWarning, match="moved to archive"), pytest.warns(UserWarning, match="foreign")
        with foreign, moved:
            assert folder.runs(set_aside=True) == [row(B)]
        assert [path.read_bytes() for path in path_of(folder, "archive").glob(f"*/runs/{A}-0.parquet")] == [b"damaged"]
        assert folder.files("runs") == [f"runs/{B}-0.parquet", "runs/foreign.parquet"]


class TestCopies:
    """Copies of a row, which synchronising tools leave next to the original."""

    @pytest.fixture
    def copied(self, folder) -> ResultsFolder:
        folder.write_run(row(nll_iw=1.0))
        folder.write_run(row(B, nll_iw=2.0))
        for name in (" (conflicted copy)", ".sync-conflict-20261129-021500-ABCDEFG", " 2"):
            copy = pa.Table.from_pylist([row(nll_iw=9.0)], schema=runs_schema())
            folder.write_table(f"runs/{A}-0{name}.parquet", copy)
        return folder

    def test_the_file_with_the_name_of_the_run_counts(self, copied):
        with pytest.warns(UserWarning, match=r"3 .*not counted.*conflicted copy.*--copies"):
            assert copied.runs() == [row(nll_iw=1.0), row(B, nll_iw=2.0)]

    def test_otherwise_the_first_name_counts(self, copied):
        copied.remove(f"runs/{A}-0.parquet")
        stored = copied.read_table("runs", runs_schema())
        assert list(stored.files) == [f"runs/{A}-0 (conflicted copy).parquet", f"runs/{B}-0.parquet"]
        assert len(stored.copies) == 2

    def test_a_copy_counts_if_the_file_with_the_name_of_the_run_is_damaged(self, copied):
        path_of(copied, f"runs/{A}-0.parquet").write_bytes(b"damaged")
        with pytest.warns(UserWarning, match="not counted"):
            assert [r["nll_iw"] for r in copied.runs()] == [9.0, 2.0]

    def test_copies_of_a_curve(self, folder):
        epochs = [{"epoch": 1, "step": 4}, {"epoch": 2, "step": 8}]
        folder.write_curve(row(), epochs)
        path = path_of(folder, f"curves/{A}-0.parquet")
        path.with_name("copy.parquet").write_bytes(path.read_bytes())
        with pytest.warns(UserWarning, match=r"1 of .*copies.*copy\.parquet"):
            assert [epoch["epoch"] for epoch in folder.curves()] == [1, 2]
