"""Submitting a sweep to a cluster as a job.

The job runs the same driver as `lagvae run`, which resumes the sweep from its table. Ray accepts each job name only
once. If two users submit a sweep at the same time, only one job starts, and the other user sees that the sweep is
running.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

from cluster.job_package import packed
from cluster.jobs import Cluster, JobError
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.execution.attempts import last_attempt, lineage_of
from sweeps.spec.sweep import SweepSpec
from sweeps.spec.yaml import edit_yaml
from sweeps.storage.provenance import provenance

__all__ = ["PACKAGES", "Submission", "find_running", "submit"]

PACKAGES = ("lagvae_core", "sweeps", "cluster")
"""Python packages that are uploaded with a job."""

FILE = "sweep.yaml"
"""Name of the sweep file in the job package."""

TRIES = 5
"""Maximum number of attempts to submit a job, each with the next free name, in case another user takes a name first."""


@dataclass(frozen=True)
class Submission:
    """The result of a submission.

    Args:
        submission_id: Name of the job.
        attempt: Number of the attempt, from 1.
        new: Whether a job was submitted; False if the sweep was already running.
        size_bytes: Size of the upload; 0 if nothing was submitted.
    """

    submission_id: str
    attempt: int
    new: bool
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "submission_id": self.submission_id,
            "attempt": self.attempt,
            "status": "submitted" if self.new else "already running",
            "upload_bytes": self.size_bytes,
        }


def find_running(cluster: Cluster, spec: SweepSpec, results: str) -> Submission | None:
    """Return the job that is running `spec` with these results; None if no job is.

    Raises:
        ConfigError: Another version of the sweep is running with these results.
    """
    last = last_attempt(cluster, lineage_of(spec.name, results))
    if last is None or not last.job.active:
        return None
    if last.job.metadata.get("spec") != spec.hash:
        message = f"must be the version of the sweep that is already running as job {last.job.submission_id}"
        hint = f"Stop that job with `lagvae stop {spec.name}`, or give this sweep another name."
        raise ConfigError([ValidationIssue("SPEC", message, hint, f"{spec.name} (hash {spec.hash})")])
    return Submission(last.job.submission_id, last.number, new=False, size_bytes=0)


def submit(
    cluster: Cluster,
    spec: SweepSpec,
    results: str,
    *,
    retry: bool = False,
    duration: str | None = None,
    points_from: str | None = None,
) -> Submission:
    """Submit a sweep to a cluster, unless it is already running on this cluster with the same results.

    Args:
        cluster: The cluster.
        spec: The sweep.
        results: Path or URI of the results, as `check_results` returns it.
        retry: Whether runs that failed or ran out of memory are repeated.
        duration: Time after which the job ends (see `parse_duration`), counted from its start; None for no limit.
        points_from: Stored sweep from whose front the arms take their first points; None for none.

    Raises:
        ConfigError: Another version of the sweep is running with the same results.
        PackageTooLarge: The code exceeds the size limit of a job package.
        JobError: The cluster did not accept the job.
        AccessDenied: The cluster did not accept the token.
    """
    lineage = lineage_of(spec.name, results)
    command = ["python", "-m", "sweeps", "retry" if retry else "run", FILE, "--results", results, "--address", "auto"]
    command += ["--for", duration] if duration is not None else []
    command += ["--points-from", points_from] if points_from is not None else []
    origin = code_origin()
    environment = {"LAGVAE_ORIGIN": json.dumps(origin)}
    metadata = {
        "sweep": spec.name,
        "results": results,
        "spec": spec.hash,
        "lagvae_version": str(origin.get("lagvae_version") or "unknown"),
        "client": socket.gethostname(),
    }
    plugins = {plugin.name: plugin.text for plugin in spec.plugins}
    text = edit_yaml(spec.source, {"plugins": list(plugins)}) if plugins else spec.source
    with packed({FILE: text, **plugins}, PACKAGES) as package:
        for _ in range(TRIES):
            if (running := find_running(cluster, spec, results)) is not None:
                return running
            last = last_attempt(cluster, lineage)
            number = 1 if last is None else last.number + 1
            if cluster.submit(f"{lineage}-{number}", command, package, metadata, environment):
                return Submission(f"{lineage}-{number}", number, new=True, size_bytes=package.size_bytes)
            # Meanwhile, another user has taken this name.
    raise JobError(
        f"The sweep was not submitted, because other users took all {TRIES} job names that were tried. Submit it again."
    )


def code_origin() -> dict[str, Any]:
    """Return the provenance of the uploaded code, which cannot be determined on the cluster."""
    columns = ("lagvae_version", "git_commit", "git_dirty")
    return {name: value for name, value in provenance().items() if name in columns and value is not None}
