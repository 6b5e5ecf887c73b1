"""Published results as points in the plane of rate and distortion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.papers import Paper, PublishedRow, find_paper, paper_names
from sweeps.papers.setups import (
    CONFIGURATION_COLUMNS,
    SetupDifference,
    StoredConfiguration,
    configurations,
    matching_dataset,
    setup_differences,
)

__all__ = ["CONFIGURATION_COLUMNS", "PublishedPoint", "PublishedPoints", "may_be_published", "published_points"]

MEASURED = ("data.kind", "evaluation.split", "evaluation.limit", "test_examples", "tokens_per_example")
"""Keys of a set-up that say which examples were measured. If one differs, the data are not those of the paper."""


@dataclass(frozen=True)
class PublishedPoint:
    """A published result.

    Args:
        table: Name of the table in the paper.
        model: Name of the model, with its hyperparameters.
        rate: The rate [nats].
        distortion: The distortion [nats].
    """

    table: str
    model: str
    rate: float
    distortion: float


@dataclass(frozen=True)
class PublishedPoints:
    """The results of a paper on the data set of a sweep.

    Args:
        paper: The paper.
        dataset: Its data set.
        points: Its results, in the order of the paper; none if other examples were measured.
        differences: Differences between the sweep and the set-up of the paper.
    """

    paper: Paper
    dataset: str
    points: Sequence[PublishedPoint]
    differences: Sequence[SetupDifference]

    @property
    def other_examples(self) -> list[SetupDifference]:
        """The differences which show that the sweep measured other examples than the paper."""
        return [difference for difference in self.differences if difference.key in MEASURED]

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per point."""
        differences = [vars(difference) for difference in self.differences]
        named = {"paper": self.paper.name, "source": self.paper.source, "dataset": self.dataset}
        return [{**named, **vars(point), "differences": differences} for point in self.points]


def may_be_published(data: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a paper has results on one of some data, by their kinds and paths."""
    stored = [StoredConfiguration({"data": section}, []) for section in data]
    matching = ((paper, matching_dataset(paper, [one])) for paper in map(find_paper, paper_names()) for one in stored)
    return any(paper.rows(dataset) for paper, dataset in matching if dataset is not None)


def published_points(rows: Sequence[Mapping[str, Any]], rate: str, distortion: str) -> list[PublishedPoints]:
    """Return the results of each paper on the data set of a sweep.

    A published quantity counts if it may be compared with the column. An MI within batches is not the column `mi`.

    Args:
        rows: Rows of runs with `CONFIGURATION_COLUMNS`.
        rate: Column of the rate.
        distortion: Column of the distortion.

    Returns:
        One object per paper that has such results.
    """
    stored = list(configurations(rows).values())
    found = []
    for paper in map(find_paper, paper_names()):
        dataset = matching_dataset(paper, stored)
        points = list(_points(paper, dataset, rate, distortion)) if dataset is not None else []
        if dataset is not None and points:
            differences = setup_differences(paper, dataset, stored)
            has_other_examples = any(difference.key in MEASURED for difference in differences)
            found.append(PublishedPoints(paper, dataset, [] if has_other_examples else points, differences))
    return found


def _points(paper: Paper, dataset: str, rate: str, distortion: str) -> Iterator[PublishedPoint]:
    """Yield the points of a paper, each once: several of its tables repeat results."""
    seen = set()
    for row in paper.rows(dataset):
        x, y = _number(paper, row, rate), _number(paper, row, distortion)
        if x is None or y is None or row.condition or (row.title, x, y) in seen:
            continue
        seen.add((row.title, x, y))
        yield PublishedPoint(row.table, row.title, x, y)


def _number(paper: Paper, row: PublishedRow, column: str) -> float | None:
    """Return the number of a row that is compared with a column; None if there is none."""
    numbers = (number.mean for name, number in row.numbers.items() if column in paper.metric(row, name).columns[:1])
    return next(numbers, None)
