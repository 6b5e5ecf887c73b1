"""`lagvae submit`, `status`, `logs`, `stop`, `list` and `cluster check`: sweeps as jobs of a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lagvae_core.errors import ConfigError, ValidationIssue, collect_issues
from sweeps.cli.options import Json, Sets, Spec, Sweep

if TYPE_CHECKING:
    from cluster.jobs import Cluster
    from sweeps.execution.attempts import Attempt

__all__ = ["check", "jobs_app"]

jobs_app = typer.Typer()

Head = Annotated[
    str,
    typer.Option("--address", metavar="URL", help="The cluster's dashboard: http://127.0.0.1:8265, https://HOST."),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let the token travel over plain HTTP to another machine.")]
Where = Annotated[
    str | None,
    typer.Option("--results", metavar="URI", envvar="LAGVAE_RESULTS", help="Shared folder or URI of the tables."),
]
WhichResults = Annotated[
    str | None, typer.Option("--results", metavar="URI", help="Which one, if the sweep has several results.")
]


def say(text: str) -> None:
    print(text, file=sys.stderr)


@jobs_app.command()
def submit(
    spec: Spec,
    address: Head,
    results: Where = None,
    sets: Sets = None,
    insecure: Insecure = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not look at the nodes first.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Once more also what failed or ran out of memory.")] = False,
    as_json: Json = False,
) -> None:
    """Run what is missing of a sweep on a cluster; this machine may be closed meanwhile."""
    from cluster.jobs import Cluster
    from sweeps.execution.cluster_paths import check_results, data_path
    from sweeps.execution.jobs import find_running
    from sweeps.execution.jobs import submit as submitted
    from sweeps.execution.preflight import check_report_fits, preflight
    from sweeps.spec.arm_syntax import parse_sets
    from sweeps.spec.sweep import load_spec

    loaded = load_spec(spec, parse_sets(sets))
    issues: list[ValidationIssue] = []
    with collect_issues(issues):
        where = check_results(results)
    with collect_issues(issues):
        data = data_path(loaded)
    if issues:
        raise ConfigError(issues)
    cluster = Cluster.open(address, insecure=insecure)
    done = find_running(cluster, loaded, where)
    if done is None and not no_check:
        report = preflight(cluster, where, [data] if data else [])
        show_nodes(report, sys.stderr)
        if not report["ok"]:
            say("lagvae: nothing was submitted. --no-check submits all the same.")
            raise typer.Exit(2)
        check_report_fits(loaded, report)
    if done is None:
        done = submitted(cluster, loaded, where, retry=retry)
    if as_json:
        print(json.dumps(done.to_json()))
        return
    if done.new:
        print(f"{loaded.name} is submitted as {done.submission_id}; {done.size_bytes / 1e6:.2f} MB went along.")
    else:
        print(f"{loaded.name} is running already as {done.submission_id}; nothing was submitted.")
    print(f"Follow it: lagvae logs {loaded.name} -f --address {address}{' --insecure' if insecure else ''}")


@jobs_app.command()
def status(
    sweep: Sweep, address: Head, results: WhichResults = None, insecure: Insecure = False, as_json: Json = False
) -> None:
    """How a submitted sweep stands."""
    from sweeps.execution.attempts import count_rows

    with found(sweep, address, results, insecure) as (_, attempt):
        counts = count_rows(attempt)
    if as_json:
        print(json.dumps(attempt.to_json() | {"rows": counts}))
        return
    print(f"{sweep}: {attempt.job.status}, {described(attempt)}")
    if counts is None:
        print(f"Its table at {attempt.results} is not readable from here.")
    else:
        shown = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no run yet"
        print(f"Its table at {attempt.results}, as seen from here: {shown}.")
    if attempt.job.status == "FAILED" and attempt.job.message:
        print(attempt.job.message.strip().splitlines()[-1][:500])


@jobs_app.command()
def logs(
    sweep: Sweep,
    address: Head,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    results: WhichResults = None,
    insecure: Insecure = False,
) -> None:
    """What a submitted sweep prints. With -f Ctrl-C ends the following alone, and the exit code is that of the job."""
    with found(sweep, address, results, insecure) as (cluster, attempt):
        name = attempt.job.submission_id
        if not follow:
            sys.stdout.write(cluster.log(name))
            return
        for piece in cluster.follow(name):
            sys.stdout.write(piece)
            sys.stdout.flush()
        # The log may end a moment before the job is written down as ended.
        ended = replace(attempt, job=cluster.wait(name, seconds=30))
    if ended.job.active:
        say(f"lagvae: the log of {sweep} ended, but the job goes on ({ended.job.status}). Follow it again.")
        raise typer.Exit(2)
    say(f"{sweep}: {ended.job.status}")
    raise typer.Exit(ended.exit_code)


@jobs_app.command()
def stop(sweep: Sweep, address: Head, results: WhichResults = None, insecure: Insecure = False) -> None:
    """End a submitted sweep; its runs go on from their checkpoints when it is submitted again."""
    from cluster.jobs import STOP_SECONDS

    with found(sweep, address, results, insecure) as (cluster, attempt):
        job = attempt.job
        if not job.active:
            print(f"{sweep} has ended already: {job.status}.")
            return
        cluster.stop(job.submission_id)
        job = cluster.wait(job.submission_id, STOP_SECONDS + 10)
    if job.active:
        say(f"lagvae: {sweep} did not end in time. Look at `lagvae logs {sweep}`.")
        raise typer.Exit(1)
    print(f"{sweep} is stopped. Submit it again, and it goes on where it was.")


@jobs_app.command("list")
def list_sweeps(address: Head, insecure: Insecure = False, as_json: Json = False) -> None:
    """Every sweep that was submitted to a cluster."""
    from cluster.jobs import Cluster
    from sweeps.execution.attempts import attempts

    every = attempts(Cluster.open(address, insecure=insecure))
    if as_json:
        print(json.dumps([attempt.to_json() for attempt in every]))
        return
    if not every:
        print("No sweep was submitted to this cluster.")
    for attempt in every:
        print(f"{attempt.sweep:<24} {attempt.job.status:<10} {described(attempt)}  {attempt.results}")


def check(
    address: Head,
    results: Annotated[
        str | None, typer.Option("--results", metavar="URI", help="Shared folder or URI that every node must write to.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="PATH", help="Data that every node must see. Repeatable.")
    ] = None,
    insecure: Insecure = False,
    as_json: Json = False,
) -> None:
    """Ask every node of a cluster: versions, shared results, data, GPUs, disk. Exit code 2 if one cannot work."""
    from cluster.jobs import Cluster
    from sweeps.execution.cluster_paths import check_paths, check_results
    from sweeps.execution.preflight import preflight

    issues: list[ValidationIssue] = []
    with collect_issues(issues):
        where = check_results(results) if results else None
    with collect_issues(issues):
        paths = check_paths(data or [])
    if issues:
        raise ConfigError(issues)
    report = preflight(Cluster.open(address, insecure=insecure), where, paths)
    if as_json:
        print(json.dumps(report))
    else:
        show_nodes(report, sys.stdout)
    raise typer.Exit(0 if report["ok"] else 2)


@contextmanager
def found(sweep: str, address: str, results: str | None, insecure: bool) -> Iterator[tuple[Cluster, Attempt]]:
    """The cluster and the last attempt of a sweep there, in a block such as `told`."""
    from cluster.jobs import Cluster
    from sweeps.execution.attempts import find_attempt
    from sweeps.execution.cluster_paths import check_results

    where = check_results(results) if results else None
    cluster = Cluster.open(address, insecure=insecure)
    yield cluster, find_attempt(cluster, sweep, where)


def described(attempt: Attempt) -> str:
    started = attempt.job.started_at
    return f"attempt {attempt.number}" + (f", started {started:%Y-%m-%d %H:%M} UTC" if started else "")


def show_nodes(report: dict[str, Any], stream: Any) -> None:
    """One line a node; below it what is wrong."""
    for node in report["nodes"]:
        print(node_line(node), file=stream)
        for problem in node["problems"]:
            print(f"       {problem}", file=stream)
        for note in node.get("notes", []):
            print(f"       note: {note}", file=stream)


def node_line(node: dict[str, Any]) -> str:
    versions = node.get("versions", {})
    found = [f"{name} {versions[name]}" for name in ("python", "ray", "torch") if versions.get(name)]
    found.append(f"{node['resources'].get('CPU', 0):g} cores")
    found += [f"{gpu['name']} {gpu['memory_bytes'] / 2**30:.0f} GiB" for gpu in node.get("gpus", [])]
    if node.get("free_bytes") is not None:
        found.append(f"{node['free_bytes'] / 2**30:.0f} GiB free")
    verdict = "FAIL" if node["problems"] else "ok"
    return f"{verdict:<5}  {node['address']}{' (head)' if node['head'] else ''}  {', '.join(found)}"
