"""`lagvae results list`, `archive` and `compact`, and rows of an earlier version of a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import check_rejected, files_below
from worlds import play, spec_of

from sweeps.storage.folder import model_name
from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

CHANGED = {"arms": {"vae": [], "beta": [{"kind": "beta_vae", "beta": 0.5}]}}
"""A later version of the sweep, whose arm `beta` has the old name and another configuration."""


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """The results of two versions of a sweep; the latest version is stored."""
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    rows = {row["run_id"]: row for version in ({}, CHANGED) for row in play(spec_of(**version))[0]}
    for row in rows.values():
        folder.write_run(row)
        folder.write_curve(row, [{"epoch": 1, "step": 4, "valid_kl": 1.0}])
        folder.write(model_name(row["run_id"]), b"weights")
    folder.write("spec.yaml", spec_of(**CHANGED).source.encode())
    return folder


class TestList:
    def test_it_counts_the_runs_by_status(self, call, folder):
        (entry,) = json.loads(call("results", "list", "--json").stdout)
        rows = folder.runs()
        assert (entry["sweep"], entry["statuses"]) == ("tiny", {"finished": len(rows)})
        assert entry["latest"] == max(row["ended_at"] for row in rows).isoformat()

    def test_folders_that_are_no_sweeps_are_not_listed(self, call, folder):
        for name in ("empty", "\x1b[31m", ".hidden"):
            (Path(folder.results) / name / ("other" if name == "empty" else "runs")).mkdir(parents=True)
        assert [line.split()[0] for line in call("results", "list").stdout.splitlines()] == ["sweep", "tiny"]

    def test_a_folder_that_cannot_be_used_is_left_out(self, call, folder, tmp_path):
        (tmp_path / "results" / "other").mkdir()
        (tmp_path / "results" / "other" / "runs").symlink_to(tmp_path)
        with pytest.warns(UserWarning, match="other is left out"):
            ended = call("results", "list")
        assert [line.split()[0] for line in ended.stdout.splitlines()] == ["sweep", "tiny"]

    def test_no_results(self, call):
        assert call("results", "list").stdout == "no sweep is stored in results\n"


class TestEarlierVersions:
    def test_their_rows_are_told_apart(self, call, folder):
        lines = call("results", "show", "tiny", "--columns", "nll_iw").stdout.splitlines()
        versions = [(line.split()[0], line.split()[-1]) for line in lines[1:-1]]
        assert versions == [("vae", "current"), ("beta", "current"), *[("beta", "earlier")] * 3]
        assert lines[-1].startswith("6 stored rows of an earlier version")
        assert "6 stored rows of an earlier version" in call("results", "pareto", "tiny").stdout

    def test_their_curves_are_told_apart(self, call, folder):
        lines = call("results", "curves", "tiny", "--columns", "valid_kl", "--png", "curves.svg").stdout.splitlines()
        versions = [(line.split()[0], line.split()[-1]) for line in lines[1:-1]]
        assert versions == [("vae", "current"), ("beta", "current"), *[("beta", "earlier")] * 3]
        assert lines[-1].startswith("6 stored rows of an earlier version")
        assert Path("curves.svg").read_text().count("(earlier)") == 3

    def test_they_are_archived_with_all_their_files(self, call, folder):
        before = folder.runs()
        moved = json.loads(call("results", "archive", "tiny", "--orphans", "--json").stdout)
        assert len(moved["files"]) == 3 * 6
        assert {name.split("/")[0] for name in moved["files"]} == {"runs", "curves", "models"}
        assert all(folder.holds(f"{moved['archive']}/{name}") for name in moved["files"])
        after = folder.runs()
        assert len(before) - len(after) == 6
        assert {row["run_id"] for row in folder.curves()} == {row["run_id"] for row in after}
        for verb, column in (("show", "nll_iw"), ("curves", "valid_kl")):
            assert "version" not in call("results", verb, "tiny", "--columns", column).stdout
        assert call("results", "archive", "tiny", "--orphans").stdout == "there is nothing to move\n"

    def test_their_copies_do_not_take_their_place(self, call, folder):
        rows = folder.read_table("runs", runs_schema()).files
        for name in rows:
            folder.write(name.replace(".parquet", " 2.parquet"), folder.read(name))
        json.loads(call("results", "archive", "tiny", "--orphans", "--json").stdout)
        assert len(folder.read_table("runs", runs_schema()).files) == len(rows) - 6


class TestArchive:
    @pytest.mark.filterwarnings("ignore:.*not counted")
    def test_copies_and_unreadable_files(self, call, folder):
        (first, second, *_) = folder.files("runs")
        folder.write("curves/copy.parquet", folder.read(folder.files("curves")[0]))
        folder.write("runs/copy.parquet", folder.read(first))
        folder.write(second, b"damaged")
        (Path(folder.results) / "tiny" / "runs" / "link.parquet").symlink_to("/etc/hostname")
        moved = json.loads(call("results", "archive", "tiny", "--copies", "--unreadable", "--json").stdout)
        assert moved["files"] == ["runs/copy.parquet", "curves/copy.parquet", "runs/link.parquet", second]
        assert not {"runs/copy.parquet", second, "runs/link.parquet"} & set(folder.files("runs"))

    def test_without_a_selection_nothing_is_moved(self, call, folder):
        before = files_below(folder.local_path)
        check_rejected(call("results", "archive", "tiny"), "--orphans", "--copies", "--unreadable")
        assert files_below(folder.local_path) == before

    def test_a_running_driver_is_not_disturbed(self, call, folder):
        with folder.locked():
            check_rejected(call("results", "archive", "tiny", "--orphans"), "driver")


class TestCompact:
    VERBS = (
        "show tiny --json",
        "show tiny --columns nll_iw",
        "pareto tiny --json",
        "curves tiny --json",
        "list --json",
    )

    def test_no_command_sees_a_difference(self, call, folder):
        before = [call("results", *verb.split()).stdout for verb in self.VERBS]
        parts = json.loads(call("results", "compact", "tiny", "--json").stdout)
        runs = len(folder.runs())
        for part in ("runs", "curves"):
            assert (parts[part]["before"], parts[part]["after"], len(folder.files(part))) == (runs, 1, 1)
        assert [call("results", *verb.split()).stdout for verb in self.VERBS] == before
        assert "nothing to compact in 1 file" in call("results", "compact", "tiny").stdout

    def test_a_sweep_continues_after_it(self, call, folder):
        spec = spec_of(search={"sampler": "random", "configurations": 3, "seeds": 3, "seed": 0})
        folder.write("spec.yaml", spec.source.encode())
        call("results", "compact", "tiny")
        rows, _ = play(spec, folder.runs())
        known = {row["run_id"] for row in folder.runs()}
        new = [row for row in rows if row["run_id"] not in known]
        assert len(new) == 4  # the third seed of three configurations of `beta`, and of `vae`
        for row in new:
            folder.write_run(row)
        assert len(folder.files("runs")) == 1 + len(new)
        assert {row["run_id"] for row in folder.runs()} == known | {row["run_id"] for row in new}

    def test_runs_of_an_earlier_version_can_still_be_archived(self, call, folder):
        call("results", "compact", "tiny")
        before = {row["run_id"] for row in folder.runs()}
        moved = json.loads(call("results", "archive", "tiny", "--orphans", "--json").stdout)
        assert len(moved["files"]) == 3 * 6
        after = {row["run_id"] for row in folder.runs()}
        assert {row["run_id"] for row in folder.curves()} == after
        assert len(before - after) == 6

    def test_a_running_driver_is_not_disturbed(self, call, folder):
        before = files_below(folder.local_path)
        with folder.locked():
            check_rejected(call("results", "compact", "tiny"), "driver")
        (lock,) = set(files_below(folder.local_path)) - set(before)
        assert lock == ".driver.lock"

    def test_an_unknown_sweep(self, call, folder):
        check_rejected(call("results", "compact", "tniy"), "SWEEP", "Did you mean tiny?")
