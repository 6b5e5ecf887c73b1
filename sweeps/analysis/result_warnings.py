"""Stored warnings about the results of runs, for tables and fronts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lagvae_core.strategies.rules import RESULT_CODES
from sweeps.storage.row_table import RowTable

__all__ = ["result_warnings_of"]


def result_warnings_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the warnings about the results of finished runs, one per arm and code, with the number of affected runs.

    Args:
        rows: Rows of runs.
    """
    table = RowTable.of(rows, ["arm", "status", "warnings"])
    finished = table.filter(table.equals("status", "finished"))
    groups = finished.groups("arm", "warnings")
    first = finished.take(groups.first_G)
    counts: Counter[tuple[str, str]] = Counter()
    texts: dict[tuple[str, str], str] = {}
    for arm, stored, runs in zip(first.values("arm"), first.values("warnings"), groups.count_G.tolist(), strict=True):
        for text in json.loads(stored or "[]"):
            code = text.partition(":")[0]
            if code in RESULT_CODES:
                counts[arm, code] += runs
                texts.setdefault((arm, code), text)
    of_arm = dict(zip(finished.codes("arm")[1], finished.groups("arm").count_G.tolist(), strict=True))
    return [f"{arm} ({counts[arm, code]} of {of_arm[arm]} runs): {text}" for (arm, code), text in texts.items()]
