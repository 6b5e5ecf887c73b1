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

from lagvae_core.errors import ConfigError, LagvaeError, ValidationIssue, did_you_mean
from sweeps.cli.cluster import cluster_app
from sweeps.cli.jobs import jobs_app
from sweeps.cli.options import Json, Spec, Sweep, SweepSets, TrialSets
from sweeps.cli.streams import check_stdout, prepare_streams
from sweeps.execution.signals import interrupt_on_signals
from sweeps.formatting import printable
from sweeps.spec.arm_syntax import parse_sets

if TYPE_CHECKING:
    from sweeps.cli.terminal import OutputFormat
    from sweeps.storage.table import ResultsFolder

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
results_app = typer.Typer(help="Show the results of a sweep.", no_args_is_help=True)
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


Results = Annotated[
    str,
    typer.Option("--results", metavar="DIR", envvar="LAGVAE_RESULTS", help="Folder or URI of the results."),
]
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
) -> None:
    """Show which runs are missing and how long they will take, without changing anything."""
    from sweeps.cli.plan import print_plan

    print_plan(spec, parse_sets(sets), results, as_json=as_json)


@app.command()
def run(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
) -> None:
    """Execute the missing runs of a sweep and print its Pareto front. Stored runs are never repeated."""
    raise typer.Exit(_run_sweep(spec, _overrides(sets, keep), results, address, retry=False))


@app.command()
def retry(
    spec: Spec,
    sets: SweepSets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
) -> None:
    """Do the same as `run`, and also repeat the runs that failed or ran out of memory."""
    raise typer.Exit(_run_sweep(spec, _overrides(sets, keep), results, address, retry=True))


def _overrides(sets: list[str] | None, keep: str | None) -> dict[str, Any]:
    return parse_sets(sets) | ({"keep": keep} if keep is not None else {})


def _run_sweep(spec: str, overrides: dict[str, Any], results: str, address: str | None, *, retry: bool) -> int:
    """Run a sweep, print its front, and return the exit code."""
    from sweeps.cli.live_display import Display
    from sweeps.cli.results import print_front, print_runs_without_model
    from sweeps.execution.driver import run_sweep
    from sweeps.spec.sweep import load_spec
    from sweeps.storage.table import ResultsFolder

    loaded = load_spec(spec, overrides)
    folder = ResultsFolder(results, loaded.name)
    outcome = run_sweep(loaded, folder, Display(), address, retry=retry)
    if outcome.interrupted:
        return outcome.exit_code
    try:
        print_front(folder, None, as_json=False)
        if loaded.keep == "models":
            print_runs_without_model(folder)
    except OSError:
        if outcome.exit_code == 0:
            raise
    return outcome.exit_code


@results_app.command("list")
def results_list(results: Results = "results", as_json: Json = False) -> None:
    """List the stored sweeps, with the number of their runs by status and the time of the latest run."""
    from sweeps.cli.folders import print_sweeps

    print_sweeps(results, as_json=as_json)


@results_app.command("archive")
def results_archive(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Runs that the stored sweep file does not plan, with all their files.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Copies of rows, as synchronising tools leave them.")
    ] = False,
    unreadable: Annotated[bool, typer.Option("--unreadable", help="Files of the tables that cannot be read.")] = False,
) -> None:
    """Move files that do not belong to a sweep to its folder `archive/`, where no command reads them."""
    from sweeps.cli.folders import archive_files

    chosen = {"--orphans": orphans, "--copies": copies, "--unreadable": unreadable}
    folder = find_sweep(results, sweep)
    archive_files(folder, [option for option, is_chosen in chosen.items() if is_chosen], as_json=as_json)


@results_app.command("show")
def results_show(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    columns: Annotated[str | None, typer.Option(help="Columns of the table, separated by commas: 'nll_iw,mi'.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ARM", help="Show training times relative to the mean time of this arm.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw a figure: .png, .pdf or .svg.")] = None,
) -> None:
    """Show one line per configuration: the number of runs by status, and the mean and standard error of each metric."""
    from sweeps.cli.results import print_runs

    folder = find_sweep(results, sweep)
    print_runs(
        folder, output_format(as_json=as_json, markdown=markdown), parse_names(columns), baseline=baseline, png=png
    )


@results_app.command("pareto")
def results_pareto(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw a figure: .png, .pdf or .svg.")] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Objectives to use instead of the sweep's own: 'nll_iw:min,mi:max'.")
    ] = None,
) -> None:
    """Show the Pareto front of the configurations, with means and standard errors over seeds."""
    from sweeps.cli.results import draw_front, parse_objectives, print_front

    folder = find_sweep(results, sweep)
    axes = parse_objectives(objectives) if objectives is not None else None
    if png is not None:
        draw_front(folder, axes, png)
    print_front(folder, axes, as_json=as_json)


@results_app.command("compare")
def results_compare(
    sweep: Sweep,
    paper: Annotated[str, typer.Option(metavar="NAME", help="Paper to compare with: he2019 or song2024.")],
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set of the paper. By default, inferred from the data of the sweep."),
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also list published rows that match no arm.")] = False,
) -> None:
    """Compare configurations with published results, and list differences in data, model and protocol."""
    from sweeps.cli.compare import print_comparison

    folder = find_sweep(results, sweep)
    print_comparison(folder, paper, dataset, output_format(as_json=as_json, markdown=markdown), everything=everything)


@results_app.command("curves")
def results_curves(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the curves, separated by commas: 'valid_kl,valid_mi'.")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="Show only these arms, separated by commas.")] = None,
    x: Annotated[str, typer.Option("--x", metavar="epoch|step", help="Unit of the x axis of the figure.")] = "epoch",
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw a figure: .png, .pdf or .svg.")] = None,
) -> None:
    """Show the mean and standard error over seeds of the KL, mutual information or other columns during training."""
    from sweeps.cli.results import print_curves

    folder = find_sweep(results, sweep)
    print_curves(folder, parse_names(columns), parse_names(arms), as_json=as_json, x=x, png=png)


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


def output_format(*, as_json: bool, markdown: bool) -> OutputFormat:
    """Return the format selected by the options --json and --markdown; --json takes precedence."""
    return "json" if as_json else "markdown" if markdown else "table"


def parse_names(text: str | None) -> list[str] | None:
    """Split names at commas; None stays None."""
    return [name.strip() for name in text.split(",")] if text is not None else None


def find_sweep(results: str, sweep: str) -> ResultsFolder:
    """Return the folder of a stored sweep.

    Raises:
        ConfigError: The sweep is not stored in `results`; the message lists the stored sweeps.
    """
    from sweeps.storage.identifiers import SWEEP_NAME
    from sweeps.storage.table import ResultsFolder, stored_sweeps

    folder = ResultsFolder(results, sweep)
    if SWEEP_NAME.fullmatch(sweep) and folder.exists():
        return folder
    stored = stored_sweeps(results)
    hint = f"The stored sweeps are {', '.join(stored)}." if stored else "No sweep is stored there. Check --results."
    hint = f"{did_you_mean(sweep, stored)} {hint}".strip()
    raise ConfigError([ValidationIssue("SWEEP", f"must be a sweep that is stored in {results}", hint, sweep)])


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
