"""Columns of the curves over training: a panel for each column, a line with a band for each configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.analysis.curves import Curve
from sweeps.plots.style import COLOURS, DPI, STYLE, UNDATED, figure_files

__all__ = ["curves_figure"]

WIDTH = 7.0
"""Inches: both columns of a two-column paper."""
PANELS_IN_ROW = 3
PANEL_HEIGHT = 1.75
LEGEND_ROW_HEIGHT = 0.15
LEGEND_CHARACTERS = 130
"""Characters of legend text, handles included, that fit side by side into the width."""

LABELS = {
    "valid_kl": "KL(q(z|x) || p(z)) [nats]",
    "valid_mi": "I(x; z) [nats]",
    "valid_mi_batch": "I(x; z) within batches [nats]",
    "valid_kl_agg": "KL(q(z) || p(z)) [nats]",
    "valid_nll_elbo": "-ELBO [nats]",
    "valid_au": "active units",
    "kl_weight": "KL weight",
    "learning_rate": "learning rate",
}
X_LABELS = {"epoch": "epoch", "step": "outer update"}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))


def curves_figure(
    curves: Sequence[Curve], columns: Sequence[str], path: Path | str, *, x: str = "epoch", title: str = ""
) -> None:
    """Draw the mean of each of `columns` against `x` (epoch or step), with one standard error to each side.

    A line is pale from where some of its runs have ended. A PNG is always written, beside it the format of the path's
    extension where that is another one.

    Raises:
        ValueError: there is no curve, or matplotlib does not write the extension.
    """
    if not curves:
        raise ValueError("A picture of the curves needs at least one run that trained an epoch, but there is none.")
    files = figure_files(Path(path))
    rows = -(-len(columns) // PANELS_IN_ROW)
    across = min(len(columns), PANELS_IN_ROW)
    with matplotlib.rc_context(STYLE):
        across_legend = max(1, LEGEND_CHARACTERS // (max(len(curve.name) for curve in curves) + 7))
        legend_height = LEGEND_ROW_HEIGHT * (1 + -(-len(curves) // across_legend))
        figure = Figure((WIDTH, PANEL_HEIGHT * rows + legend_height), layout="constrained")
        panels = figure.subplots(rows, across, squeeze=False).flatten()
        for panel, column in zip(panels, columns, strict=False):
            _draw_panel(panel, curves, column, x)
        for panel in panels[len(columns) :]:
            panel.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=across_legend, frameon=False, fontsize=6.5)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix.lower()))


def _draw_panel(axes: Axes, curves: Sequence[Curve], column: str, x: str) -> None:
    looks = [(colour, dash) for dash in DASHES for colour in COLOURS]
    for curve, (colour, dash) in zip(curves, cycle(looks), strict=False):
        points = [(getattr(point, x), point.columns[column], point.runs == curve.runs) for point in curve.points]
        measured = [(place, statistic, whole) for place, statistic, whole in points if statistic is not None]
        places = np.array([place for place, _, _ in measured], dtype=np.float64)
        means = np.array([statistic.mean for _, statistic, _ in measured])
        errors = np.array([statistic.se or 0.0 for _, statistic, _ in measured])
        whole = np.array([complete for _, _, complete in measured], dtype=bool)
        axes.fill_between(places, means - errors, means + errors, color=colour, alpha=0.18, linewidth=0)
        axes.plot(places, means, color=colour, linestyle=dash, linewidth=0.9, alpha=0.35)
        axes.plot(places[whole], means[whole], color=colour, linestyle=dash, linewidth=1.1, label=curve.name)
    axes.set_xlabel(X_LABELS[x])
    axes.set_title(LABELS.get(column, column), fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if not any(point.columns[column] for curve in curves for point in curve.points):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
    low, high = axes.get_ylim()
    if 0 < low < 0.4 * high:
        axes.set_ylim(bottom=0.0)
