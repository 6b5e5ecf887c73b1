"""`lagvae submit`, `status`, `logs`, `stop`, `list` and `cluster check`: sweeps as jobs of a cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from lagvae_core.errors import ConfigError, ValidationIssue, collect_issues
from sweeps.cli.options import For, Json, Plugins, PointsFrom, Spec, Sweep, SweepSets
from sweeps.formatting import printable, printable_log

if TYPE_CHECKING:
    from cluster.jobs import Cluster
    from sweeps.execution.attempts import Attempt

__all__ = ["check", "jobs_app"]

jobs_app = typer.Typer()

Head = Annotated[
    str,
    typer.Option("--address", metavar="URL", help="URL of the Ray dashboard: http://127.0.0.1:8265 or https://HOST."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Allow sending the token over plain HTTP to another machine.")
]
SharedResults = Annotated[
    str | None,
    typer.Option(
        "--results", metavar="URI", envvar="LAGVAE_RESULTS", help="Results folder or URI that all nodes share."
    ),
]
SelectedResults = Annotated[
    str | None,
    typer.Option(
        "--results",
        metavar="URI",
        help="Results folder or URI; needed if the sweep was submitted with several of them.",
    ),
]


@jobs_app.command()
def submit(
    spec: Spec,
    address: Head,
    results: SharedResults = None,
    sets: SweepSets = None,
    insecure: Insecure = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Skip the check of the nodes.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also repeat the runs that failed or ran out of memory.")
    ] = False,
    duration: For = None,
    points_from: PointsFrom = None,
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """Execute the missing runs of a sweep on a cluster. The sweep continues even if this machine is switched off."""
    from cluster.jobs import Cluster, JobError
    from sweeps.cli.terminal import print_json
    from sweeps.execution.cluster_paths import check_results, data_path
    from sweeps.execution.jobs import find_running
    from sweeps.execution.jobs import submit as submit_job
    from sweeps.execution.preflight import check_report_fits, preflight
    from sweeps.spec.arm_syntax import parse_duration, parse_sets
    from sweeps.spec.sweep import load_spec
    from sweeps.storage.identifiers import SWEEP_NAME

    loaded = load_spec(spec, parse_sets(sets))
    issues: list[ValidationIssue] = []
    if duration is not None:
        with collect_issues(issues):
            parse_duration(duration)
    if points_from is not None and not SWEEP_NAME.fullmatch(points_from):
        issues.append(ValidationIssue("--points-from", "must be the name of a sweep", "", points_from))
    with collect_issues(issues):
        results_uri = check_results(results)
    with collect_issues(issues):
        data = data_path(loaded)
    if issues:
        raise ConfigError(issues)
    cluster = Cluster.open(address, insecure=insecure)
    submission = find_running(cluster, loaded, results_uri)
    if submission is None and not no_check:
        report = preflight(cluster, results_uri, [data] if data else [])
        _print_nodes(report, sys.stderr)
        if not report["ok"]:
            raise JobError("nothing was submitted, because some nodes have problems. To submit anyway, use --no-check.")
        check_report_fits(loaded, report)
    if submission is None:
        submission = submit_job(cluster, loaded, results_uri, retry=retry, duration=duration, points_from=points_from)
    if as_json:
        print_json(submission.to_json())
        return
    if submission.new:
        megabytes = submission.size_bytes / 1e6
        print(f"{loaded.name} was submitted as {submission.submission_id}; {megabytes:.2f} MB were uploaded.")
    else:
        print(f"{loaded.name} is already running as {submission.submission_id}; nothing was submitted.")
    print(f"To follow its output: lagvae logs {loaded.name} -f --address {address}{' --insecure' if insecure else ''}")
    watch = f"lagvae watch {loaded.name} --results {shlex.quote(results_uri)}"
    print(f"To follow its runs, on a machine that can read the results: {watch}")


@jobs_app.command()
def status(
    sweep: Sweep, address: Head, results: SelectedResults = None, insecure: Insecure = False, as_json: Json = False
) -> None:
    """Show the state of a submitted sweep."""
    from sweeps.cli.terminal import print_json
    from sweeps.execution.attempts import count_rows

    _, attempt = _last_attempt(sweep, address, results, insecure)
    counts = count_rows(attempt)
    if as_json:
        print_json(attempt.to_json() | {"rows": counts})
        return
    print(f"{sweep}: {attempt.job.status}, {_describe(attempt)}")
    if counts is None:
        print(printable(f"The table at {attempt.results} cannot be read from this machine."))
    else:
        rows = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no runs yet"
        print(printable(f"The table at {attempt.results}, read from this machine: {rows}."))
    if attempt.job.status == "FAILED" and attempt.job.message:
        print(printable(attempt.job.message.strip().splitlines()[-1][:500]))


@jobs_app.command()
def logs(
    sweep: Sweep,
    address: Head,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new output until the job ends.")] = False,
    results: SelectedResults = None,
    insecure: Insecure = False,
) -> None:
    """Print the output of a submitted sweep.

    With -f, the exit code is that of the job, and Ctrl-C stops the output but not the job.
    """
    from cluster.jobs import JobError

    cluster, attempt = _last_attempt(sweep, address, results, insecure)
    submission_id = attempt.job.submission_id
    if not follow:
        sys.stdout.writelines(printable_log([cluster.log(submission_id)]))
        return
    for text in printable_log(cluster.follow(submission_id)):
        sys.stdout.write(text)
        sys.stdout.flush()
    # The log can end a moment before the cluster marks the job as ended.
    ended = replace(attempt, job=cluster.wait(submission_id, seconds=30))
    if ended.job.active:
        raise JobError(f"the log of {sweep} ended, but its job is still {ended.job.status}. Repeat the command.")
    print(f"{sweep}: {ended.job.status}", file=sys.stderr)
    raise typer.Exit(ended.exit_code)


@jobs_app.command()
def stop(sweep: Sweep, address: Head, results: SelectedResults = None, insecure: Insecure = False) -> None:
    """Stop a submitted sweep. Its runs resume from their checkpoints when the sweep is submitted again."""
    from cluster.jobs import STOP_SECONDS

    cluster, attempt = _last_attempt(sweep, address, results, insecure)
    job = attempt.job
    if not job.active:
        print(f"{sweep} has already ended: {job.status}.")
        return
    cluster.stop(job.submission_id)
    job = cluster.wait(job.submission_id, STOP_SECONDS + 10)
    if job.active:
        print(f"lagvae: {sweep} has not stopped yet. `lagvae logs {sweep}` shows its output.", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{sweep} was stopped. Submit it again to resume it.")


@jobs_app.command("list")
def list_sweeps(address: Head, insecure: Insecure = False, as_json: Json = False) -> None:
    """List the sweeps that were submitted to a cluster."""
    from cluster.jobs import Cluster
    from sweeps.cli.terminal import print_json
    from sweeps.execution.attempts import attempts

    all_attempts = attempts(Cluster.open(address, insecure=insecure))
    if as_json:
        print_json([attempt.to_json() for attempt in all_attempts])
        return
    if not all_attempts:
        print("No sweep was submitted to this cluster.")
    for attempt in all_attempts:
        text = f"{attempt.sweep:<24} {attempt.job.status:<10} {_describe(attempt)}  {attempt.results}"
        print(printable(text))


def check(
    address: Head,
    results: Annotated[
        str | None,
        typer.Option(
            "--results", metavar="URI", help="Results folder or URI that every node must be able to write to."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="Path of data that every node must be able to read. Repeatable."),
    ] = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Check every node of a cluster: versions, results, data, GPUs, disk. If a node has a problem, exit with code 2."""
    from cluster.jobs import Cluster
    from sweeps.cli.terminal import print_json
    from sweeps.execution.cluster_paths import check_paths, check_results
    from sweeps.execution.preflight import preflight

    issues: list[ValidationIssue] = []
    with collect_issues(issues):
        results_uri = check_results(results) if results else None
    with collect_issues(issues):
        paths = check_paths(data or [])
    if issues:
        raise ConfigError(issues)
    report = preflight(Cluster.open(address, insecure=insecure), results_uri, paths)
    if as_json:
        print_json(report)
    else:
        _print_nodes(report, sys.stdout)
    raise typer.Exit(0 if report["ok"] else 2)


