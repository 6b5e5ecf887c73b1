"""A sweep as a job of a cluster, with results on an S3 object store."""

from __future__ import annotations

import pytest
from heads import lagvae, running_head, sweep
from object_stores import object_store

from sweeps.storage.table import ResultsFolder


@pytest.mark.slow
def test_a_second_submission_repeats_no_run(tmp_path):
    (tmp_path / "tiny.yaml").write_text(sweep(search={"sampler": "random", "configurations": 1, "seeds": 1}))
    # Nodes take the credentials of the store from their environment. Here the head does.
    with object_store() as uri, running_head() as head:
        address = ("--address", head.url)
        for submission in (1, 2):
            submitted = lagvae("submit", str(tmp_path / "tiny.yaml"), *address, "--results", uri)
            assert submitted.returncode == 0, submitted.stderr
            assert "lagvae-tiny-" in submitted.stdout
            followed = lagvae("logs", "tiny", "-f", *address)
            assert followed.returncode == 0, followed.stdout + followed.stderr
            table = ResultsFolder(uri, "tiny").runs()
            assert [row["status"] for row in table] == ["finished"] * 2
            assert {row["attempt"] for row in table} == {1}, f"submission {submission} repeated a run"
        assert "2 already stored" in followed.stdout
