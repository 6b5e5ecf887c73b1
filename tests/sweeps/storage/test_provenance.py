from __future__ import annotations

import datetime
import json

from sweeps.storage.provenance import history_of, now
from sweeps.storage.schema import RUNS_SCHEMA

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=datetime.UTC)


def test_history_grows_by_one_attempt():
    empty = dict.fromkeys(RUNS_SCHEMA.names)
    interrupted = {"status": "interrupted", "stop_reason": "the sweep was interrupted.", "ended_at": MOMENT}
    first = empty | {"attempt": 1} | interrupted
    second = empty | {"attempt": 2, "status": "failed", "error_class": "OSError", "history": history_of(first)}
    told = json.loads(history_of(second))
    assert [(t["attempt"], t["status"], t["ended_at"]) for t in told] == [
        (1, "interrupted", "2024-02-29T12:30:15.000250+00:00"),
        (2, "failed", None),
    ]


def test_now_is_in_utc():
    assert now().utcoffset() == datetime.timedelta(0)
