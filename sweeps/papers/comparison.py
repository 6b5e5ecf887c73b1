"""A sweep beside a paper's tables: arms with their published rows, quantity by quantity, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.statistics import TIME, Summary
from sweeps.analysis.stored import summaries_of
from sweeps.papers import Metric, Paper, Published
from sweeps.papers.matching import Match, SettingDifference, matches
from sweeps.papers.setups import (
    SetupDifference,
    StoredConfiguration,
    configurations,
    published_dataset_of,
    setup_differences,
)
from sweeps.storage.table import ResultsFolder

__all__ = ["Comparison", "Line", "Section", "compare_with_paper"]

Metrics = tuple[tuple[str, Metric], ...]


@dataclass(frozen=True)
class Line:
    """A configuration beside a published row; one of the two may have no counterpart."""

    summary: Summary | None
    row: Published | None
    differences: tuple[SettingDifference, ...] = ()
    note: str = ""

    def to_json(self, metrics: Metrics) -> dict[str, Any]:
        row, summary = self.row, self.summary
        return {
            "arm": summary.arm if summary else None,
            "config_id": summary.config_id if summary else None,
            "parameters": dict(summary.parameters) if summary else {},
            "runs": dict(summary.ends) if summary else {},
            "published": {"model": row.model, "hyperparameters": row.hyperparameters, "condition": row.condition}
            if row
            else None,
            "settings": [vars(difference) for difference in self.differences],
            "exact": row is not None
            and summary is not None
            and not any(d.source == "published" for d in self.differences),
            "note": self.note,
            "metrics": [self._metric(name, metric) for name, metric in metrics],
        }

    def _metric(self, name: str, metric: Metric) -> dict[str, Any]:
        number = self.row.numbers.get(name) if self.row else None
        columns = self.summary.columns if self.summary else {}
        return {
            "metric": name,
            "published": {"mean": number.mean, "std": number.std} if number else None,
            "here": {column: vars(s) if (s := columns.get(column)) else None for column in metric.columns},
        }


@dataclass(frozen=True)
class Section:
    """The rows of one published table whose numbers mean the same; `table` is empty for arms without a counterpart."""

    table: str
    dataset: str
    metrics: Metrics
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        meanings = {name: metric.model_dump(mode="json") for name, metric in self.metrics}
        rows = [line.to_json(self.metrics) for line in self.lines]
        return {"table": self.table or None, "dataset": self.dataset, "metrics": meanings, "rows": rows}


@dataclass(frozen=True)
class Comparison:
    """All that is said of a sweep beside a paper on one of its data sets."""

    sweep: str
    paper: Paper
    dataset: str
    sections: tuple[Section, ...]
    differences: tuple[SetupDifference, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "paper": self.paper.name,
            "source": self.paper.source,
            "spread": self.paper.spread,
            "dataset": self.dataset,
            "differences": [vars(difference) for difference in self.differences],
            "notes": [*self.paper.notes, *self.paper.datasets[self.dataset].notes],
            "tables": [section.to_json() for section in self.sections],
        }


def compare_with_paper(folder: ResultsFolder, paper: Paper, dataset: str | None, *, everything: bool) -> Comparison:
    """The stored configurations of a sweep beside what `paper` prints on `dataset`.

    `everything` adds the published rows without a counterpart and the quantities that are not measured here; arms
    without a counterpart are always there.

    Raises:
        ConfigError: nothing is stored, or the data set is none of the paper's or cannot be told.
    """
    rows = folder.runs()
    if not rows:
        raise ConfigError([ValidationIssue("SWEEP", "must hold runs to compare", "Run it first.", folder.sweep)])
    found = configurations(rows)
    dataset = published_dataset_of(paper, list(found.values()), dataset)
    metrics = _measured(paper)
    plain = next((arm for (arm, _), one in found.items() if one.stack == [] and one.finished), None)
    columns = {column for exception in paper.exceptions for m in exception.metrics.values() for column in m.columns}
    columns |= {column for _, metric in metrics for column in metric.columns}
    summaries = summaries_of(folder, rows, sorted(columns - {TIME}), plain)
    sections = list(_sections(paper, dataset, summaries, found, everything))
    matched = {(line.summary.arm, line.summary.config_id) for s in sections for line in s.lines if line.summary}
    alone = tuple(Line(summary, None) for summary in summaries if (summary.arm, summary.config_id) not in matched)
    if alone:
        sections.append(Section("", dataset, metrics, alone))
    differences = setup_differences(paper, dataset, list(found.values()))
    return Comparison(folder.sweep, paper, dataset, tuple(sections), tuple(differences))


def _measured(paper: Paper) -> Metrics:
    """The quantities of the paper that are measured here, each column under the first of its names."""
    found: dict[tuple[str, ...], tuple[str, Metric]] = {}
    for name, metric in paper.metrics.items():
        if metric.columns:
            found.setdefault(metric.columns, (name, metric))
    return tuple(found.values())


def _sections(
    paper: Paper,
    dataset: str,
    summaries: Sequence[Summary],
    found: Mapping[tuple[str, str], StoredConfiguration],
    everything: bool,
) -> Iterator[Section]:
    """The tables of the paper on `dataset`, each cut into the rows whose numbers mean the same."""
    tables: dict[tuple[str, str], list[Published]] = {}
    for row in paper.rows(dataset):
        tables.setdefault((row.table, row.dataset), []).append(row)
    for (table, name), rows in tables.items():
        printed = dict.fromkeys(metric for row in rows for metric in row.numbers)
        names = [metric for metric in printed if everything or paper.metrics[metric].columns]
        alike: dict[Metrics, list[Line]] = {}
        for row, lines in _beside(paper, rows, summaries, found):
            if everything:
                lines = lines or [Line(None, row, note=paper.unmatched.get(row.model, ""))]
            alike.setdefault(tuple((metric, paper.metric(row, metric)) for metric in names), []).extend(lines)
        yield from (
            Section(table, name, metrics, tuple(lines)) for metrics, lines in alike.items() if metrics and lines
        )


def _beside(
    paper: Paper,
    rows: Sequence[Published],
    summaries: Sequence[Summary],
    found: Mapping[tuple[str, str], StoredConfiguration],
) -> Iterator[tuple[Published, list[Line]]]:
    """Each row of a table with its arms, in their order."""
    matched: list[tuple[Summary, Match]] = []
    for summary in summaries:
        stack = found[summary.arm, summary.config_id].stack
        if stack is not None:
            matched += [(summary, match) for match in matches(stack, paper, rows)]
    for row in rows:
        beside = [(summary, match) for summary, match in matched if match.row is row]
        yield row, [Line(s, row, match.differences, match.counterpart.note) for s, match in beside]
