"""`lagvae results`: the verbs that show and tidy stored sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.options import Json, Objectives, Plugins, Png, Results, Sweep, Trust, Width

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
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Move files that do not belong to a sweep to its folder `archive/`, where no command reads them."""
    from sweeps.cli.folders import archive_files

    chosen = {"--orphans": orphans, "--copies": copies, "--unreadable": unreadable}
    folder = find_sweep(results, sweep)
    archive_files(folder, [option for option, is_chosen in chosen.items() if is_chosen], as_json=as_json)


@results_app.command("compact")
def results_compact(sweep: Sweep, results: Results = "results", as_json: Json = False, plugins: Plugins = None) -> None:
    """Move the rows of ended runs from a file per run into few files, which are much faster to read."""
    from sweeps.cli.folders import compact_tables

    compact_tables(find_sweep(results, sweep), as_json=as_json)


@results_app.command("merge")
def results_merge(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Folder of the same sweep in other results: /other/results/SWEEP.")
    ],
    sweep: Annotated[str, typer.Argument(metavar="INTO", help="Name of the sweep, in --results.")],
    results: Results = "results",
    as_json: Json = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Add the runs of the same sweep from another place, with their curves, models and evaluations."""
    from sweeps.cli.folders import merge_folders

    merge_folders(source, find_sweep(results, sweep), as_json=as_json)


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
    png: Png = None,
    width: Width = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show one line per configuration: the number of runs by status, and the mean and standard error of each metric."""
    from sweeps.cli.runs import print_runs

    check_used_with("--png", png, {"--width": width})
    folder = find_sweep(results, sweep)
    print_runs(
        folder,
        output_format(as_json=as_json, markdown=markdown),
        parse_names(columns),
        baseline=baseline,
        png=png,
        width=width,
    )


@results_app.command("pareto")
def results_pareto(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    png: Png = None,
    width: Width = None,
    objectives: Objectives = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="ARMS", help="Arms, separated by commas, at whose first objective the figure has a dashed line."
        ),
    ] = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show the Pareto front of the configurations, with means and standard errors over seeds."""
    from sweeps.cli.front import draw_front, parse_objectives, print_front

    check_used_with("--png", png, {"--width": width})
    folder = find_sweep(results, sweep)
    axes = parse_objectives(objectives) if objectives is not None else None
    if png is not None:
        draw_front(folder, axes, png, parse_names(reference) or (), width)
    print_front(folder, axes, as_json=as_json)


@results_app.command("rank")
def results_rank(
    sweep: Sweep,
    results: Results = "results",
    as_json: Json = False,
    objectives: Objectives = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Rank the arms by the hypervolume of their fronts, and show how probable each configuration on the front is."""
    from sweeps.cli.front import parse_objectives
    from sweeps.cli.rank import print_ranking

    folder = find_sweep(results, sweep)
    print_ranking(folder, parse_objectives(objectives) if objectives is not None else None, as_json=as_json)


@results_app.command("rate")
def results_rate(
    sweep: Sweep,
    results: Results = "results",
    rate: Annotated[str, typer.Option(metavar="mi|kl", help="Column that measures the rate.")] = "mi",
    distortion: Annotated[
        str, typer.Option(metavar="nll_iw|nll_elbo|rec", help="Column that is compared at equal rates.")
    ] = "nll_iw",
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NATS", help="Rates at which to compare: '0,1,2'. By default, from 0 in steps of 0.5 or whole nats."
        ),
    ] = None,
    as_json: Json = False,
    png: Png = None,
    width: Width = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Compare the arms at equal information: the best likelihood at each rate, and what a nat costs."""
    from sweeps.cli.rate import print_rate

    check_used_with("--png", png, {"--width": width})
    folder = find_sweep(results, sweep)
    print_rate(folder, rate=rate, distortion=distortion, levels=parse_names(at), as_json=as_json, png=png, width=width)


@results_app.command("compare")
def results_compare(
    sweep: Sweep,
    arms: Annotated[
        list[str] | None, typer.Argument(help="Two or more arms. The first is the baseline of the others.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column in which arms are compared. By default, the first objective on the test set."),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN:min|max",
            help="Validation column by which one configuration of each arm is chosen. By default, valid_nll_elbo:min; "
            "in a paired sweep, all configurations are compared.",
        ),
    ] = None,
    paper: Annotated[
        str | None, typer.Option(metavar="NAME", help="Paper to compare with, instead of arms: he2019 or song2024.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Data set of the paper. By default, inferred from the data of the sweep."),
    ] = None,
    results: Results = "results",
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also list published rows that match no arm.")] = False,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Compare arms with each other: `SWEEP ARM ARM`; or configurations with published results: `SWEEP --paper NAME`.

    Arms are compared in one column by the difference of their means, with an interval over seeds and an exact test.
    With a paper, differences in data, model and protocol are listed as well.
    """
    from sweeps.cli.compare import check_usage, print_comparison
    from sweeps.cli.compare_arms import print_arm_comparison
    from sweeps.cli.front import parse_objectives

    of_arms = {"--column": column, "--select": select}
    of_papers = {"--dataset": dataset, "--markdown": markdown, "--all": everything}
    check_usage(arms or (), paper, [name for name, value in (of_papers if arms else of_arms).items() if value])
    folder = find_sweep(results, sweep)
    if paper is None:
        by = parse_objectives(select, "--select") if select is not None else None
        print_arm_comparison(folder, arms or (), column, by, as_json=as_json)
    else:
        form = output_format(as_json=as_json, markdown=markdown)
        print_comparison(folder, paper, dataset, form, everything=everything)


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
    png: Png = None,
    width: Width = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Show the mean and standard error over seeds of the KL, mutual information or other columns during training."""
    from sweeps.cli.curves import print_curves

    check_used_with("--png", png, {"--width": width})
    folder = find_sweep(results, sweep)
    print_curves(folder, parse_names(columns), parse_names(arms), as_json=as_json, x=x, png=png, width=width)


@results_app.command("report")
def results_report(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Names of one or several sweeps.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. By default, SWEEP.html.")
    ] = None,
    results: Results = "results",
    objectives: Objectives = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Write an HTML page to share: the answer, interactive figures, tables, costs and provenance, in a single file."""
    from sweeps.cli.front import parse_objectives
    from sweeps.cli.report import print_report

    axes = parse_objectives(objectives) if objectives is not None else None
    folders = [find_sweep(results, sweep) for sweep in dict.fromkeys(sweeps)]
    print_report(folders, out or Path(f"{'-'.join(folder.sweep for folder in folders)}.html"), axes)


