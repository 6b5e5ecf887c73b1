"""A sweep as a job on a cluster: what is sent, under which name, and what is told of it.

One job a sweep and results folder: `lagvae-SWEEP-HASH-ATTEMPT`, the hash that of the results' URI. Ray refuses a name
twice, so that of two who submit at once one hears that the sweep is running. The job is the same driver as that of
`lagvae run`, which goes on from the table; so an attempt that ended in any way is continued by the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cluster.job_package import packed
from cluster.jobs import Cluster, Job, JobError
from cluster.preflight import MARK, Question, request_text
from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.execution.resources import NodeCapacity, capacity
from sweeps.spec.sweep import NAME, SweepSpec, parse_yaml
from sweeps.storage.folder import check_uri
from sweeps.storage.provenance import provenance
from sweeps.storage.table import ResultsFolder

__all__ = [
    "PACKAGES",
    "Attempt",
    "Submitted",
    "attempts",
    "check_fits",
    "check_paths",
    "check_results",
    "data_path",
    "find_attempt",
    "find_running",
    "preflight",
    "submit",
    "tally",
]

PACKAGES = ("lagvae_core", "sweeps", "cluster")
"""What travels with a job."""

FILE = "sweep.yaml"

CHECK_SECONDS = 420.0
"""How long a check may take, the nodes' first start of Python included."""

TRIES = 5
"""Submissions under the next free number, should others take it first."""

OPEN_OPTIONS = {"region", "scheme", "endpoint_override", "allow_bucket_creation"}
"""Options of a store's URI that hold no secret."""


@dataclass(frozen=True)
class Attempt:
    """One job of a sweep, by number from 1."""

    sweep: str
    number: int
    job: Job

    @property
    def results(self) -> str:
        return self.job.metadata.get("results", "")

    @property
    def lineage(self) -> str:
        """The job's name without the attempt."""
        return self.job.submission_id.rpartition("-")[0]

    @property
    def exit_code(self) -> int:
        """That of the command which ran there: 0, 1 or 2, 130 if it was stopped; 1 if it was killed."""
        if self.job.status in ("SUCCEEDED", "STOPPED"):
            return 0 if self.job.status == "SUCCEEDED" else 130
        return self.job.exit_code if self.job.exit_code in (1, 2, 130) else 1

    def to_json(self) -> dict[str, Any]:
        moments = {"started_at": self.job.started_at, "ended_at": self.job.ended_at}
        return {
            "sweep": self.sweep,
            "attempt": self.number,
            "status": self.job.status,
            "submission_id": self.job.submission_id,
            "results": self.results,
            **{name: moment.isoformat() if moment else None for name, moment in moments.items()},
        }


@dataclass(frozen=True)
class Submitted:
    """What became of a submission: a new job, or the one that is running already."""

    submission_id: str
    attempt: int
    new: bool
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        status = "submitted" if self.new else "already running"
        return {
            "submission_id": self.submission_id,
            "attempt": self.attempt,
            "status": status,
            "upload_bytes": self.size_bytes,
        }


def check_results(results: str | None) -> str:
    """`results` as every node can mean the same by it; ConfigError if it cannot, or carries a secret."""
    given = results or ""
    if given.startswith("file:///"):
        given = unquote(given.removeprefix("file://"))
    hint = "For example /shared/results, or s3://BUCKET/results."
    usable = given.isprintable() and len(given) <= 1000 and (bool(given.strip("/.")) or "://" in given)
    if not usable or not (given.startswith("/") or "://" in given.rstrip(":/")):
        message = "must be an absolute path or a URI that every node can write to"
        raise ConfigError([ValidationIssue("--results", message, hint, given[:100] or None)])
    if "://" not in given:
        # One folder has one name, by which its jobs are found.
        return os.path.normpath(f"/{given.lstrip('/')}")
    _refuse_secrets(given)
    check_uri(given)
    return given.rstrip("/")


