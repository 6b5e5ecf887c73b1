"""The `lagvae` command.

Each verb imports what it needs when it runs, so that `lagvae trial` never imports Ray.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lagvae_core.errors import LagvaeError
from sweeps.cli.cluster import cluster_app
from sweeps.cli.jobs import jobs_app
from sweeps.cli.options import For, Json, PointsFrom, Results, Spec, Sweep, SweepSets, TrialSets
from sweeps.cli.results_app import find_sweep, results_app
from sweeps.cli.streams import check_stdout, prepare_streams
from sweeps.execution.signals import interrupt_on_signals
from sweeps.formatting import printable
from sweeps.spec.arm_syntax import parse_duration, parse_sets

if TYPE_CHECKING:
    from sweeps.spec.sweep import SweepSpec

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The top-level command group. It turns expected errors into a message and an exit code.

    If a LagvaeError is raised, the command prints its message and exits with its `exit_code`. After SIGINT, SIGTERM or
    SIGHUP, it exits with 130. If stdout cannot be written, see `check_stdout`.
    """

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with check_stdout():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with check_stdout():
            try:
                return super().invoke(ctx)
            except LagvaeError as error:
                print(printable(f"lagvae: {error}"), file=sys.stderr)
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                print("lagvae: interrupted.", file=sys.stderr)
                raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="Compare remedies for posterior collapse by likelihood and by use of the latent space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(results_app, name="results")
app.add_typer(cluster_app, name="cluster")
app.add_typer(jobs_app)


def _print_versions(asked: bool) -> None:
    if asked:
        import platform

        from sweeps.storage.provenance import versions

        found = {name.removesuffix("_version"): version or "not installed" for name, version in versions().items()}
        print(f"lagvae {found['lagvae']}")
        print(f"Python {found['python']}, torch {found['torch']}, Ray {found['ray']}, {platform.platform()}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of lagvae, Python, torch, Ray and the platform.",
        ),
    ] = False,
) -> None:
    """Take the options of the command itself; each of them has a callback."""


Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster: `auto` or HOST:PORT. By default, run on this machine.")
]
Keep = Annotated[
    str | None,
    typer.Option(metavar="models|nothing", help="Whether to keep the models of finished runs for `lagvae evaluate`."),
]


@app.command()
def trial(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG.yaml]", help="Configuration of the trial.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="Stack of strategies, for example 'aggressive:budget=30+kl_linear_epoch'.")
    ] = None,
    sets: TrialSets = None,
    from_run: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN_ID", help="Repeat a stored run, by default with its number of threads."),
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of CPU threads. By default, 1 for a small model and PyTorch's default otherwise."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint file. If the file exists, training resumes from it.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the trained model to this file, for `lagvae evaluate --model`."),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="WATCHER",
            help="What to record during training, in the syntax of --arm: posterior_means:every=100.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the tables and figures of --watch.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Measure as a sweep does. By default, a trial uses fewer importance samples to be quick."
        ),
    ] = False,
) -> None:
    """Train and evaluate one configuration on this machine, without Ray.

    --arm replaces the strategies of CONFIG.yaml (or of the stored run of --from), and --set then changes single fields.
    """
    from sweeps.cli.trial import TrialRequest, run_trial

    request = TrialRequest(
        config=config,
        arm=arm,
        sets=parse_sets(sets),
        from_run=from_run,
        results=results,
        as_json=as_json,
        threads=threads,
        device=device,
        checkpoint=checkpoint,
        keep=keep,
        watch=watch,
        out=out,
        full=full,
    )
    raise typer.Exit(run_trial(request))


@app.command()
def show(
    file: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Shipped sweep, sweep file or trial file.")],
    sets: SweepSets = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print every value, defaults included.")] = False,
) -> None:
    """Print a sweep file or a trial file, as it is or with all its defaults."""
    from sweeps.cli.show import print_file

    print_file(file, parse_sets(sets), resolved=resolved)


@app.command()
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
) -> None:
    """Show which runs are missing and how long they will take, without changing anything."""
    from sweeps.cli.plan import print_plan

    print_plan(spec, parse_sets(sets), results, as_json=as_json, calibrate=calibrate, points_from=points_from)


