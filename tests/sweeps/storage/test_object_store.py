"""Results on an S3 store that this machine serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import rejects
from object_stores import object_store
from worlds import play, spec_of

from cluster import preflight
from sweeps.analysis.following import SweepFollower
from sweeps.execution.cluster_paths import check_results
from sweeps.storage import lease
from sweeps.storage.compaction import compact
from sweeps.storage.driver_observer import DriverObserver, DriverState
from sweeps.storage.table import ResultsFolder, stored_sweeps


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with object_store() as served:
        yield served


def test_files_are_written_replaced_read_and_removed(uri):
    folder = ResultsFolder(uri, "files")
    assert not folder.exists()
    assert folder.runs() == []
    assert folder.read("spec.yaml") is None
    folder.prepare()
    assert folder.exists()
    assert "files" in stored_sweeps(uri)
    for content in (b"one", b"", b"x" * 12_000_000):
        folder.write("checkpoints/run.pt", content)
        assert folder.read("checkpoints/run.pt") == content
    folder.remove("checkpoints/run.pt")
    assert folder.read("checkpoints/run.pt") is None


def test_a_second_driver_fails(uri, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_TIMING", lease.LeaseTiming(0.05, 2.0, 0.0))
    folder = ResultsFolder(uri, "driven")
    folder.prepare()
    with folder.locked(), pytest.raises(lease.LeaseHeldError), folder.locked():
        pass
    with folder.locked():
        pass
    assert folder.read(lease.LEASE) is None


def test_nodes_see_each_other_s_files_there(uri, monkeypatch):
    request = preflight.PreflightRequest(".probe", check_results(uri), (), {})
    for node in ("a", "b"):
        monkeypatch.setattr(preflight, "_node", lambda node=node: node)
        assert preflight._write(request) is None
    monkeypatch.setattr(preflight, "APPEAR_SECONDS", 0.0)
    assert preflight.missing_nodes(request, ["a", "b", "c"]) == ["c"]
    preflight.clean_up(request)
    assert preflight.missing_nodes(request, ["a"]) == ["a"]
    assert preflight._free(uri) is None


def test_a_table_is_compacted(uri):
    folder = ResultsFolder(uri, "compacted")
    folder.prepare()
    for number in range(3):
        identity = {"sweep": "compacted", "arm": "vae", "run_id": f"{number:012}-0", "config_id": f"{number:012}"}
        row = identity | {"seed": 0, "attempt": 1, "status": "finished", "nll_iw": float(number)}
        folder.write_run(row)
        folder.write_curve(row, [{"epoch": 1, "step": 4}])
    runs, curves = folder.runs(), folder.curves()
    assert [(part.before, part.after) for part in compact(folder)] == [(3, 1), (3, 1)]
    assert (folder.runs(), folder.curves()) == (runs, curves)
    folder.write_run({**runs[0], "nll_iw": 9.0})
    compact(folder)
    assert len(folder.files("runs")) == 1
    assert [row["nll_iw"] for row in folder.runs()] == [9.0, 1.0, 2.0]


def test_a_table_is_followed(uri, monkeypatch):
    folder = ResultsFolder(uri, "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec_of().source.encode())
    follower, observer = SweepFollower(folder), DriverObserver(folder)
    assert (follower.read().plan.rows, observer.observe().state) == ({}, DriverState.ABSENT)
    for row in play(spec_of(), ends=1)[0]:
        folder.write_run(row)
    folder.write_curve(row, [{"epoch": 1, "step": 4}])
    folder.write(lease.LEASE, b'{"host": "node-1"}')
    [running] = follower.read().running
    assert (running.run.run_id, [epoch["epoch"] for epoch in running.epochs]) == (row["run_id"], [1])
    assert observer.observe().host == "node-1"
    plan, reads = follower.read().plan, []
    monkeypatch.setattr(ResultsFolder, "_read", lambda folder, name: reads.append(name))
    assert (follower.read().plan is plan, reads) == (True, [])


def test_a_bucket_that_does_not_exist(uri):
    with rejects("--results"):
        ResultsFolder(uri.replace("bucket", "other"), "x").prepare()
