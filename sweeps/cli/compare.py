"""Output of `lagvae results compare`: a sweep compared with a paper, as tables, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from lagvae_core.errors import MISSING, ConfigError, ValidationIssue
from sweeps.cli.plan import print_earlier_rows
from sweeps.cli.runs import version_of
from sweeps.cli.terminal import OutputFormat, TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_parameters, printable
from sweeps.papers import Metric, find_paper
from sweeps.papers.comparison import Comparison, ComparisonRow, Section, compare_with_paper
from sweeps.storage.table import ResultsFolder

__all__ = ["check_usage", "print_comparison"]

LEFT = ("arm", "published as", "config_id", "parameters", "version", "remarks")
"""Headings of left-aligned columns."""

DIFFERENCES = "Differences in data, model and protocol"


def check_usage(arms: Sequence[str], paper: str | None, unsuitable: Sequence[str]) -> None:
    """Check that `results compare` has either arms or a paper, and only options that suit them.

    Args:
        arms: The given arms.
        paper: The given paper; None if there is none.
        unsuitable: The given options that suit only the other of the two.

    Raises:
        ConfigError: Both or none are given, or an option does not suit them.
    """
    if bool(arms) == (paper is not None):
        hint = "Give two arms of the sweep, or a paper with --paper."
        value = " ".join([*arms, f"--paper {paper}"]) if paper is not None else MISSING
        raise ConfigError([ValidationIssue("ARMS", "must be given, or else --paper, but not both", hint, value)])
    wanted = "--paper, not arms" if arms else "arms, not --paper"
    issues = [ValidationIssue(option, f"must be used with {wanted}", "Remove the option.") for option in unsuitable]
    if issues:
        raise ConfigError(issues)


def print_comparison(
    folder: ResultsFolder, paper: str, dataset: str | None, output_format: OutputFormat, *, everything: bool
) -> None:
    """Print the configurations of a sweep next to the published rows, and list how data, model and protocol differ.

    Args:
        folder: The results of the sweep.
        paper: Name of the paper.
        dataset: A data set of the paper; if None, it is inferred from the data of the sweep.
        output_format: "table", "markdown" or "json".
        everything: Include published rows that match no arm, and quantities that lagvae does not measure.

    Raises:
        ConfigError: The paper or data set does not exist, the data set cannot be inferred, or the sweep has no runs.
    """
    comparison = compare_with_paper(folder, find_paper(paper), dataset, everything=everything)
    if output_format == "json":
        print_json(comparison.to_json())
    elif output_format == "markdown":
        print(printable("\n".join(_markdown(comparison))))
    else:
        _print_tables(comparison)


def _title(comparison: Comparison) -> str:
    return f"{comparison.sweep} compared with {comparison.paper.source}, data set {comparison.dataset}"


def _heading(comparison: Comparison, section: Section) -> str:
    """Return the name of the published table, and the quantities that have an unusual meaning in this section."""
    if not section.table:
        return "Arms that match no published row"
    usual = comparison.paper.metrics
    unusual = [f"{name} {_compared_with(metric)}" for name, metric in section.metrics if metric != usual[name]]
    return f"{section.table}, {section.dataset}" + (f": {', '.join(unusual)}" if unusual else "")


def _compared_with(metric: Metric) -> str:
    return f"compared with {' and '.join(metric.columns)}" if metric.columns else "not measured"


def _table(section: Section) -> TextTable:
    """Return the table of a section without the columns that it does not need.

    The columns `parameters` and `remarks` are needed if some row has an entry in them. The column `config_id` is needed
    if an arm has several configurations, and `version` if runs belong to an earlier version of the sweep.
    """
    headings = ["arm", "runs", "published as"]
    for name, metric in section.metrics:
        headings += [*metric.columns, f"published {name}"]
    headings += ["config_id", "parameters", "version", "remarks"]
    rows = [[*_name_cells(row), *_number_cells(section, row), *_detail_cells(row)] for row in section.rows]
    arms = [row.summary.arm for row in section.rows if row.summary]
    empty = {heading for i, heading in enumerate(headings) if not any(row[i] for row in rows)}
    unneeded = {"parameters", "remarks"} & empty
    unneeded |= {"config_id"} if len(arms) == len(set(arms)) else set()
    unneeded |= set() if any(row.summary and row.summary.earlier for row in section.rows) else {"version"}
    needed = [i for i, heading in enumerate(headings) if heading not in unneeded]
    return TextTable([headings[i] for i in needed], [[row[i] for i in needed] for row in rows], LEFT)


def _name_cells(row: ComparisonRow) -> list[str]:
    arm, runs = (row.summary.arm, row.summary.ended()) if row.summary else ("", "")
    return [arm, runs, row.published.title if row.published else ""]


def _number_cells(section: Section, row: ComparisonRow) -> Iterator[str]:
    for name, metric in section.metrics:
        for column in metric.columns:
            statistic = row.summary.columns.get(column) if row.summary else None
            yield statistic.text() if statistic else ""
        number = row.published.numbers.get(name) if row.published else None
        yield number.text if number else ""


def _detail_cells(row: ComparisonRow) -> list[str]:
    config_id, parameters, version = "", "", ""
    if row.summary:
        config_id, parameters = row.summary.config_id, format_parameters(row.summary.parameters)
        version = version_of(row.summary.earlier)
    remarks = [difference.text() for difference in row.differences] + ([row.note] if row.note else [])
    return [config_id, parameters, version, "; ".join(remarks)]


# --- lists around the tables ----------------------------------------------------------------------------------------


def _meanings(comparison: Comparison) -> Iterator[str]:
    """Yield each published quantity with its meaning. For an unusual meaning, add the models that it applies to."""
    models_of: dict[str, dict[str, None]] = {}
    for section in comparison.sections:
        for name, metric in section.metrics if section.table else ():
            models = models_of.setdefault(f"{name}, {_compared_with(metric)}: {metric.meaning}", {})
            if comparison.paper.metrics[name] != metric:
                models.update((row.published.model, None) for row in section.rows if row.published)
    for text, models in models_of.items():
        yield f"{text} (for {', '.join(models)})" if models else text


def _notes(comparison: Comparison) -> Iterator[str]:
    paper = comparison.paper
    yield f"This sweep: mean ± standard error of the mean over finished runs. Published: {paper.spread}."
    for table in dict.fromkeys(section.table for section in comparison.sections):
        if table in paper.tables:
            yield f"{table}: {paper.tables[table]}"
    yield from paper.notes
    yield from paper.datasets[comparison.dataset].notes


def _differences(comparison: Comparison) -> list[str]:
    texts = [difference.text() for difference in comparison.differences]
    return texts or ["The stored rows show no differences."]


def _lists_below(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the items of each list that is printed below the tables."""
    if meanings := list(_meanings(comparison)):
        yield "The published numbers", meanings
    yield "Notes", list(_notes(comparison))


