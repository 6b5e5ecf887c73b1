"""Provenance of the code and history of the attempts."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path

import pytest

import sweeps
from sweeps.storage.provenance import history_of, now, provenance
from sweeps.storage.schema import runs_schema

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=datetime.UTC)


def test_history_grows_by_one_attempt():
    empty = dict.fromkeys(runs_schema().names)
    interrupted = {"status": "interrupted", "stop_reason": "the sweep was interrupted.", "ended_at": MOMENT}
    first = empty | {"attempt": 1} | interrupted
    second = empty | {"attempt": 2, "status": "failed", "error_class": "OSError", "history": history_of(first)}
    entries = json.loads(history_of(second))
    assert [(entry["attempt"], entry["status"], entry["ended_at"]) for entry in entries] == [
        (1, "interrupted", "2024-02-29T12:30:15.000250+00:00"),
        (2, "failed", None),
    ]


def test_now_is_in_utc():
    assert now().utcoffset() == datetime.timedelta(0)


ROOT = Path(sweeps.__file__).resolve().parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the code does not run from a checkout")
def test_the_commit_of_a_checkout_is_recorded():
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance()["git_commit"] == head.stdout.strip()
    assert isinstance(provenance()["git_dirty"], bool)


def test_the_origin_of_a_submitted_job_has_priority(monkeypatch):
    monkeypatch.setenv("LAGVAE_ORIGIN", '{"git_commit": "abc"}')
    assert provenance()["git_commit"] == "abc"
    assert provenance()["python_version"]
