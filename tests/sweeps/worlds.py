"""Shared by the tests of sweeps: small sweep files, rows without training, and a driver without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from helpers import TINY_DATA

from sweeps.search.plan import Plan, Run
from sweeps.search.scheduler import RunScheduler
from sweeps.spec.sweep import SweepSpec, parse_spec
from sweeps.storage.provenance import history_of, now
from sweeps.storage.schema import runs_schema

FINGERPRINT = "0" * 64

TINY_TRIAL: dict[str, Any] = {
    "data": TINY_DATA,
    "model": {"hidden": 8, "embedding": 8, "latent_dim": 2},
    "training": {"epochs": 2},
    "evaluation": {"iw_samples": 10},
}

Row = dict[str, Any]
Answer = Callable[[Run], Mapping[str, Any]]


def sweep(**changes: Any) -> dict[str, Any]:
    """Return a valid sweep file as a mapping, with `changes` at its top level; None removes a key."""
    values: dict[str, Any] = {
        "name": "tiny",
        "trial": TINY_TRIAL,
        "arms": {"vae": [], "beta": ["beta_vae"]},
        "search": {"sampler": "random", "configurations": 3, "seeds": 2, "seed": 0},
    }
    values |= changes
    return {key: value for key, value in values.items() if value is not None}


def spec_of(**changes: Any) -> SweepSpec:
    """Return the spec of `sweep(**changes)`."""
    return parse_spec(yaml.safe_dump(sweep(**changes), sort_keys=False))


def row_of(run: Run, **values: Any) -> Row:
    """Return the row that a driver writes for `run`, with `values` as its results."""
    return {
        **dict.fromkeys(runs_schema().names),
        "sweep": "tiny",
        "arm": run.arm,
        "run_id": run.run_id,
        "config_id": run.config_id,
        "configuration": run.configuration,
        "seed": run.seed,
        "attempt": run.attempt,
        "status": "finished",
        "history": history_of(run.stored) if run.stored is not None else None,
        "parameters": json.dumps(dict(run.parameters)),
        "started_at": now(),
        "ended_at": None if values.get("status") == "running" else now(),
        "data_fingerprint": FINGERPRINT,
        **values,
    }


def plausible(run: Run) -> dict[str, Any]:
    """Return objectives that depend on configuration and seed only."""
    number = int(run.config_id, 16) % 1000
    return {"nll_iw": 100.0 + number / 100 + run.seed, "au": number % 3}


def play(
    spec: SweepSpec,
    rows: Iterable[Row] = (),
    answer: Answer = plausible,
    ends: int | None = None,
    concurrent: int = 1,
    retry: bool = False,
) -> tuple[list[Row], RunScheduler]:
    """Drive a sweep without training.

    Args:
        spec: The sweep.
        rows: The rows that are stored already.
        answer: Results of a run.
        ends: Stop after this number of runs ended; None drives the sweep to its end.
        concurrent: Number of runs at a time.
        retry: Whether runs that failed or were out of memory run again.

    Returns:
        The rows, in which runs that were cut off are `running`, and the scheduler.
    """
    table = {row["run_id"]: row for row in rows}
    scheduler = RunScheduler(Plan(spec, FINGERPRINT, list(table.values()), retry=retry))
    running: list[Run] = []
    while True:
        while len(running) < concurrent and (run := scheduler.next_run()) is not None:
            running.append(run)
            table[run.run_id] = row_of(run, status="running")
        if not running or ends == 0:
            return list(table.values()), scheduler
        run = running.pop(0)
        table[run.run_id] = row_of(run, **answer(run))
        scheduler.on_run_ended(run, table[run.run_id])
        ends = None if ends is None else ends - 1


def run_ids(rows: Iterable[Row]) -> list[str]:
    """Return the `run_id`s of `rows`, sorted."""
    return sorted(row["run_id"] for row in rows)
