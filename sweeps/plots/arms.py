"""All configurations of a sweep in one figure: one row per configuration, one panel per column of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sweeps.analysis.statistics import TIME, Statistic, Summary
from sweeps.formatting import format_parameters
from sweeps.plots.style import (
    COLOURS,
    MIN_SPAN,
    PAGE_WIDTH,
    add_title,
    axis_label,
    column_of,
    is_count,
    save_figure,
)

__all__ = ["arms_figure"]

ROW_HEIGHT = 0.135
HEADER_HEIGHT = 0.75
SHORT_LABELS = {"nll_iw": "NLL [nats]", "mi": "MI [nats]"}
"""Shorter versions of axis labels that are too long for a panel."""
LOGARITHMIC = frozenset({TIME})
REMEDY_SPREAD = 10.0
"""Difference in KL, MI or active units that a remedy can make."""


def arms_figure(
    summaries: Sequence[Summary],
    columns: Sequence[str],
    path: Path | str,
    *,
    title: str = "",
    width: float | None = None,
) -> list[Path]:
    """Draw the mean and standard error of each column in its own panel, with one row per summary.

    A dotted line marks the value of the first row, which is usually the baseline. Values far above the rest are
    written as numbers at the right edge. See `save_figure` for the files that are written.

    Returns:
        The written files.

    Raises:
        ValueError: There is no summary, or matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    if not summaries:
        raise ValueError("a figure of the arms needs at least one configuration")
    return save_figure(lambda: _draw(summaries, columns, title, width or PAGE_WIDTH), path)


def _draw(summaries: Sequence[Summary], columns: Sequence[str], title: str, width: float) -> Figure:
    figure = Figure((width, HEADER_HEIGHT + ROW_HEIGHT * len(summaries)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        _draw_panel(panel, [summary.columns[column] for summary in summaries], column)
    panels[0].set_yticks(range(len(summaries)), [_row_label(summary, summaries) for summary in summaries])
    panels[0].set_ylim(len(summaries) - 0.4, -0.6)
    add_title(figure, title)
    return figure


def _row_label(summary: Summary, summaries: Sequence[Summary]) -> str:
    """Return the arm, followed by the parameters if the arm has several configurations."""
    label = summary.arm + (" (earlier)" if summary.earlier else "")
    if sum(other.arm == summary.arm for other in summaries) == 1:
        return label
    return f"{label} {format_parameters(summary.parameters, digits=3)}"


def _outliers(means: NDArray[np.float64], spread: float) -> NDArray[np.bool_]:
    """Return a mask [M] of the values that would compress the scale for all other values.

    An outlier exceeds the ninth decile by more than five times the distance between minimum and ninth decile, or five
    times `spread` if that is larger.
    """
    decile, least = np.quantile(means, 0.9, method="lower"), means.min()
    return np.asarray(means > decile + 5.0 * max(decile - least, spread))


def _spread(column: str) -> float:
    """Return a difference in `column` that is not large. One remedy among collapsed models is no outlier of the MI."""
    declared = column_of(column)
    return MIN_SPAN if declared is not None and declared.direction == "min" else REMEDY_SPREAD


def _draw_panel(axes: Axes, statistics: Sequence[Statistic | None], column: str) -> None:
    axes.set_xlabel(SHORT_LABELS.get(column, axis_label(column)))
    axes.tick_params(axis="y", length=0)
    for row in range(0, len(statistics), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.955", zorder=0, linewidth=0)
    measured = [(row, statistic) for row, statistic in enumerate(statistics) if statistic is not None]
    if not measured:
        return
    rows = np.array([row for row, _ in measured])
    means = np.array([statistic.mean for _, statistic in measured])
    errors = np.array([statistic.se or 0.0 for _, statistic in measured])
    logarithmic = column in LOGARITHMIC and bool((means > 0).all())
    outlying = np.zeros(len(means), dtype=bool) if logarithmic else _outliers(means, _spread(column))
    axes.errorbar(
        means[~outlying],
        rows[~outlying],
        xerr=errors[~outlying],
        linestyle="",
        marker="o",
        markersize=3.2,
        color=COLOURS[0],
        elinewidth=0.8,
        zorder=3,
    )
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        axes.minorticks_off()
    else:
        low, high = axes.get_xlim()
        if high - low < MIN_SPAN:
            axes.set_xlim(low - 0.05 * MIN_SPAN, low + MIN_SPAN)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=is_count(column), min_n_ticks=1))
    if statistics[0] is not None:
        axes.axvline(statistics[0].mean, color="0.5", linewidth=0.6, linestyle=":", zorder=1)
    right = axes.get_xlim()[1]
    for mean, row in zip(means[outlying], rows[outlying], strict=True):
        axes.annotate(f"{mean:.4g} \N{RIGHTWARDS ARROW}", (right, row), ha="right", va="center", fontsize=6)
