"""Results on an S3 store that this machine serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import rejects
from object_stores import object_store

from cluster import preflight
from sweeps.execution.cluster_paths import check_results
from sweeps.storage import lease
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


def test_a_bucket_that_does_not_exist(uri):
    with rejects("--results"):
        ResultsFolder(uri.replace("bucket", "other"), "x").prepare()
