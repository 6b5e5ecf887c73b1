"""`lagvae results`: the verbs that show and tidy stored sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.cli.options import Json, Results, Sweep

if TYPE_CHECKING:
    from sweeps.cli.terminal import OutputFormat
    from sweeps.storage.table import ResultsFolder

__all__ = ["find_sweep", "results_app"]

results_app = typer.Typer(help="Show the results of a sweep.", no_args_is_help=True)


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
