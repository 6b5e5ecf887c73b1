"""`lagvae results merge`: the runs of one sweep from two places."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import check_rejected, files_below
from worlds import Row, play, spec_of

from lagvae_core.studies import STUDIES
from sweeps.analysis.merging import merge_results, plan_merge
from sweeps.storage.compaction import compact
from sweeps.storage.folder import checkpoint_name, model_name
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import evaluation_schema

ROWS = {row["run_id"]: row for row in play(spec_of())[0]}
FIRST, SECOND, *OTHERS = ROWS
PLUGIN = b"# a plugin"


def write(folder: ResultsFolder, rows: Mapping[str, Row], **changes: Any) -> None:
    for row in rows.values():
        folder.write_run(row | changes)
        folder.write_curve(row, [{"epoch": 1, "step": 4, "valid_kl": row["nll_iw"]}])


@pytest.fixture
def here(tmp_path: Path) -> ResultsFolder:
    return folder_at(tmp_path / "results")


@pytest.fixture
def there(tmp_path: Path) -> ResultsFolder:
    return folder_at(tmp_path / "other")


def folder_at(results: Path, sweep: str = "tiny", **changes: Any) -> ResultsFolder:
    folder = ResultsFolder(str(results), sweep)
    folder.prepare()
    folder.write("spec.yaml", spec_of(**changes).source.encode())
    return folder


def merge(call: Any) -> Any:
    return call("results", "merge", "other/tiny", "tiny", "--json")


class TestRows:
    @pytest.mark.parametrize("is_compacted", [False, True])
    def test_new_runs_are_added_with_their_curves(self, call, here, there, is_compacted):
        write(here, {FIRST: ROWS[FIRST], SECOND: ROWS[SECOND]})
        write(there, {name: row for name, row in ROWS.items() if name != FIRST})
        if is_compacted:
            compact(here)
            compact(there)
        before = files_below(Path(there.results))
        counts = json.loads(merge(call).stdout)
        assert (sorted(counts["new"]), counts["replaced"], counts["kept"]) == (sorted(OTHERS), [], [SECOND])
        assert {row["run_id"]: row for row in here.runs()} == ROWS
        assert {epoch["run_id"]: epoch["valid_kl"] for epoch in here.curves()} == {
            name: row["nll_iw"] for name, row in ROWS.items()
        }
        assert files_below(Path(there.results)) == before
        again = json.loads(merge(call).stdout)
        assert (again["new"], again["replaced"], again["files"]) == ([], [], 0)

    def test_an_ended_row_counts_more_than_an_unfinished_one(self, call, here, there):
        write(here, {FIRST: ROWS[FIRST]}, status="interrupted", nll_iw=None)
        write(here, {SECOND: ROWS[SECOND]})
        write(there, {FIRST: ROWS[FIRST]})
        write(there, {SECOND: ROWS[SECOND]}, status="running", nll_iw=None)
        here.write(checkpoint_name(FIRST), b"outdated")
        counts = json.loads(merge(call).stdout)
        assert (counts["new"], counts["replaced"], counts["kept"]) == ([], [FIRST], [SECOND])
        assert {row["run_id"]: row for row in here.runs()} == {name: ROWS[name] for name in (FIRST, SECOND)}
        assert not here.holds(checkpoint_name(FIRST))

    def test_different_ended_rows_are_refused(self, call, here, there, tmp_path):
        write(here, ROWS)
        write(there, {FIRST: ROWS[FIRST], SECOND: ROWS[SECOND]}, nll_iw=1.0)
        before = files_below(tmp_path)
        check_rejected(merge(call), "FROM", "2 runs", FIRST, SECOND)
        assert set(files_below(tmp_path)) - set(before) == {"results/tiny/.driver.lock"}
        assert {row["run_id"]: row for row in here.runs()} == ROWS


class TestOtherFiles:
    def test_they_come_along(self, call, here, there):
        write(here, {FIRST: ROWS[FIRST]})
        write(there, {FIRST: ROWS[FIRST], SECOND: ROWS[SECOND]})
        write(there, {OTHERS[0]: ROWS[OTHERS[0]]}, status="interrupted")
        evaluation = dict.fromkeys(evaluation_schema(STUDIES["probe"]).names)
        evaluation |= {name: ROWS[FIRST][name] for name in ("sweep", "arm", "run_id", "config_id", "seed")}
        table = pa.Table.from_pylist([evaluation], schema=evaluation_schema(STUDIES["probe"]))
        there.write_table(f"evaluations/probe/{FIRST}.parquet", table)
        there.write(f"plugins/{sha256(PLUGIN).hexdigest()}.py", PLUGIN)
        there.write(f"plugins/{'0' * 64}.py", b"another text")
        there.write(checkpoint_name(OTHERS[0]), b"checkpoint")
        for name in (FIRST, SECOND, "not-a-run"):
            there.write(model_name(name), name.encode())
        merge(call)
        assert here.read(model_name(FIRST)) == FIRST.encode()
        assert here.read(model_name(SECOND)) == SECOND.encode()
        assert here.read(checkpoint_name(OTHERS[0])) == b"checkpoint"
        assert here.files("evaluations/probe") == [f"evaluations/probe/{FIRST}.parquet"]
        assert here.files("plugins") == [f"plugins/{sha256(PLUGIN).hexdigest()}.py"]
        assert not here.holds(model_name("not-a-run"))

    @pytest.mark.parametrize("step", range(0, 3 * len(ROWS), 5))
    def test_an_interrupted_merge_can_be_repeated(self, call, here, there, monkeypatch, step):
        """A run with a row has all its other files at any moment."""
        write(there, ROWS)
        for name in ROWS:
            there.write(model_name(name), name.encode())
        writes, original = iter(range(step)), ResultsFolder._write

        def write_some(self: Any, name: str, content: bytes) -> None:
            if next(writes, None) is None:
                raise KeyboardInterrupt
            original(self, name, content)

        plan = plan_merge(there, here)
        with monkeypatch.context() as patch:
            patch.setattr(ResultsFolder, "_write", write_some)
            with pytest.raises(KeyboardInterrupt):
                merge_results(there, here, plan)
        for row in here.runs():
            assert here.holds(model_name(row["run_id"]))
            assert here.curve(row["run_id"])
        merge(call)
        assert {row["run_id"]: row for row in here.runs()} == ROWS


class TestRefused:
    def test_another_sweep(self, call, here, tmp_path):
        folder_at(tmp_path / "other", "small", name="small")
        check_rejected(call("results", "merge", "other/small", "tiny"), "FROM", "tiny", "small")

    def test_another_version_of_the_sweep(self, call, here, tmp_path):
        write(here, ROWS)
        changed = {"arms": {"vae": [], "beta": [{"kind": "beta_vae", "beta": 0.5}]}}
        there = folder_at(tmp_path / "other", **changed)
        write(there, {row["run_id"]: row for row in play(spec_of(**changed))[0] if row["arm"] == "beta"})
        check_rejected(merge(call), "FROM", "2 runs", "same sweep")
        assert {row["run_id"]: row for row in here.runs()} == ROWS

    def test_a_folder_that_does_not_exist(self, call, here):
        check_rejected(call("results", "merge", "nowhere/tiny", "tiny"), "nowhere")
        check_rejected(call("results", "merge", "tiny", "tiny"), "SWEEP")

    def test_a_running_driver_is_not_disturbed(self, call, here, there):
        with here.locked():
            check_rejected(merge(call), "driver")
