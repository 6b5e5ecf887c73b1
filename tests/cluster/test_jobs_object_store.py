"""A sweep as a job of a cluster whose results are on a store that speaks S3."""

from __future__ import annotations

from heads import lagvae, running_head, sweep
from object_stores import object_store

from sweeps.storage.table import ResultsFolder


def test_a_whole_sweep_and_again_nothing(tmp_path):
    (tmp_path / "tiny.yaml").write_text(sweep())
    # The nodes get their keys from their environment, as the head does here.
    with object_store() as uri, running_head() as head:
        to = ("--address", head.url)
        for attempt in (1, 2):
            submitted = lagvae("submit", str(tmp_path / "tiny.yaml"), *to, "--results", uri)
            assert submitted.returncode == 0, submitted.stderr
            assert submitted.stdout.startswith("tiny is submitted as lagvae-tiny-")
            followed = lagvae("logs", "tiny", "-f", *to)
            assert followed.returncode == 0, followed.stdout + followed.stderr
            table = ResultsFolder(uri, "tiny").runs()
            assert [row["status"] for row in table] == ["finished"] * 8
            assert {row["attempt"] for row in table} == {1}, f"submission {attempt} ran something again"
        assert "8 already stored" in followed.stdout
