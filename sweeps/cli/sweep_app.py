"""The verbs for a sweep: show, plan, run, retry, watch, replay, dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.options import (
    For,
    Json,
    Plugins,
    PointsFrom,
    Results,
    Spec,
    Sweep,
    SweepSets,
    Trust,
)
from sweeps.cli.results_app import find_sweep
from sweeps.spec.arm_syntax import parse_duration, parse_sets

if TYPE_CHECKING:
    from sweeps.spec.sweep import SweepSpec

__all__ = ["sweep_app"]

sweep_app = typer.Typer()

Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster: `auto` or HOST:PORT. By default, run on this machine.")
]
Keep = Annotated[
    str | None,
    typer.Option(metavar="models|nothing", help="Whether to keep the models of finished runs for `lagvae evaluate`."),
]


@sweep_app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Shipped sweep, sweep file or trial file.")],
    sets: SweepSets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print every value, defaults included.")] = False,
    plugins: Plugins = None,
) -> None:
    """Print a sweep file or a trial file, as it is or with all its defaults."""
    from sweeps.cli.show import print_file

    print_file(file, parse_sets(sets), resolved=resolved)


@sweep_app.command()
def plan(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    as_json: Json = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Estimate the time of arms without finished runs: train each for at most 20 updates or 10 seconds.",
        ),
    ] = False,
    points_from: PointsFrom = None,
    plugins: Plugins = None,
) -> None:
    """Show which runs are missing and how long they will take, without changing anything."""
    from sweeps.cli.plan import print_plan

    print_plan(spec, parse_sets(sets), results, as_json=as_json, calibrate=calibrate, points_from=points_from)


@sweep_app.command()
def run(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
    duration: For = None,
    points_from: PointsFrom = None,
    plugins: Plugins = None,
) -> None:
    """Execute the missing runs of a sweep and print its Pareto front. Stored runs are never repeated."""
    loaded = _load_sweep(spec, sets, keep, results, points_from)
    raise typer.Exit(_run_sweep(loaded, results, address, duration, retry=False))


@sweep_app.command()
def retry(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
    duration: For = None,
    points_from: PointsFrom = None,
    plugins: Plugins = None,
) -> None:
    """Do the same as `run`, and also repeat the runs that failed or ran out of memory."""
    loaded = _load_sweep(spec, sets, keep, results, points_from)
    raise typer.Exit(_run_sweep(loaded, results, address, duration, retry=True))


def _load_sweep(
    spec: str, sets: list[str] | None, keep: str | None, results: str, points_from: str | None
) -> SweepSpec:
    from sweeps.cli.folders import load_sweep

    overrides = parse_sets(sets) | ({"keep": keep} if keep is not None else {})
    return load_sweep(spec, overrides, results, points_from)


def _run_sweep(spec: SweepSpec, results: str, address: str | None, duration: str | None, *, retry: bool) -> int:
    """Run a sweep, print its front, and return the exit code."""
    from sweeps.cli.front import print_front
    from sweeps.cli.live_display import Display
    from sweeps.cli.runs import print_runs_without_model
    from sweeps.execution.driver import run_sweep
    from sweeps.storage.table import ResultsFolder
    from sweeps.trackers.monitor import with_trackers

    seconds = parse_duration(duration) if duration is not None else None
    folder = ResultsFolder(results, spec.name)
    monitor = with_trackers(Display(), spec, folder)
    outcome = run_sweep(spec, folder, monitor, address, retry=retry, seconds=seconds)
    if outcome.interrupted:
        return outcome.exit_code
    try:
        print_front(folder, None, as_json=False)
        if spec.keep == "models":
            print_runs_without_model(folder)
    except OSError:
        if outcome.exit_code == 0:
            raise
    return outcome.exit_code


@sweep_app.command()
def watch(
    sweep: Sweep,
    results: Results = "results",
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time between two readings of the table. By default 2 seconds, or 10 on an object store.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the board once.")] = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show the progress of a sweep that runs elsewhere, until it is complete. Only its table is read.

    The exit code is 0, or 1 if the sweep is complete and runs failed.
    """
    from sweeps.cli.watch import watch_sweep

    raise typer.Exit(watch_sweep(results, sweep, every, once=once))


@sweep_app.command()
def replay(
    sweep: Sweep,
    stopping: Annotated[
        str | None,
        typer.Option(metavar="front|halving", help="Rule. By default, that of the sweep file, or else front."),
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="One-sided confidence of the rule front: 0.9.")] = None,
    scope: Annotated[
        str | None, typer.Option(metavar="arm|all", help="Compare configurations of one arm, or of all arms.")
    ] = None,
    grace: Annotated[
        int | None, typer.Option(help="Epochs after the end of its schedules in which a run is not compared.")
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show what a rule for early stopping would have saved and lost in a stored sweep. Nothing is written."""
    from sweeps.cli.replay import print_replay

    options = {"rule": stopping, "confidence": confidence, "scope": scope, "grace": grace}
    print_replay(find_sweep(results, sweep), options, as_json=as_json)


@sweep_app.command()
def dashboard(
    sweep: Sweep,
    results: Results = "results",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")] = 8080,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show the search of a sweep in optuna-dashboard, also while it runs. Only its table is read."""
    from sweeps.cli.dashboard import serve_dashboard

    serve_dashboard(find_sweep(results, sweep), host, port)