@results_app.command("export")
def results_export(
    sweep: Sweep,
    results: Results = "results",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table of runs as CSV.")] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="Write the table of runs as one Parquet file.")
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option("--latex", metavar="FILE", help="Write a LaTeX table (booktabs) of configurations, with means."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns, separated by commas: 'nll_iw,mi'. By default all, and in LaTeX the usual ones."),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="front|arms",
            help="Rows of the LaTeX table: the configurations on the front (default), or the best one of each arm in "
            "the first objective.",
        ),
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(help="Objectives of the LaTeX table instead of the sweep's own: 'nll_iw:min,mi:max'.")
    ] = None,
    plugins: Plugins = None,
    trust: Trust = False,
) -> None:
    """Write the runs of a sweep as CSV or Parquet, or its best configurations as a LaTeX table."""
    from sweeps.cli.export import export_latex, export_runs, single_format

    option, path = single_format({"--csv": csv, "--parquet": parquet, "--latex": latex})
    folder = find_sweep(results, sweep)
    if option == "--latex":
        export_latex(folder, path, parse_names(columns), objectives, rows or "front")
    else:
        check_used_with("--latex", None, {"--rows": rows, "--objectives": objectives})
        export_runs(folder, option, path, parse_names(columns))


@results_app.command("diff")
def results_diff(
    first: Annotated[
        str, typer.Argument(metavar="RUN", help="Run id, or SWEEP/RUN_ID if several sweeps have the run.")
    ],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other run.")],
    results: Results = "results",
    as_json: Json = False,
    plugins: Plugins = None,
) -> None:
    """Show what differs between two stored runs: configuration, data, plugins, code, environment and metrics."""
    from sweeps.cli.diff import print_diff

    print_diff(results, (first, second), as_json=as_json)


def check_used_with(required: str, value: object, options: Mapping[str, object]) -> None:
    """Raise a ConfigError about the options that are given although the option that they belong to is not.

    Args:
        required: Name of that option.
        value: Its value; None if it is not given.
        options: Values by option; None for options that are not given.
    """
    from lagvae_core.errors import ConfigError, ValidationIssue

    given = {option: value for option, value in options.items() if value is not None}
    if value is None and given:
        message = f"must be used with {required}"
        raise ConfigError([ValidationIssue(option, message, value=value) for option, value in given.items()])


def output_format(*, as_json: bool, markdown: bool) -> OutputFormat:
    """Return the format selected by the options --json and --markdown; --json takes precedence."""
    return "json" if as_json else "markdown" if markdown else "table"


def parse_names(text: str | None) -> list[str] | None:
    """Split names at commas; None stays None."""
    return [name.strip() for name in text.split(",")] if text is not None else None


def find_sweep(results: str, sweep: str) -> ResultsFolder:
    """Return the folder of a stored sweep; see `sweeps.storage.table.find_sweep`, which needs Arrow."""
    from sweeps.storage import table

    return table.find_sweep(results, sweep)
