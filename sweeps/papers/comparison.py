"""Comparison of a sweep with the tables of a paper: matched arms and rows, their quantities, and the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.statistics import TIME, TIMES, Summary
from sweeps.analysis.stored import PLAN_COLUMNS, summaries_of
from sweeps.papers import Metric, Paper, PublishedRow
from sweeps.papers.matching import FieldDifference, Match, matches
from sweeps.papers.setups import (
    CONFIGURATION_COLUMNS,
    SetupDifference,
    StoredConfiguration,
    configurations,
    published_dataset_of,
    setup_differences,
)
from sweeps.storage.table import ResultsFolder

__all__ = ["Comparison", "ComparisonRow", "Section", "compare_with_paper"]

Metrics = tuple[tuple[str, Metric], ...]
"""Names and meanings of published quantities."""

Stored = Mapping[tuple[str, str], StoredConfiguration]
"""Stored configurations by arm and config_id."""


@dataclass(frozen=True)
class ComparisonRow:
    """A stored configuration and the published row that it matches; either may be None."""

    summary: Summary | None
    published: PublishedRow | None
    differences: tuple[FieldDifference, ...] = ()
    note: str = ""

    def to_json(self, metrics: Metrics) -> dict[str, Any]:
        row, summary = self.published, self.summary
        return {
            "arm": summary.arm if summary else None,
            "config_id": summary.config_id if summary else None,
            "parameters": dict(summary.parameters) if summary else {},
            "runs": dict(summary.ends) if summary else {},
            "earlier": summary.earlier if summary else None,
            "published": {"model": row.model, "hyperparameters": row.hyperparameters, "condition": row.condition}
            if row
            else None,
            "settings": [vars(difference) for difference in self.differences],
            "exact": row is not None
            and summary is not None
            and not any(d.source == "published" for d in self.differences),
            "note": self.note,
            "metrics": [self._metric_json(name, metric) for name, metric in metrics],
        }

    def _metric_json(self, name: str, metric: Metric) -> dict[str, Any]:
        number = self.published.numbers.get(name) if self.published else None
        columns = self.summary.columns if self.summary else {}
        return {
            "metric": name,
            "published": {"mean": number.mean, "std": number.std} if number else None,
            "here": {column: vars(s) if (s := columns.get(column)) else None for column in metric.columns},
        }


@dataclass(frozen=True)
class Section:
    """Rows of one published table whose numbers have the same meaning.

    `table` is empty in the section of the arms that match no published row.
    """

    table: str
    dataset: str
    metrics: Metrics
    rows: tuple[ComparisonRow, ...]

    def to_json(self) -> dict[str, Any]:
        meanings = {name: metric.model_dump(mode="json") for name, metric in self.metrics}
        rows = [row.to_json(self.metrics) for row in self.rows]
        return {"table": self.table or None, "dataset": self.dataset, "metrics": meanings, "rows": rows}


@dataclass(frozen=True)
class Comparison:
    """The comparison of a sweep with a paper on one data set of the paper."""

    sweep: str
    paper: Paper
    dataset: str
    sections: tuple[Section, ...]
    differences: tuple[SetupDifference, ...]

    @property
    def earlier_runs(self) -> int:
        """Number of compared runs that belong to an earlier version of the sweep."""
        summaries = [row.summary for section in self.sections for row in section.rows if row.summary is not None]
        runs = {(s.arm, s.config_id): s.runs for s in summaries if s.earlier}
        return sum(runs.values())

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
    """Compare the stored configurations of a sweep with the results of a paper.

    Args:
        folder: The results of the sweep.
        paper: The paper.
        dataset: A data set of the paper; if None, it is inferred from the data of the sweep.
        everything: Include published rows that match no arm, and published quantities that lagvae does not measure.
            Arms that match no published row are always included.

    Raises:
        ConfigError: The sweep has no rows, the paper has no such data set, or the data set cannot be inferred.
    """
    metrics = _measured_metrics(paper)
    columns = {column for exception in paper.exceptions for m in exception.metrics.values() for column in m.columns}
    columns |= {column for _, metric in metrics for column in metric.columns}
    rows = folder.run_table(only=[*PLAN_COLUMNS, *TIMES, *CONFIGURATION_COLUMNS, "device", *columns])
    if not rows:
        raise ConfigError(
            [ValidationIssue("SWEEP", "must name a sweep with stored runs", "Run the sweep first.", folder.sweep)]
        )
    stored = configurations(rows)
    dataset = published_dataset_of(paper, list(stored.values()), dataset)
    plain_arm = next((arm for (arm, _), one in stored.items() if one.stack == [] and one.finished), None)
    summaries = summaries_of(folder, rows, sorted(columns - {TIME}), plain_arm)
    sections = list(_sections(paper, dataset, summaries, stored, everything))
    matched = {(row.summary.arm, row.summary.config_id) for s in sections for row in s.rows if row.summary}
    unmatched = tuple(ComparisonRow(s, None) for s in summaries if (s.arm, s.config_id) not in matched)
    if unmatched:
        sections.append(Section("", dataset, metrics, unmatched))
    differences = setup_differences(paper, dataset, list(stored.values()))
    return Comparison(folder.sweep, paper, dataset, tuple(sections), tuple(differences))


def _measured_metrics(paper: Paper) -> Metrics:
    """Return the metrics of the paper that lagvae also measures.

    If several have the same columns, keep only the first.
    """
    first_name: dict[tuple[str, ...], tuple[str, Metric]] = {}
    for name, metric in paper.metrics.items():
        if metric.columns:
            first_name.setdefault(metric.columns, (name, metric))
    return tuple(first_name.values())


def _sections(
    paper: Paper, dataset: str, summaries: Sequence[Summary], stored: Stored, everything: bool
) -> Iterator[Section]:
    """Yield the tables of the paper on `dataset`, each split into sections in which a metric has one meaning."""
    tables: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in paper.rows(dataset):
        tables.setdefault((row.table, row.dataset), []).append(row)
    for (table, name), rows in tables.items():
        printed = dict.fromkeys(metric for row in rows for metric in row.numbers)
        names = [metric for metric in printed if everything or paper.metrics[metric].columns]
        rows_by_meaning: dict[Metrics, list[ComparisonRow]] = {}
        for row, matched in _matched_rows(paper, rows, summaries, stored):
            if everything and not matched:
                matched = [ComparisonRow(None, row, note=paper.unmatched.get(row.model, ""))]
            metrics = tuple((metric, paper.metric(row, metric)) for metric in names)
            rows_by_meaning.setdefault(metrics, []).extend(matched)
        for metrics, matched in rows_by_meaning.items():
            if metrics and matched:
                yield Section(table, name, metrics, tuple(matched))


def _matched_rows(
    paper: Paper, rows: Sequence[PublishedRow], summaries: Sequence[Summary], stored: Stored
) -> Iterator[tuple[PublishedRow, list[ComparisonRow]]]:
    """Yield each row of a table, in order, with the configurations that match it, in the order of the sweep."""
    matched: list[tuple[Summary, Match]] = []
    for summary in summaries:
        stack = stored[summary.arm, summary.config_id].stack
        if stack is not None:
            matched += [(summary, match) for match in matches(stack, paper, rows)]
    for row in rows:
        of_row = [(summary, match) for summary, match in matched if match.row is row]
        yield row, [ComparisonRow(s, row, match.differences, match.model.note) for s, match in of_row]
