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
from sweeps.storage.schema import CURVES_SCHEMA, RUNS_SCHEMA, SCHEMA_VERSION
from sweeps.storage.table import ResultsFolder, stored_sweeps

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=datetime.UTC)


def row(run_id: str = "a-0", **values: Any) -> dict[str, Any]:
    identity = {"sweep": "s", "arm": "vae", "run_id": run_id, "config_id": "a", "configuration": 0, "seed": 0}
    return {**dict.fromkeys(RUNS_SCHEMA.names), **identity, "attempt": 1, "status": "finished", **values}


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
        metadata = pq.read_schema(path_of(folder, "runs/a-0.parquet")).metadata
        assert metadata[b"lagvae_schema"] == SCHEMA_VERSION.encode()

    def test_a_row_of_nulls_keeps_the_types(self, folder):
        folder.write_run(row())
        assert pq.read_schema(path_of(folder, "runs/a-0.parquet")).equals(RUNS_SCHEMA)
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
            folder.write_run(row(f"{arm}{configuration}-{seed}", arm=arm, configuration=configuration, seed=seed))
        assert [r["run_id"] for r in folder.runs()] == ["a2-0", "a2-1", "a10-0", "b0-0"]

    def test_curves(self, folder):
        epochs = [dict.fromkeys((f.name for f in CURVES_SCHEMA), 1) | {"epoch": n} for n in (2, 1)]
        for epoch in epochs:
            for name in ("sweep", "arm", "run_id", "config_id", "seed"):
                del epoch[name]
        folder.write_curve(row(), epochs)
        assert [(r["run_id"], r["epoch"]) for r in folder.curves()] == [("a-0", 1), ("a-0", 2)]
        assert pq.read_schema(path_of(folder, "curves/a-0.parquet")).equals(CURVES_SCHEMA)

    def test_a_column_without_a_declaration_is_an_internal_error(self, folder):
        with pytest.raises(AssertionError, match="nll_of_the_moon"):
            folder.write_run(row(nll_of_the_moon=1.0))
        assert folder.runs() == []

    def test_missing_columns_of_a_file_are_null(self, folder):
        table = pa.table({"run_id": ["old-0"], "arm": ["vae"], "seed": [0], "configuration": [0], "gone": [1]})
        pq.write_table(table, path_of(folder, "runs/old-0.parquet"))
        (stored,) = folder.runs()
        assert set(stored) == set(RUNS_SCHEMA.names)
        assert stored["run_id"] == "old-0"
        assert stored["nll_iw"] is None


class TestForeignFiles:
    """Other files in a folder that people have access to."""

    def test_a_foreign_table_is_skipped_with_a_warning(self, folder):
        folder.write_run(row())
        pq.write_table(pa.table({"x": [1]}), path_of(folder, "runs/foreign.parquet"))
        with pytest.warns(UserWarning, match=r"foreign\.parquet"):
            assert [r["run_id"] for r in folder.runs()] == ["a-0"]

    def test_a_folder_with_the_name_of_a_row_is_ignored(self, folder):
        folder.write_run(row())
        path_of(folder, "runs/b-0.parquet").mkdir()
        assert [r["run_id"] for r in folder.runs()] == ["a-0"]

    def test_nan_and_infinity_are_read_as_null(self, folder):
        folder.write_run(row(nll_iw=float("nan"), kl=float("inf"), mi=1.0))
        (stored,) = folder.runs()
        assert (stored["nll_iw"], stored["kl"], stored["mi"]) == (None, None, 1.0)

    @pytest.mark.parametrize("parameters", ["{bad", "[]", "[1]", "3", '"x"'])
    def test_a_row_with_unreadable_parameters_belongs_to_no_sweep(self, parameters):
        spec = spec_of()
        stored = row(arm=spec.arms[0].name, parameters=parameters, config_id="a")
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
        replace(folder, patience=60).write_run(row("a-1", seed=1))
        assert len(folder.runs()) == 2


class TestOtherReaders:
    """Other engines read the folder as one table, although single files have columns that are all null."""

    @pytest.fixture
    def two(self, folder) -> ResultsFolder:
        folder.write_run(row("a-0", nll_iw=1.5, au=3, mean_variance=[1.0], started_at=MOMENT))
        folder.write_run(row("b-0", status="diverged", **{"aggressive.budget": "10"}))
        return folder

    def test_pyarrow(self, two):
        table = pa.dataset.dataset(path_of(two, "runs"), format="parquet").to_table()
        assert table.schema.equals(RUNS_SCHEMA)
        assert sorted(table["nll_iw"].to_pylist(), key=str) == [1.5, None]
        files = sorted(path_of(two, "runs").glob("*.parquet"))
        assert pa.concat_tables([pq.read_table(file) for file in files]).num_rows == 2

    def test_pandas(self, two):
        frame = pd.read_parquet(path_of(two, "runs"))
        assert len(frame) == 2
        assert frame.set_index("run_id").loc["a-0", "nll_iw"] == 1.5
        assert frame["au"].isna().sum() == 1

    def test_duckdb(self, two, monkeypatch):
        monkeypatch.chdir(path_of(two, "."))
        found = duckdb.sql(
            "SELECT run_id, nll_iw, au, \"aggressive.budget\" FROM 'runs/*.parquet' ORDER BY 1"
        ).fetchall()
        assert found == [("a-0", 1.5, 3, None), ("b-0", None, None, "10")]


class TestDamage:
    def test_a_truncated_file_is_skipped_with_a_warning(self, folder):
        folder.write_run(row("a-0"))
        folder.write_run(row("b-0"))
        damaged = path_of(folder, "runs/a-0.parquet")
        damaged.write_bytes(damaged.read_bytes()[:-20])
        with pytest.warns(UserWarning, match=r"a-0\.parquet"):
            assert [r["run_id"] for r in folder.runs()] == ["b-0"]

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but quite long enough"])
    def test_an_unreadable_file_is_skipped_with_a_warning(self, folder, content):
        path_of(folder, "runs/a-0.parquet").write_bytes(content)
        with pytest.warns(UserWarning, match=r"a-0\.parquet"):
            assert folder.runs() == []

    def test_temporary_hidden_and_other_files_are_ignored(self, folder):
        folder.write_run(row())
        for name in (".a-0.parquet.99.tmp", ".hidden.parquet", "notes.txt", "b-0.parquet.tmp"):
            path_of(folder, f"runs/{name}").write_bytes(b"rubbish")
        assert [r["run_id"] for r in folder.runs()] == ["a-0"]

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
        before = path_of(folder, "runs/a-0.parquet").read_bytes()

        def kill(source: object, target: object) -> None:
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill)
            with pytest.raises(SystemExit):
                folder.write_run(row(nll_iw=1.0))
        assert path_of(folder, "runs/a-0.parquet").read_bytes() == before
        assert [r["status"] for r in folder.runs()] == ["running"]
