"""Cluster jobs that run or ran a sweep.

All jobs for one sweep and one results folder form a *lineage*. At most one job of a lineage runs at a time. Each job is
one attempt and is called `lagvae-SWEEP-HASH-ATTEMPT`, where HASH identifies the URI of the results, and ATTEMPT counts
from 1. Each attempt resumes from the table that the previous attempt left, even if that attempt was killed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from cluster.jobs import Cluster, Job
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.storage.identifiers import SWEEP_NAME

__all__ = ["Attempt", "attempts", "count_rows", "find_attempt", "last_attempt", "lineage_of"]


@dataclass(frozen=True)
class Attempt:
    """One job of a sweep.

    Args:
        sweep: Name of the sweep.
        number: Number of the attempt, from 1.
        job: The job of the cluster.
    """

    sweep: str
    number: int
    job: Job

    @property
    def results(self) -> str:
        """Path or URI of the results; "" if it is not in the metadata of the job."""
        return self.job.metadata.get("results", "")

    @property
    def lineage(self) -> str:
        """Name of the job without the number of the attempt."""
        return self.job.submission_id.rpartition("-")[0]

    @property
    def exit_code(self) -> int:
        """Exit code of the command in the job: 0, 1 or 2; 130 if the job was stopped; 1 if it was killed."""
        if self.job.status in ("SUCCEEDED", "STOPPED"):
            return 0 if self.job.status == "SUCCEEDED" else 130
        return self.job.exit_code if self.job.exit_code in (1, 2, 130) else 1

    def to_json(self) -> dict[str, Any]:
        times = {"started_at": self.job.started_at, "ended_at": self.job.ended_at}
        return {
            "sweep": self.sweep,
            "attempt": self.number,
            "status": self.job.status,
            "submission_id": self.job.submission_id,
            "results": self.results,
            **{name: time.isoformat() if time else None for name, time in times.items()},
        }


def lineage_of(sweep: str, results: str) -> str:
    """Return the lineage of a sweep with these results: the name of its jobs without the number of the attempt."""
    return f"lagvae-{sweep}-{hashlib.sha256(results.encode()).hexdigest()[:8]}"


def attempts(cluster: Cluster) -> list[Attempt]:
    """Return all jobs of the cluster that belong to a sweep, oldest first."""
    pattern = re.compile(rf"lagvae-({SWEEP_NAME.pattern})-[0-9a-f]{{8}}-([1-9][0-9]{{0,8}})")
    matches = ((pattern.fullmatch(job.submission_id), job) for job in cluster.jobs())
    return [Attempt(match[1], int(match[2]), job) for match, job in matches if match]


def last_attempt(cluster: Cluster, lineage: str) -> Attempt | None:
    """Return the latest attempt of a lineage; None if the lineage has no attempts."""
    lineage_attempts = (attempt for attempt in attempts(cluster) if attempt.lineage == lineage)
    return max(lineage_attempts, key=lambda attempt: attempt.number, default=None)


def find_attempt(cluster: Cluster, sweep: str, results: str | None) -> Attempt:
    """Return the latest attempt of a sweep.

    Args:
        cluster: The cluster.
        sweep: Name of the sweep.
        results: Path or URI of its results. May be None if all jobs of the sweep have the same results folder, or if
            exactly one of its lineages has a running job.

    Raises:
        ConfigError: The sweep was never submitted with these results, or `results` is None although it is needed.
    """
    every = attempts(cluster)
    of_sweep = [a for a in every if a.sweep == sweep and (results is None or a.lineage == lineage_of(sweep, results))]
    if not of_sweep:
        known = ", ".join(sorted({attempt.sweep for attempt in every}))
        hint = f"Submitted sweeps: {known}." if known else "Submit it with `lagvae submit`."
        with_results = "" if results is None else " with these results"
        message = f"must name a sweep that was submitted to the cluster{with_results}"
        raise ConfigError([ValidationIssue("SWEEP", message, hint, sweep)])
    latest = {attempt.lineage: attempt for attempt in sorted(of_sweep, key=lambda a: a.number)}
    running = [attempt for attempt in latest.values() if attempt.job.active]
    if len(latest) > 1 and len(running) != 1:
        folders = ", ".join(sorted(attempt.results for attempt in latest.values()))
        message = "must have a single results folder unless --results is given"
        hint = f"Set --results to one of: {folders}."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, sweep)])
    return running[0] if len(running) == 1 else next(iter(latest.values()))


def count_rows(attempt: Attempt) -> dict[str, int] | None:
    """Return the number of rows of the sweep by status; None if its table cannot be read from this machine."""
    if not attempt.results:
        return None
    from sweeps.storage.table import ResultsFolder  # its columns are those of all strategies, which import torch

    folder = ResultsFolder(attempt.results, attempt.sweep)
    try:
        rows = folder.runs(only=[]) if folder.exists() else None
    except (OSError, ConfigError):
        return None
    return None if rows is None else dict(sorted(Counter(row["status"] for row in rows).items()))
