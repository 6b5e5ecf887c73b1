"""The `lagvae` command. Each verb loads what it needs: `trial` never imports Ray."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lagvae_core.errors import LagvaeError
from sweeps.cli.cluster import cluster_app
from sweeps.cli.jobs import jobs_app
from sweeps.cli.options import Json, Sets, Spec, Sweep
from sweeps.spec.arm_syntax import parse_sets

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The commands. An expected error ends with its message and exit code; a pipe closed by its reader ends with 0."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except LagvaeError as error:
            print(f"lagvae: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        finally:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    cls=Commands,
    help="Which remedy for posterior collapse gives the best likelihood and still uses the latent space?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
results_app = typer.Typer(help="Look at the table of a sweep.", no_args_is_help=True)
app.add_typer(results_app, name="results")
app.add_typer(cluster_app, name="cluster")
app.add_typer(jobs_app)

Results = Annotated[
    str,
    typer.Option("--results", metavar="DIR", envvar="LAGVAE_RESULTS", help="Folder or URI of the tables."),
]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster: `auto` or HOST:PORT; without it, this machine.")
]
Keep = Annotated[
    str | None,
    typer.Option(metavar="models|nothing", help="Keep the model of each finished run, for `lagvae evaluate`."),
]


@app.command()
def trial(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG.yaml]", help="A trial's configuration.")] = None,
    arm: Annotated[
        str | None, typer.Option(help="A stack of strategies: 'aggressive:budget=30+kl_linear_epoch'.")
    ] = None,
    sets: Sets = None,
    from_run: Annotated[
        str | None, typer.Option("--from", metavar="RUN_ID", help="Repeat a stored run with its own threads.")
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; by default 1 for a small model, else all.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the state here, and go on from it if it exists.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Leave the trained model here, for `lagvae evaluate --model`.")
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(metavar="WATCHER", help="Look on while it trains: posterior_means, perhaps with fields as --arm."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where --watch puts its tables and pictures.")
    ] = None,
) -> None:
    """Train and measure one configuration here, without Ray."""
    from sweeps.cli.trial import TrialRequest, run_trial

    raise typer.Exit(
        run_trial(
            TrialRequest(
                config,
                arm,
                parse_sets(sets),
                from_run,
                results,
                as_json,
                threads,
                device,
                checkpoint,
                keep,
                watch,
                out,
            )
        )
    )


@app.command()
def plan(
    spec: Spec,
    sets: Sets = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Show what would run, how often and at what cost; change nothing."""
    from sweeps.cli.results import print_plan

    print_plan(spec, parse_sets(sets), results, as_json)


@app.command()
def run(
    spec: Spec,
    sets: Sets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
) -> None:
    """Run what is missing of a sweep and print its front; what is stored is never run again."""
    raise typer.Exit(drive(spec, parse_sets(sets) | _given(keep=keep), results, address, retry=False))


@app.command()
def retry(
    spec: Spec,
    sets: Sets = None,
    results: Results = "results",
    address: Address = None,
    keep: Keep = None,
) -> None:
    """Like run, and once more for the runs that failed or ran out of memory."""
    raise typer.Exit(drive(spec, parse_sets(sets) | _given(keep=keep), results, address, retry=True))


def _given(**options: str | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def drive(spec: str, sets: dict[str, Any], results: str, address: str | None, *, retry: bool) -> int:
    """Run a sweep and print its front; the exit code."""
    from sweeps.cli.live_display import Display
    from sweeps.cli.results import print_front
    from sweeps.execution.driver import run_sweep
    from sweeps.spec.sweep import load_spec
    from sweeps.storage.table import ResultsFolder

    loaded = load_spec(spec, sets)
    folder = ResultsFolder(results, loaded.name)
    outcome = run_sweep(loaded, folder, Display(), address, retry=retry)
    with contextlib.suppress(BrokenPipeError):
        print_front(folder, None, as_json=False)
    return outcome.exit_code


@results_app.command("show")
def results_show(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    columns: Annotated[str | None, typer.Option(help="Columns of the table, with commas between: 'nll_iw,mi'.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ARM", help="Show training time in units of that of this arm.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw it: .png, .pdf or .svg.")] = None,
) -> None:
    """One line a configuration: how its runs ended, mean and standard error of their numbers."""
    from sweeps.cli.results import OutputFormat, print_runs

    folder = find_sweep(results, sweep)
    style: OutputFormat = "json" if as_json else "markdown" if markdown else "table"
    print_runs(folder, style, parse_names(columns), baseline, png)


@results_app.command("pareto")
def results_pareto(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the front: .png, .pdf or .svg.")] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Other axes than the sweep's own: 'nll_iw:min,mi:max'.")
    ] = None,
) -> None:
    """The Pareto front, seeds as replicates, with standard errors."""
    from sweeps.cli.results import draw_front, parse_objectives, print_front

    folder = find_sweep(results, sweep)
    axes = parse_objectives(objectives) if objectives is not None else None
    if png is not None:
        draw_front(folder, axes, png)
    print_front(folder, axes, as_json)


