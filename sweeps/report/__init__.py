"""The report of sweeps: one HTML file with the answer, interactive figures, tables and provenance, without network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeps.analysis.pareto import Direction
from sweeps.report.content import read_content
from sweeps.report.joint import join
from sweeps.report.page import render
from sweeps.storage.table import ResultsFolder

__all__ = ["report_of"]


def report_of(folders: Sequence[ResultsFolder], objectives: Mapping[str, Direction] | None = None) -> str:
    """Return the report of one or several stored sweeps as an HTML page.

    Several sweeps also get a common front, if their data and the settings of their evaluation are the same.

    Args:
        folders: Folders of the sweeps.
        objectives: Directions by column; None for the objectives of the first sweep.

    Raises:
        ConfigError: A sweep has no run of its current sweep file, or a stored sweep file is invalid.
    """
    first = read_content(folders[0], objectives)
    contents = [first, *(read_content(folder, first.axes) for folder in folders[1:])]
    return render(contents, join(contents) if len(contents) > 1 else None)
