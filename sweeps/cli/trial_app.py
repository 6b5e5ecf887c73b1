"""The verbs for single models and for remedies: trial, evaluate, diagnose, strategies, studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.options import (
    Data,
    Device,
    Json,
    Plugins,
    Results,
    Retrain,
    RunIds,
    ThreadsOfRun,
    TrialSets,
    Trust,
)
from sweeps.cli.results_app import find_sweep
from sweeps.spec.arm_syntax import parse_sets

if TYPE_CHECKING:
    pass

__all__ = ["trial_app"]

trial_app = typer.Typer()


@trial_app.command()
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
    device: Device = None,
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
            help="What to record during training, in the syntax of --arm: steps:every=10 or posterior_means:every=100.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the tables and figures of --watch posterior_means."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Measure as a sweep does. By default, a trial uses fewer importance samples to be quick."
        ),
    ] = False,
    plugins: Plugins = None,
    trust: Trust = False,
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


@trial_app.command()
def evaluate(
    what: Annotated[
        str, typer.Option(metavar="STUDIES", help="Studies, optionally with fields: 'probe,tsne:examples=500,seed=1'.")
    ],
    run_ids: RunIds = None,
    sweep: Annotated[str | None, typer.Option(help="Evaluate all finished runs of this sweep.")] = None,
    arm: Annotated[str | None, typer.Option(help="With --sweep: evaluate only the runs of this arm.")] = None,
    results: Results = "results",
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Model written by `lagvae trial --keep`. Without a stored run, nothing is stored."
        ),
    ] = None,
    data: Data = None,
    device: Device = None,
    threads: ThreadsOfRun = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the figures of the studies to this folder.")
    ] = None,
    retrain: Retrain = False,
    as_json: Json = False,
    plugins: Plugins = None,
    trust: Trust = False,
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


@trial_app.command()
def diagnose(
    run_ids: RunIds = None,
    sweep: Annotated[str | None, typer.Option(help="Diagnose all finished runs of this sweep.")] = None,
    arm: Annotated[str | None, typer.Option(help="With --sweep: only the runs of this arm.")] = None,
    results: Results = "results",
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model written by `lagvae trial --keep`, instead of a run.")
    ] = None,
    data: Data = None,
    examples: Annotated[int, typer.Option(min=2, help="Number of measured examples.")] = 200,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a sweep of arms that act on the cause to this file.")
    ] = None,
    device: Device = None,
    threads: ThreadsOfRun = None,
    retrain: Retrain = False,
    as_json: Json = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Say why models do not use their latent variable, and propose a sweep of arms that act on the cause."""
    from sweeps.cli.diagnose import diagnose_models
    from sweeps.cli.evaluate import EvaluationRequest

    if sweep is not None:
        find_sweep(results, sweep)
    request = EvaluationRequest(
        run_ids=run_ids or (),
        what=f"diagnosis:examples={examples}",
        results=results,
        sweep=sweep,
        arm=arm,
        model=model,
        data=data,
        device=device,
        threads=threads,
        as_json=as_json,
        retrain=retrain,
    )
    diagnose_models(request, out)


@trial_app.command()
def strategies(
    name: Annotated[str | None, typer.Argument(help="Strategy to describe in full.")] = None,
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """List all strategies, or describe one in full: paper, slots, fields and conflicts."""
    from sweeps.cli.catalogue import print_strategies

    print_strategies(name, as_json=as_json)


@trial_app.command()
def studies(
    name: Annotated[str | None, typer.Argument(help="Study to describe in full.")] = None,
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """List all studies of trained models, or describe one in full: fields, columns and tables."""
    from sweeps.cli.catalogue import print_studies

    print_studies(name, as_json=as_json)
