"""What `lagvae results compare` prints: a sweep beside a paper, as tables for people or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

from sweeps.cli.terminal import console_of_stdout, print_table
from sweeps.formatting import format_parameters
from sweeps.formatting import table as markdown_table
from sweeps.papers import Metric, find_paper
from sweeps.papers.comparison import Comparison, Line, Section, compare_with_paper
from sweeps.storage.table import ResultsFolder

__all__ = ["print_comparison"]

OutputFormat = Literal["table", "json", "markdown"]
Cells = Sequence[Sequence[str]]

DIFFERS = "What differs in data, model and protocol"


def print_comparison(
    folder: ResultsFolder, paper: str, dataset: str | None, output_format: OutputFormat, *, everything: bool
) -> None:
    """Print the stored configurations of a sweep beside the published rows, and what differs."""
    comparison = compare_with_paper(folder, find_paper(paper), dataset, everything=everything)
    if output_format == "json":
        print(json.dumps(comparison.to_json(), allow_nan=False))
    elif output_format == "markdown":
        print("\n".join(_markdown(comparison)))
    else:
        _print_tables(comparison)


def _title(comparison: Comparison) -> str:
    return f"{comparison.sweep} beside {comparison.paper.source}, data set {comparison.dataset}"


def _heading(comparison: Comparison, section: Section) -> str:
    """The table; where its numbers are other quantities than their names say elsewhere, which."""
    if not section.table:
        return "Arms without a counterpart"
    usual = comparison.paper.metrics
    unusual = [f"{name} {_beside(metric)}" for name, metric in section.metrics if metric != usual[name]]
    return f"{section.table}, {section.dataset}" + (f": {', '.join(unusual)}" if unusual else "")


def _beside(metric: Metric) -> str:
    return f"beside {' and '.join(metric.columns)}" if metric.columns else "beside nothing"


def _grid(section: Section) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a section, without parameters and remarks where no line has any.

    The config_id is there to tell configurations of one arm apart.
    """
    headings = ["arm", "runs", "published as"]
    for name, metric in section.metrics:
        headings += [*metric.columns, f"published {name}"]
    headings += ["config_id", "parameters", "remarks"]
    lines = [[*_names(line), *_numbers(section, line), *_details(line)] for line in section.lines]
    arms = [line.summary.arm for line in section.lines if line.summary]
    spare = {"parameters", "remarks"} & {head for i, head in enumerate(headings) if not any(line[i] for line in lines)}
    spare |= {"config_id"} if len(arms) == len(set(arms)) else set()
    kept = [i for i, head in enumerate(headings) if head not in spare]
    return [headings[i] for i in kept], [[line[i] for i in kept] for line in lines]


def _names(line: Line) -> list[str]:
    arm, runs = (line.summary.arm, line.summary.ended()) if line.summary else ("", "")
    return [arm, runs, line.row.title if line.row else ""]


def _numbers(section: Section, line: Line) -> Iterator[str]:
    for name, metric in section.metrics:
        for column in metric.columns:
            statistic = line.summary.columns.get(column) if line.summary else None
            yield statistic.text() if statistic else ""
        number = line.row.numbers.get(name) if line.row else None
        yield number.text if number else ""


def _details(line: Line) -> list[str]:
    config_id, parameters = (
        (line.summary.config_id, format_parameters(line.summary.parameters)) if line.summary else ("", "")
    )
    said = [difference.text() for difference in line.differences]
    return [config_id, parameters, "; ".join([*said, line.note] if line.note else said)]


# --- what stands under the tables -----------------------------------------------------------------------------------


def _meanings(comparison: Comparison) -> Iterator[str]:
    """Each published quantity once: what it is, and what of ours stands beside it; exceptions name their models."""
    models: dict[str, dict[str, None]] = {}
    for section in comparison.sections:
        for name, metric in section.metrics if section.table else ():
            named = models.setdefault(f"{name}, {_beside(metric)}: {metric.meaning}", {})
            if comparison.paper.metrics[name] != metric:
                named.update((line.row.model, None) for line in section.lines if line.row)
    for text, named in models.items():
        yield f"{text} (of {', '.join(named)})" if named else text


def _spread(comparison: Comparison) -> str:
    return f"Here: mean ± standard error of the mean over finished runs. Published: {comparison.paper.spread}."


def _notes(comparison: Comparison) -> Iterator[str]:
    paper = comparison.paper
    for table in dict.fromkeys(section.table for section in comparison.sections):
        if table in paper.tables:
            yield f"{table}: {paper.tables[table]}"
    yield from paper.notes
    yield from paper.datasets[comparison.dataset].notes


def _differences(comparison: Comparison) -> list[str]:
    said = [difference.text() for difference in comparison.differences]
    return said or ["Nothing that can be told from the stored rows."]


def _below(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Title and lines of each list under the tables."""
    if meanings := list(_meanings(comparison)):
        yield "The published numbers", meanings
    yield "Notes", [_spread(comparison), *_notes(comparison)]


# --- styles ---------------------------------------------------------------------------------------------------------


def _markdown(comparison: Comparison) -> Iterator[str]:
    yield f"# {_title(comparison)}"
    yield from _markdown_list(DIFFERS, _differences(comparison))
    for section in comparison.sections:
        yield from ("", f"## {_heading(comparison, section)}", "")
        yield from markdown_table(*_grid(section))
    for title, lines in _below(comparison):
        yield from _markdown_list(title, lines)


def _markdown_list(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from (f"- {line}" for line in lines)


def _print_tables(comparison: Comparison) -> None:
    console = console_of_stdout()
    console.print(_title(comparison), style="bold", soft_wrap=True)
    _print_list(console, DIFFERS, _differences(comparison))
    for section in comparison.sections:
        console.print()
        console.print(_heading(comparison, section), style="bold")
        _print_table(console, *_grid(section))
    for title, lines in _below(comparison):
        _print_list(console, title, lines)


def _print_list(console: Console, title: str, lines: Sequence[str]) -> None:
    console.print()
    console.print(title, style="bold")
    for line in lines:
        console.print(f"- {line}", soft_wrap=True)


def _print_table(console: Console, headings: Sequence[str], lines: Cells) -> None:
    """Print a table; on a narrow terminal its cells are folded and never cut, in a pipe a line is one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    texts = ("arm", "published as", "config_id", "parameters", "remarks")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in texts else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    if console.is_terminal:
        console.print(table)
    else:
        print_table(console, table)
