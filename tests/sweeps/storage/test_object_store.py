"""Results on a store that speaks S3, served on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from object_stores import object_store

from cluster import preflight
from lagvae_core.errors import ConfigError
from sweeps.execution.cluster_paths import check_results
from sweeps.storage import lease
from sweeps.storage.table import ResultsFolder, stored_sweeps


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with object_store() as served:
        yield served


def test_files_are_replaced_as_a_whole_and_found_again(uri):
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


def test_a_second_driver_is_refused(uri, monkeypatch):
    monkeypatch.setattr(lease, "PACE", lease.LeaseTiming(0.05, 2.0, 0.0))
    folder = ResultsFolder(uri, "driven")
    folder.prepare()
    with folder.locked(), pytest.raises(ConfigError, match="be driven by one process at a time"), folder.locked():
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


def test_a_bucket_that_is_not_there(uri):
    with pytest.raises(ConfigError, match="--results must be a folder that can be written to"):
        ResultsFolder(uri.replace("bucket", "other"), "x").prepare()