@results_app.command("compare")
def results_compare(
    sweep: Sweep,
    paper: Annotated[str, typer.Option(metavar="NAME", help="he2019 or song2024.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="The paper's data set; by default what the sweep's data tell.")
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list published rows that no arm stands beside.")
    ] = False,
) -> None:
    """Each configuration beside what a paper prints of it, and what differs in data, model and protocol."""
    from sweeps.cli.compare import print_comparison

    folder = find_sweep(results, sweep)
    print_comparison(
        folder, paper, dataset, "json" if as_json else "markdown" if markdown else "table", everything=everything
    )


@results_app.command("curves")
def results_curves(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the curves, with commas between: 'valid_kl,valid_mi'.")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="These arms alone, with commas between.")] = None,
    x: Annotated[str, typer.Option("--x", metavar="epoch|step", help="What training is counted in.")] = "epoch",
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw them: .png, .pdf or .svg.")] = None,
) -> None:
    """KL, mutual information or other columns over training, mean and standard error of each configuration's seeds."""
    from sweeps.cli.results import print_curves

    print_curves(find_sweep(results, sweep), as_json, parse_names(columns), parse_names(arms), x, png)


@app.command()
def dashboard(
    sweep: Sweep,
    results: Results = "results",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8080,
) -> None:
    """Show the search of a sweep in optuna-dashboard, from the table."""
    from sweeps.analysis.stored import current_plan, stored_spec
    from sweeps.search.dashboard import serve

    folder = find_sweep(results, sweep)
    spec = stored_spec(folder)
    serve(spec, current_plan(spec, folder), host, port)


@app.command()
def strategies(
    name: Annotated[str | None, typer.Argument(help="A strategy, for its whole description.")] = None,
    as_json: Json = False,
) -> None:
    """The catalogue: what each remedy does, its paper, slots and fields."""
    from sweeps.cli.catalogue import print_catalogue

    print_catalogue(name, as_json)


@app.command()
def evaluate(
    what: Annotated[
        str, typer.Option(metavar="STUDIES", help="Studies and their fields: 'probe,tsne:examples=500,seed=1'.")
    ],
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="Stored runs.")] = None,
    sweep: Annotated[str | None, typer.Option(help="All finished runs of this sweep.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of these, the runs of this arm.")] = None,
    results: Results = "results",
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The weights, as `lagvae trial --keep` left them; without RUN_ID no row."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The same data at another place.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use; by default those of the run.")] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also draw the studies that have a picture.")
    ] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train runs again whose model was not kept.")] = False,
    as_json: Json = False,
) -> None:
    """Measure trained models by further studies, and store what is found beside the runs; see `lagvae studies`."""
    from sweeps.cli.evaluate import EvaluationRequest, run_studies

    if sweep is not None:
        find_sweep(results, sweep)
    run_studies(
        EvaluationRequest(run_ids or (), what, results, sweep, arm, model, data, device, threads, png, as_json, retrain)
    )


@app.command()
def studies(
    name: Annotated[str | None, typer.Argument(help="A study, for its whole description.")] = None,
    as_json: Json = False,
) -> None:
    """The catalogue of studies: what each measures of a trained model, its fields, columns and tables."""
    from sweeps.cli.catalogue import print_studies

    print_studies(name, as_json)


def parse_names(text: str | None) -> list[str] | None:
    """Names with commas between as a list, or None where there are none given."""
    return [name.strip() for name in text.split(",")] if text is not None else None


def find_sweep(results: str, sweep: str) -> Any:
    """The folder of a stored sweep; ConfigError naming those that are there if it is not."""
    from lagvae_core.errors import ConfigError, ValidationIssue
    from sweeps.spec.sweep import NAME
    from sweeps.storage.table import ResultsFolder, stored_sweeps

    folder = ResultsFolder(results, sweep)
    if NAME.fullmatch(sweep) and folder.exists():
        return folder
    known = stored_sweeps(results)
    hint = f"Stored there: {', '.join(known)}." if known else f"Nothing is stored in {results}; see --results."
    raise ConfigError([ValidationIssue("SWEEP", f"must be a sweep stored in {results}", hint, sweep)])


def main() -> None:
    """Entry point: mistakes of the user end with 2 and a message, an interrupt with 130."""
    # A terminal that knows ASCII alone is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:
        print("lagvae: interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
