"""Figure of training curves: one panel per column, with one line and error band per configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.analysis.curves import Curve
from sweeps.plots.style import (
    COLOURS,
    PAGE_WIDTH,
    add_title,
    axis_label,
    is_count,
    least_span,
    save_figure,
    widened,
)

__all__ = ["curves_figure"]

PANELS_PER_ROW = 3
PANEL_HEIGHT = 1.75
LEGEND_ROW_HEIGHT = 0.15
LEGEND_CHARACTERS = 130
"""Number of characters of legend text, including handles, that fit into a figure of the default width."""

MARGIN = 0.05
"""Margin of a widened y axis, as a fraction of its range."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))


def curves_figure(
    curves: Sequence[Curve],
    columns: Sequence[str],
    path: Path | str,
    *,
    x: str = "epoch",
    title: str = "",
    width: float | None = None,
) -> list[Path]:
    """Draw the mean of each column against `x`, with a band of one standard error on each side.

    A line becomes pale at epochs that not all of its runs have trained. No axis shows less than `least_span`. See
    `save_figure` for the files that are written.

    Args:
        curves: At least one curve.
        columns: Names of columns of the curves, one panel each.
        path: File to write.
        x: "epoch", or "step" (outer updates: optimiser steps on the main objective, without inner encoder steps).
        title: Title of the figure; "" for none.
        width: Width of the figure [inches]; None for that of a page.

    Returns:
        The written files.

    Raises:
        ValueError: There is no curve, or matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    if not curves:
        raise ValueError("a figure of the curves needs at least one run that trained an epoch")
    return save_figure(lambda: _draw(curves, columns, x, title, width or PAGE_WIDTH), path)


def _draw(curves: Sequence[Curve], columns: Sequence[str], x: str, title: str, width: float = PAGE_WIDTH) -> Figure:
    rows = -(-len(columns) // PANELS_PER_ROW)
    panels_per_row = min(len(columns), PANELS_PER_ROW)
    characters = max(len(curve.label) for curve in curves) + 7
    legend_columns = max(1, int(LEGEND_CHARACTERS * width / PAGE_WIDTH) // characters)
    legend_height = LEGEND_ROW_HEIGHT * (1 + -(-len(curves) // legend_columns))
    figure = Figure((width, PANEL_HEIGHT * rows + legend_height), layout="constrained")
    panels = figure.subplots(rows, panels_per_row, squeeze=False).flatten()
    for panel, column in zip(panels, columns, strict=False):
        _draw_panel(panel, curves, column, x)
    for panel in panels[len(columns) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=6.5)
    add_title(figure, title)
    return figure


def _draw_panel(axes: Axes, curves: Sequence[Curve], column: str, x: str) -> None:
    line_styles = [(colour, dash) for dash in DASHES for colour in COLOURS]
    for curve, (colour, dash) in zip(curves, cycle(line_styles), strict=False):
        _draw_curve(axes, curve, column, x, colour, dash)
    axes.set_xlabel(axis_label(x))
    axes.set_title(axis_label(column), fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    count = is_count(column)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=count, min_n_ticks=1 if count else 2))
    if not any(point.columns[column] for curve in curves for point in curve.points):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    low, high = axes.dataLim.intervaly
    if high - low < (span := least_span(column)):
        low, high = widened(low, high, span, count=count)
        axes.set_ylim(low - MARGIN * span, high + MARGIN * span)
    low, high = axes.get_ylim()
    if 0 < low < 0.4 * high:
        axes.set_ylim(bottom=0.0)


def _draw_curve(axes: Axes, curve: Curve, column: str, x: str, colour: str, dash: Any) -> None:
    points = [(point, statistic) for point in curve.points if (statistic := point.columns[column]) is not None]
    xs = np.array([getattr(point, x) for point, _ in points], dtype=np.float64)
    means = np.array([statistic.mean for _, statistic in points])
    errors = np.array([statistic.se or 0.0 for _, statistic in points])
    all_runs = np.array([point.runs == curve.runs for point, _ in points], dtype=bool)
    axes.fill_between(xs, means - errors, means + errors, color=colour, alpha=0.18, linewidth=0)
    axes.plot(xs, means, color=colour, linestyle=dash, linewidth=0.9, alpha=0.35)
    axes.plot(xs[all_runs], means[all_runs], color=colour, linestyle=dash, linewidth=1.1, label=curve.label)