def _refuse_secrets(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        user = parts.username is not None and parts.scheme in ("s3", "gs", "gcs") and parts.username != "anonymous"
        unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - OPEN_OPTIONS
        secret = user or parts.password is not None or bool(unknown)
    except ValueError:
        secret = True
    if secret:
        message = "must be a URI without keys or passwords, as everyone on the cluster sees it"
        hint = "Give the nodes their keys, by a role or by variables of their environment."
        raise ConfigError([ValidationIssue("--results", message, hint, f"{uri.partition('://')[0]}://...")])


def data_path(spec: SweepSpec) -> str | None:
    """Where the cluster finds the sweep's data, or None if they are generated; ConfigError for a relative path."""
    trial = parse_yaml(spec.source, spec.name).get("trial")
    data = trial.get("data") if isinstance(trial, Mapping) else None
    path = data.get("path") if isinstance(data, Mapping) else None
    if path is not None:
        check_paths([path], "trial.data.path")
    return path


def check_paths(paths: Sequence[str], key: str = "--data") -> Sequence[str]:
    """`paths` if each means the same on every node; ConfigError else."""
    message = "must be an absolute path on the cluster's nodes"
    wrong = [ValidationIssue(key, message, f"Give it as {key}=/...", path) for path in paths if not os.path.isabs(path)]
    if wrong:
        raise ConfigError(wrong)
    return paths


def lineage_of(sweep: str, results: str) -> str:
    return f"lagvae-{sweep}-{hashlib.sha256(results.encode()).hexdigest()[:8]}"


def attempts(cluster: Cluster) -> list[Attempt]:
    """Every job of the cluster that is a sweep's, the oldest first."""
    found = []
    for job in cluster.jobs():
        name = re.fullmatch(rf"lagvae-({NAME.pattern})-[0-9a-f]{{8}}-([1-9][0-9]{{0,8}})", job.submission_id)
        if name:
            found.append(Attempt(name[1], int(name[2]), job))
    return found


def find_attempt(cluster: Cluster, sweep: str, results: str | None) -> Attempt:
    """The last attempt of a sweep; ConfigError if there is none, or several folders of results are meant."""
    every = attempts(cluster)
    of_sweep = [a for a in every if a.sweep == sweep and (results is None or a.lineage == lineage_of(sweep, results))]
    if not of_sweep:
        known = ", ".join(sorted({attempt.sweep for attempt in every}))
        hint = f"Known there: {known}." if known else "None was submitted there; see `lagvae submit`."
        raise ConfigError([ValidationIssue("SWEEP", "must be a sweep that was submitted to the cluster", hint, sweep)])
    last = {attempt.lineage: attempt for attempt in sorted(of_sweep, key=lambda a: a.number)}
    running = [attempt for attempt in last.values() if attempt.job.active]
    if len(last) > 1 and len(running) != 1:
        folders = ", ".join(sorted(attempt.results for attempt in last.values()))
        hint = f"Say with --results which of {folders}."
        raise ConfigError(
            [ValidationIssue("SWEEP", "must be one sweep, and was submitted with several results", hint, sweep)]
        )
    return running[0] if len(running) == 1 else next(iter(last.values()))


def check_fits(spec: SweepSpec, report: Mapping[str, Any]) -> None:
    """ConfigError if no node of the cluster that `preflight` told of holds a run, and none may come."""
    nodes = [NodeCapacity(int(node["resources"]["CPU"]), node["resources"]["GPU"]) for node in report["nodes"]]
    wish = spec.resources
    capacity(wish.with_gpus(0) if wish.gpus == "auto" else wish, nodes, grows=True)


def find_running(cluster: Cluster, spec: SweepSpec, results: str) -> Submitted | None:
    """The job that runs `spec` into `results` now; ConfigError if it runs another version of it."""
    last = _last(cluster, lineage_of(spec.name, results))
    if last is None or not last.job.active:
        return None
    if last.job.metadata.get("spec") != spec.hash:
        message = f"must be what is running as {last.job.submission_id}, and that is another version of the sweep"
        hint = f"Stop it with `lagvae stop {spec.name}`, or give this one another name."
        raise ConfigError([ValidationIssue("SPEC", message, hint, f"{spec.name} (hash {spec.hash})")])
    return Submitted(last.job.submission_id, last.number, False, 0)


def submit(cluster: Cluster, spec: SweepSpec, results: str, *, retry: bool = False) -> Submitted:
    """Run `spec` on `cluster`, or tell that it is running there.

    Raises:
        ConfigError: another version of the sweep is running there on the same results.
        ParcelTooLarge, JobError, AccessDenied: the cluster was not given the job.
    """
    lineage = lineage_of(spec.name, results)
    command = ["python", "-m", "sweeps", "retry" if retry else "run", FILE, "--results", results, "--address", "auto"]
    origin = {"LAGVAE_ORIGIN": json.dumps(_origin())}
    with packed(FILE, spec.source, PACKAGES) as package:
        for _ in range(TRIES):
            if (running := find_running(cluster, spec, results)) is not None:
                return running
            last = _last(cluster, lineage)
            number = 1 if last is None else last.number + 1
            if cluster.submit(f"{lineage}-{number}", command, package, _metadata(spec, results), origin):
                return Submitted(f"{lineage}-{number}", number, True, package.size_bytes)
            # Someone else submitted it in between: look again.
    raise JobError(f"The cluster must take one of {TRIES} submissions, but others came first. Submit it again.")


def _last(cluster: Cluster, lineage: str) -> Attempt | None:
    return max((a for a in attempts(cluster) if a.lineage == lineage), key=lambda a: a.number, default=None)


def _metadata(spec: SweepSpec, results: str) -> dict[str, str]:
    origin = _origin().get("lagvae_version") or "unknown"
    return {
        "sweep": spec.name,
        "results": results,
        "spec": spec.hash,
        "lagvae_version": str(origin),
        "client": socket.gethostname(),
    }


def _origin() -> dict[str, Any]:
    """Where the code that travels comes from; the cluster cannot know."""
    kept = ("lagvae_version", "git_commit", "git_dirty")
    return {name: value for name, value in provenance().items() if name in kept and value is not None}


def preflight(cluster: Cluster, results: str | None, data: Sequence[str]) -> dict[str, Any]:
    """The answer of `cluster.preflight`: `nodes`, each with `problems` and `notes`, and whether all is `ok`.

    Its job stays in the cluster's list: Ray puts one that is deleted too soon back as failed.

    Raises:
        JobError: the check itself failed.
    """
    submission_id = f"lagvae-check-{secrets.token_hex(8)}"
    versions = {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")}
    question = Question(f".{submission_id}", results, tuple(data), versions, requirements())
    with packed("question.json", request_text(question), ("cluster",)) as package:
        cluster.submit(submission_id, ["python", "-m", "cluster.preflight", "question.json"], package, {}, {})
    try:
        job = cluster.wait(submission_id, CHECK_SECONDS)
    except KeyboardInterrupt:
        cluster.stop(submission_id)
        raise
    if job.active:
        cluster.stop(submission_id)
    log = cluster.log(submission_id)
    answers = [line.removeprefix(MARK) for line in log.splitlines() if line.startswith(MARK)]
    if not answers:
        raise JobError(_why_no_answer(job, log))
    answer: dict[str, Any] = json.loads(answers[-1])
    return answer


def _why_no_answer(job: Job, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()][-3:]
    told = " / ".join(lines) or job.message or job.status
    state = f"did not end in {CHECK_SECONDS:g} s" if job.active else "failed"
    return (
        f"The check of the cluster {state} ({told[-600:].rstrip('.')}). On the head node `python` must be the one that "
        "Ray runs in, and the dashboard's log says more."
    )


def requirements() -> tuple[str, ...]:
    """What the nodes must have installed: lagvae's own requirements without its extras."""
    try:
        lines = requires("lagvae") or []
    except PackageNotFoundError:
        return ()
    return tuple(line for line in lines if ";" not in line)


def tally(attempt: Attempt) -> dict[str, int] | None:
    """Rows of the sweep by status, or None if its table cannot be read from here."""
    if not attempt.results:
        return None
    folder = ResultsFolder(attempt.results, attempt.sweep)
    try:
        rows = folder.runs() if folder.exists() else None
    except (OSError, ConfigError):
        return None
    return None if rows is None else dict(sorted(Counter(row["status"] for row in rows).items()))
