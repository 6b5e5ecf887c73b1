"""Every configuration of a sweep in one picture: a row each, a panel for each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sweeps.analysis.statistics import Statistic, Summary
from sweeps.plots.style import AXIS_LABELS, COLOURS, DPI, STYLE, UNDATED, figure_files

__all__ = ["arms_figure"]

ROW_HEIGHT = 0.135
HEAD_HEIGHT = 0.75
WIDTH = 7.0
"""Inches: both columns of a two-column paper."""

LABELS = AXIS_LABELS | {"kl": "KL [nats]", "mi": "mutual information [nats]", "time": "training time / baseline"}
PANEL_LABELS = LABELS | {"nll_iw": "NLL [nats]", "mi": "MI [nats]"}
LOGARITHMIC = frozenset({"time"})


def arms_figure(summaries: Sequence[Summary], columns: Sequence[str], path: Path | str, *, title: str = "") -> None:
    """Draw mean and standard error of `columns`, a panel each, with one row for each summary, the first on top.

    A dotted line repeats the value of the first row, the baseline as a rule. Values far beyond the rest are written at
    the right edge. A PNG is always written, beside it the format of the path's extension where that is another one.

    Raises:
        ValueError: there is no summary, or matplotlib does not write the extension.
    """
    if not summaries:
        raise ValueError("A picture of the arms needs at least one configuration, but there is none.")
    files = figure_files(Path(path))
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, HEAD_HEIGHT + ROW_HEIGHT * len(summaries)), layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for panel, column in zip(panels, columns, strict=True):
            _draw_panel(panel, [summary.columns[column] for summary in summaries], column)
        panels[0].set_yticks(range(len(summaries)), [_name(summary, summaries) for summary in summaries])
        panels[0].set_ylim(len(summaries) - 0.4, -0.6)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix.lower()))


def _name(summary: Summary, summaries: Sequence[Summary]) -> str:
    """The arm, and what tells the configuration from others of that arm."""
    alone = sum(other.arm == summary.arm for other in summaries) == 1
    values = " ".join(
        f"{key.partition('.')[2]}={value:.3g}" if isinstance(value, float) else f"{key.partition('.')[2]}={value}"
        for key, value in summary.parameters.items()
    )
    return summary.arm if alone else f"{summary.arm} {values}"


def _far(means: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values [M] would flatten the rest: above the ninth decile by five times its distance from the least."""
    decile, least = np.quantile(means, 0.9, method="lower"), means.min()
    return np.asarray(means > decile + 5.0 * (decile - least))


def _draw_panel(axes: Axes, statistics: Sequence[Statistic | None], column: str) -> None:
    rows = [row for row, statistic in enumerate(statistics) if statistic is not None]
    means = np.array([statistic.mean for statistic in statistics if statistic is not None])
    errors = np.array([statistic.se or 0.0 for statistic in statistics if statistic is not None])
    axes.set_xlabel(PANEL_LABELS.get(column, column))
    axes.tick_params(axis="y", length=0)
    for row in range(0, len(statistics), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.955", zorder=0, linewidth=0)
    if not rows:
        return
    logarithmic = column in LOGARITHMIC and bool((means > 0).all())
    far = np.zeros(len(means), dtype=bool) if logarithmic else _far(means)
    near = ~far
    axes.errorbar(
        means[near],
        np.array(rows)[near],
        xerr=errors[near],
        linestyle="",
        marker="o",
        markersize=3.2,
        color=COLOURS[0],
        elinewidth=0.8,
        zorder=3,
    )
    if logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.minorticks_off()
    if statistics[0] is not None:
        axes.axvline(statistics[0].mean, color="0.5", linewidth=0.6, linestyle=":", zorder=1)
    right = axes.get_xlim()[1]
    for mean, row in zip(means[far], np.array(rows)[far], strict=True):
        axes.annotate(f"{mean:.4g} \N{RIGHTWARDS ARROW}", (right, row), ha="right", va="center", fontsize=6)