def _last_attempt(sweep: str, address: str, results: str | None, insecure: bool) -> tuple[Cluster, Attempt]:
    """Return the cluster at `address` and the last attempt of the sweep on that cluster."""
    from cluster.jobs import Cluster
    from sweeps.execution.attempts import find_attempt
    from sweeps.execution.cluster_paths import check_results

    results_uri = check_results(results) if results else None
    cluster = Cluster.open(address, insecure=insecure)
    return cluster, find_attempt(cluster, sweep, results_uri)


def _describe(attempt: Attempt) -> str:
    started = attempt.job.started_at
    return f"attempt {attempt.number}" + (f", started {started:%Y-%m-%d %H:%M} UTC" if started else "")


def _print_nodes(report: Mapping[str, Any], stream: TextIO) -> None:
    """Print one line per node, followed by its problems and notes."""
    for node in report["nodes"]:
        print(printable(_node_line(node)), file=stream)
        for problem in node["problems"]:
            print(printable(f"       {problem}"), file=stream)
        for note in node.get("notes", []):
            print(printable(f"       note: {note}"), file=stream)


def _node_line(node: Mapping[str, Any]) -> str:
    versions = node.get("versions", {})
    facts = [f"{name} {versions[name]}" for name in ("python", "ray", "torch") if versions.get(name)]
    facts.append(f"{node['resources'].get('CPU', 0):g} cores")
    facts += [f"{gpu['name']} {gpu['memory_bytes'] / 2**30:.0f} GiB" for gpu in node.get("gpus", [])]
    if node.get("free_bytes") is not None:
        facts.append(f"{node['free_bytes'] / 2**30:.0f} GiB free")
    verdict = "FAIL" if node["problems"] else "ok"
    return f"{verdict:<5}  {node['address']}{' (head)' if node['head'] else ''}  {', '.join(facts)}"