@app.command()
def run(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
    duration: For = None,
    points_from: PointsFrom = None,
) -> None:
    """Execute the missing runs of a sweep and print its Pareto front. Stored runs are never repeated."""
    loaded = _load_sweep(spec, sets, keep, results, points_from)
    raise typer.Exit(_run_sweep(loaded, results, address, duration, retry=False))


@app.command()
def retry(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
    duration: For = None,
    points_from: PointsFrom = None,
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
    from sweeps.cli.live_display import Display
    from sweeps.cli.results import print_front, print_runs_without_model
    from sweeps.execution.driver import run_sweep
    from sweeps.storage.table import ResultsFolder

    seconds = parse_duration(duration) if duration is not None else None
    folder = ResultsFolder(results, spec.name)
    outcome = run_sweep(spec, folder, Display(), address, retry=retry, seconds=seconds)
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


@app.command()
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
) -> None:
    """Show what a rule for early stopping would have saved and lost in a stored sweep. Nothing is written."""
    from sweeps.cli.replay import print_replay

    options = {"rule": stopping, "confidence": confidence, "scope": scope, "grace": grace}
    print_replay(find_sweep(results, sweep), options, as_json=as_json)


@app.command()
def dashboard(
    sweep: Sweep,
    results: Results = "results",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Show the search of a sweep in optuna-dashboard."""
    from sweeps.analysis.stored import current_plan, stored_spec
    from sweeps.search.dashboard import serve

    folder = find_sweep(results, sweep)
    spec = stored_spec(folder)
    serve(spec, current_plan(spec, folder.runs()), host, port)


@app.command()
def strategies(
    name: Annotated[str | None, typer.Argument(help="Strategy to describe in full.")] = None,
    as_json: Json = False,
) -> None:
    """List all strategies, or describe one in full: paper, slots, fields and conflicts."""
    from sweeps.cli.catalogue import print_strategies

    print_strategies(name, as_json=as_json)


@app.command()
def evaluate(
    what: Annotated[
        str, typer.Option(metavar="STUDIES", help="Studies, optionally with fields: 'probe,tsne:examples=500,seed=1'.")
    ],
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="Ids of stored runs.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Evaluate all finished runs of this sweep.")] = None,
    arm: Annotated[str | None, typer.Option(help="With --sweep: evaluate only the runs of this arm.")] = None,
    results: Results = "results",
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Model written by `lagvae trial --keep`. Without a stored run, nothing is stored."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="New path of the data, if they have moved.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of CPU threads. By default, the number that the run used.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the figures of the studies to this folder.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Retrain the runs whose models were not kept.")] = False,
    as_json: Json = False,
) -> None:
    """Apply studies to trained models and store the findings next to the runs. `lagvae studies` lists the studies."""
    from sweeps.cli.evaluate import EvaluationRequest, run_studies

    if sweep is not None:
        find_sweep(results, sweep)
    request = EvaluationRequest(
        run_ids=run_ids or (),
        what=what,
        results=results,
        sweep=sweep,
        arm=arm,
        model=model,
        data=data,
        device=device,
        threads=threads,
        png=png,
        as_json=as_json,
        retrain=retrain,
    )
    run_studies(request)


@app.command()
def studies(
    name: Annotated[str | None, typer.Argument(help="Study to describe in full.")] = None,
    as_json: Json = False,
) -> None:
    """List all studies of trained models, or describe one in full: fields, columns and tables."""
    from sweeps.cli.catalogue import print_studies

    print_studies(name, as_json=as_json)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None
) -> str:
    """Return a warning as one line. A warning for programmers keeps its category and place."""
    place = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return printable(f"lagvae: warning, {place}{message}\n")


def main() -> None:
    """Entry point. Exit codes: 0 success, 1 failed runs or lost results, 2 invalid input, 130 interrupted."""
    prepare_streams()
    # Figures must look alike everywhere. A notebook sets a backend that only its own environment has.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    warnings.formatwarning = _format_warning
    with interrupt_on_signals():
        app()


if __name__ == "__main__":
    main()
