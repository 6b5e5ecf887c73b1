"""Following a stored sweep: what is read again, and what a damaged file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import play, spec_of

from lagvae_core.errors import ConfigError
from sweeps.analysis.following import SweepFollower, default_pause, pause_after
from sweeps.storage import compaction
from sweeps.storage.table import ResultsFolder


def curve(*epochs: int) -> list[dict[str, float]]:
    return [{"epoch": epoch, "step": 4 * epoch, "valid_nll_elbo": 10.0 - epoch, "seconds": epoch} for epoch in epochs]


class Counting(ResultsFolder):
    """A folder that collects the names of the files that are read."""

    def _read(self, name: str) -> bytes | None:
        read.append(name)
        return super()._read(name)


read: list[str] = []


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    """A sweep of which four runs have ended and two are running."""
    folder = Counting(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec_of().source.encode())
    for row in play(spec_of(), ends=4, concurrent=2)[0]:
        folder.write_run(row)
        if row["status"] == "running":
            folder.write_curve(row, curve(1))
    return folder


def path_of(folder: ResultsFolder, name: str) -> Path:
    assert folder.local_path is not None
    return folder.local_path / name


def running(folder: ResultsFolder) -> list[str]:
    return [row["run_id"] for row in folder.runs() if row["status"] == "running"]


class TestReading:
    def test_only_changed_files_are_read_again(self, folder):
        follower = SweepFollower(folder)
        first = follower.read()
        assert {run.run.run_id: run.epochs[-1]["epoch"] for run in first.running} == dict.fromkeys(running(folder), 1)
        read.clear()
        assert follower.read().plan is first.plan
        assert read == []
        [ended, other] = running(folder)
        row = next(row for row in folder.runs() if row["run_id"] == ended)
        folder.write_run(row | {"status": "finished", "nll_iw": 1.0, "au": 1})
        folder.write_curve(next(row for row in folder.runs() if row["run_id"] == other), curve(1, 2))
        read.clear()
        second = follower.read()
        assert read == [f"runs/{ended}.parquet", f"curves/{other}.parquet"]
        assert [(run.run.run_id, run.epochs[-1]["epoch"]) for run in second.running] == [(other, 2)]
        assert second.plan.rows[ended]["nll_iw"] == 1.0
        assert second.news_at >= second.running[0].news_at >= first.running[0].news_at

    def test_a_compaction_changes_no_count(self, folder):
        follower = SweepFollower(folder)
        before = follower.read().plan
        with folder.locked():
            compaction.compact(folder)
        after = follower.read().plan
        assert after.rows.keys() == before.rows.keys()
        assert [arm.ended for arm in after.arms()] == [arm.ended for arm in before.arms()]

    def test_a_row_that_is_removed_does_not_count(self, folder):
        follower = SweepFollower(folder)
        run_id = next(iter(follower.read().plan.rows))
        path_of(folder, f"runs/{run_id}.parquet").unlink()
        assert run_id not in follower.read().plan.rows


class TestDamage:
    def test_a_half_synchronised_row_is_left_out_until_it_is_whole(self, folder):
        follower = SweepFollower(folder)
        run_id = next(iter(follower.read().plan.rows))
        path = path_of(folder, f"runs/{run_id}.parquet")
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        snapshot = follower.read()
        assert list(snapshot.unreadable) == [f"runs/{run_id}.parquet"]
        assert run_id not in snapshot.plan.rows
        path.write_bytes(content)
        snapshot = follower.read()
        assert not snapshot.unreadable
        assert run_id in snapshot.plan.rows

    def test_a_file_that_cannot_be_accessed_is_left_out(self, folder, monkeypatch):
        run_id = running(folder)[0]
        allowed = Counting._read

        def refuse(self: Counting, name: str) -> bytes | None:
            if run_id in name:
                raise PermissionError(13, "Permission denied")
            return allowed(self, name)

        monkeypatch.setattr(Counting, "_read", refuse)
        follower = SweepFollower(folder)
        [(name, reason)] = follower.read().unreadable.items()
        assert (name, "Permission denied" in reason) == (f"runs/{run_id}.parquet", True)
        monkeypatch.setattr(Counting, "_read", allowed)
        assert not follower.read().unreadable

    def test_a_damaged_curve_stays_as_it_was(self, folder):
        follower = SweepFollower(folder)
        follower.read()
        for run_id in running(folder):
            path_of(folder, f"curves/{run_id}.parquet").write_bytes(b"PAR1")
        assert [run.epochs[-1]["epoch"] for run in follower.read().running] == [1, 1]


class TestSweepFile:
    def test_a_later_version_counts(self, folder):
        follower = SweepFollower(folder)
        before = follower.read().plan
        folder.write(
            "spec.yaml", spec_of(arms={"vae": [], "beta": ["beta_vae"], "more": ["free_bits"]}).source.encode()
        )
        assert [arm.arm for arm in follower.read().plan.arms()] == [*(arm.arm for arm in before.arms()), "more"]

    def test_the_former_one_counts_while_the_latest_is_damaged(self, folder):
        follower = SweepFollower(folder)
        follower.read()
        whole = folder.read("spec.yaml")
        folder.write("spec.yaml", b"arms: [")
        snapshot = follower.read()
        assert snapshot.outdated
        assert len(snapshot.plan.rows) == 6
        folder.write("spec.yaml", whole + b"\n")
        assert follower.read().outdated == ""

    def test_a_damaged_one_at_the_start_is_an_error(self, folder):
        folder.write("spec.yaml", b"arms: [")
        with pytest.raises(ConfigError):
            SweepFollower(folder).read()


def test_a_slow_storage_is_read_less_often():
    assert (default_pause("results"), default_pause("file:///results")) == (2.0, 2.0)
    assert default_pause("s3://bucket/results") > 2.0
    assert pause_after(0.1, 2.0) == pytest.approx(1.9)
    assert pause_after(5.0, 2.0) == pytest.approx(20.0)