# --- output formats -------------------------------------------------------------------------------------------------


def _markdown(comparison: Comparison) -> Iterator[str]:
    yield f"# {_title(comparison)}"
    yield from _markdown_list(DIFFERENCES, _differences(comparison))
    for section in comparison.sections:
        yield from ("", f"## {_heading(comparison, section)}", "")
        yield from _table(section).markdown()
    for title, items in _lists_below(comparison):
        yield from _markdown_list(title, items)


def _markdown_list(title: str, items: Sequence[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from (f"- {item}" for item in items)


def _print_tables(comparison: Comparison) -> None:
    console = console_of_stdout()
    console.print(_title(comparison), style="bold", soft_wrap=True)
    _print_list(console, DIFFERENCES, _differences(comparison))
    for section in comparison.sections:
        console.print()
        console.print(_heading(comparison, section), style="bold")
        _print_table(console, _table(section))
    if comparison.earlier_runs:
        console.print()
        print_earlier_rows(console, comparison.sweep, comparison.earlier_runs)
    for title, items in _lists_below(comparison):
        _print_list(console, title, items)


def _print_list(console: Console, title: str, items: Sequence[str]) -> None:
    console.print()
    console.print(title, style="bold")
    for item in items:
        console.print(f"- {item}", soft_wrap=True)


def _print_table(console: Console, table: TextTable) -> None:
    """Print a table without truncation: with wrapped cells on a narrow terminal, with one line per row in a pipe."""
    if console.is_terminal:
        console.print(table.rich())
    else:
        print_whole(console, table.rich())
