"""Stored warnings about the results of runs, for tables and fronts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lagvae_core.strategies.rules import RESULT_CODES

__all__ = ["result_warnings_of"]


def result_warnings_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the warnings about the results of finished runs, one per arm and code, with the number of affected runs.

    Args:
        rows: Rows of runs.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    texts: dict[tuple[str, str], list[str]] = {}
    for row in finished:
        for text in json.loads(row["warnings"] or "[]"):
            code = text.partition(":")[0]
            if code in RESULT_CODES:
                texts.setdefault((row["arm"], code), []).append(text)
    runs = Counter(row["arm"] for row in finished)
    return [f"{arm} ({len(found)} of {runs[arm]} runs): {found[0]}" for (arm, _), found in texts.items()]
