"""Checking the nodes of a cluster before a sweep is submitted. The check is a separate job."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from cluster.job_package import packed
from cluster.jobs import Cluster, Job, JobError
from cluster.preflight import MARK, PreflightRequest, request_text
from sweeps.execution.resources import NodeCapacity, check_fits

if TYPE_CHECKING:
    from sweeps.spec.sweep import SweepSpec

__all__ = ["check_report_fits", "preflight", "requirements"]

CHECK_SECONDS = 420.0
"""Timeout of the check, including the first start of Python on the nodes [s]."""


def preflight(cluster: Cluster, results: str | None, data: Sequence[str]) -> dict[str, Any]:
    """Check versions, results, data, GPUs and disks on all nodes of a cluster.

    The job is not deleted afterwards, because Ray reports a job that is deleted too early as failed.

    Args:
        cluster: The cluster.
        results: Path or URI that every node must be able to write to; None to skip this check.
        data: Paths that every node must be able to read.

    Returns:
        The report of `cluster.preflight`: `nodes` lists all nodes, each with its `problems` and `notes`; `ok` is true
        if no node has a problem.

    Raises:
        JobError: The check itself failed.
    """
    submission_id = f"lagvae-check-{secrets.token_hex(8)}"
    versions = {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")}
    request = PreflightRequest(f".{submission_id}", results, tuple(data), versions, requirements())
    with packed({"question.json": request_text(request)}, ("lagvae_core", "cluster")) as package:
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
        raise JobError(_no_answer_message(job, log))
    report: dict[str, Any] = json.loads(answers[-1])
    return report


def check_report_fits(spec: SweepSpec, report: Mapping[str, Any]) -> None:
    """Check that a node in the report of `preflight` can hold a run. The cluster is assumed to be able to add nodes.

    Raises:
        ConfigError: No node can hold a run, and `resources.concurrent` is `auto`.
    """
    nodes = [NodeCapacity(int(node["resources"]["CPU"]), node["resources"]["GPU"]) for node in report["nodes"]]
    check_fits(spec.resources, nodes, grows=True)


def requirements() -> tuple[str, ...]:
    """Return the packages that must be installed on the nodes: the requirements of lagvae without its extras."""
    try:
        lines = requires("lagvae") or []
    except PackageNotFoundError:
        return ()
    return tuple(line for line in lines if ";" not in line)


def _no_answer_message(job: Job, log: str) -> str:
    last_lines = " / ".join([line for line in log.splitlines() if line.strip()][-3:])
    reason = (last_lines or job.message or job.status)[-600:].rstrip(".")
    state = f"did not end within {CHECK_SECONDS:g} s" if job.active else "failed"
    return (
        f"The check of the cluster {state} ({reason}). Make sure that `python` on the head node is the interpreter "
        "that runs Ray. For details, see the job log in the Ray dashboard."
    )
