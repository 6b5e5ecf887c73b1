"""A sweep of 14 runs that takes seconds and keeps its models. One of its arms diverges."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from processes import Ended, Listener
from worlds import TINY_TRIAL, sweep

from sweeps.storage.schema import runs_schema
from sweeps.storage.table import ResultsFolder

DIVERGES = 1e30
"""Multiplier of the encoder's learning rate that makes the loss NaN after one step."""

WHEN_AND_WHERE = {
    *("attempt", "history", "host", "started_at", "ended_at", "peak_memory_bytes", "git_commit", "git_dirty"),
    *(name for name in runs_schema().names if name.startswith(("seconds", "cpu_seconds"))),
}
"""Columns that may differ between two runs of the same configuration and seed."""


@dataclass(frozen=True)
class TinySweep:
    """A finished sweep: its working directory, the result of its command, and its table.

    Args:
        here: Working directory of the command.
        ended: Result of the command.
        listeners: Sockets on which a process of the sweep listened.
        temporary: Names of the files and folders that were left in the folder for temporary files.
    """

    here: Path
    ended: Ended
    listeners: Set[Listener] = frozenset()
    temporary: Set[str] = frozenset()

    @property
    def folder(self) -> ResultsFolder:
        """The folder of the sweep."""
        return ResultsFolder(str(self.here / "results"), "tiny")

    @property
    def files(self) -> dict[str, bytes]:
        """Content of every file of the results, by relative path."""
        root = self.here / "results"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_tiny_sweep(here: Path, **changes: Any) -> None:
    """Write the sweep file `tiny.yaml`, with `changes` at its top level, into `here`."""
    trial = TINY_TRIAL | {"model": {**TINY_TRIAL["model"], "init_range": 0.3}}
    arms = {
        "vae": [],
        "anneal": [{"kind": "kl_linear_epoch", "warm_up": {"low": 1, "high": 2}}],
        "encoder_lr": [{"kind": "encoder_lr", "multiplier": {"choices": [1, 2, DIVERGES]}}],
    }
    search = {"sampler": "tpe", "configurations": 3, "seeds": 2, "seed": 0}
    values = sweep(trial=trial, arms=arms, search=search, keep="models") | changes
    (here / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without the columns that depend on time and place."""
    return [{name: value for name, value in row.items() if name not in WHEN_AND_WHERE} for row in rows]
