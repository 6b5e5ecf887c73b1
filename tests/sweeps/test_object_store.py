"""Results on a store that speaks S3, served on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from processes import lagvae, private_home
from worlds import spec_of, sweep

from cluster import preflight
from lagvae_core.errors import ConfigError
from sweeps import lease
from sweeps.results import ResultsFolder, stored_sweeps
from sweeps.submit import check_results

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
PATIENCE = 60


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")).close()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEYS.items():
                patch.setenv(name, value)
            yield f"s3://bucket/results?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    finally:
        server.kill()
        server.wait()


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
    monkeypatch.setattr(lease, "PACE", lease.Pace(0.05, 2.0, 0.0))
    folder = ResultsFolder(uri, "driven")
    folder.prepare()
    with folder.locked(), pytest.raises(ConfigError, match="be driven by one process at a time"), folder.locked():
        pass
    with folder.locked():
        pass
    assert folder.read(lease.LEASE) is None


def test_nodes_see_each_other_s_files_there(uri, monkeypatch):
    asked = preflight.Question(".probe", check_results(uri), (), {})
    for node in ("a", "b"):
        monkeypatch.setattr(preflight, "_node", lambda node=node: node)
        assert preflight._write(asked) is None
    monkeypatch.setattr(preflight, "APPEAR_SECONDS", 0.0)
    assert preflight.see(asked, ["a", "b", "c"]) == ["c"]
    preflight.clean(asked)
    assert preflight.see(asked, ["a"]) == ["a"]
    assert preflight._free(uri) is None


def test_a_bucket_that_is_not_there(uri):
    with pytest.raises(ConfigError, match="--results must be a folder that can be written to"):
        ResultsFolder(uri.replace("bucket", "other"), "x").prepare()


@pytest.mark.slow
def test_a_whole_sweep_and_again_nothing(uri, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep()))
    with private_home() as home:
        first = lagvae("run", "tiny.yaml", "--results", uri, cwd=tmp_path, home=home)
        assert first.returncode == 0, first.stderr
        table = ResultsFolder(uri, spec_of().name).runs()
        assert [row["status"] for row in table] == ["finished"] * 8
        again = lagvae("run", "tiny.yaml", "--results", uri, cwd=tmp_path, home=home)
    assert again.returncode == 0, again.stderr
    assert ResultsFolder(uri, spec_of().name).runs() == table
