"""The rate-distortion figure: what each arm reaches at equal information."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sweeps.analysis.rate_distortion import DISTORTIONS, ArmCurve
from sweeps.papers.points import PublishedPoints
from sweeps.plots.style import COLOURS, MARKERS, WIDTH, add_title, axis_label, save_figure

__all__ = ["rate_distortion_figure", "rate_distortion_plot"]

HEIGHT = 3.3
LINE = 0.11
"""Height of a line of the legend with published results, whose names are too long for several columns [inches]."""

LEGEND_CHARACTERS, LEGEND_HANDLE = 62, 7
"""Number of characters of legend text that fit into a figure of the default width, and of those that a handle takes."""

FAR = 2.0
"""Number of interquartile ranges above the curves beyond which configurations are left out of the figure."""


def rate_distortion_figure(
    curves: Sequence[ArmCurve],
    path: Path | str,
    *,
    rate: str,
    distortion: str,
    published: Sequence[PublishedPoints] = (),
    title: str = "",
    width: float | None = None,
) -> list[Path]:
    """Write a figure with a line and a band for each arm, and a pale marker for each configuration; see `save_figure`.

    The line is the best distortion at each level of the rate, the band its interval. Configurations far above all
    lines are left out, and the caption says how many. Published results are hollow marks with numbers, which the
    legend explains.

    Raises:
        ValueError: There is no curve, or matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    return save_figure(
        lambda: rate_distortion_plot(
            curves, rate=rate, distortion=distortion, published=published, title=title, width=width
        ),
        path,
    )


def rate_distortion_plot(
    curves: Sequence[ArmCurve],
    *,
    rate: str,
    distortion: str,
    published: Sequence[PublishedPoints] = (),
    title: str = "",
    width: float | None = None,
) -> Figure:
    """Return the figure; see `rate_distortion_figure`.

    Raises:
        ValueError: There is no curve.
    """
    if not curves:
        raise ValueError("a rate-distortion figure needs at least one arm")
    points = [(of_paper.paper.name, point) for of_paper in published for point in of_paper.points]
    height = HEIGHT + (LINE * (len(curves) + len(points)) if points else 0.0)
    figure = Figure((width or WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    best = np.array([level.distortion.value for curve in curves for level in curve.levels])
    limit = np.quantile(best, 0.75) + FAR * max(float(np.subtract(*np.quantile(best, [0.75, 0.25]))), 0.5)
    left_out = 0
    for curve, colour, marker in zip(curves, cycle(COLOURS), cycle(MARKERS), strict=False):
        shown = curve.distortion_C <= limit
        left_out += int((~shown).sum())
        axes.plot(
            curve.rate_C[shown],
            curve.distortion_C[shown],
            marker,
            color=colour,
            markersize=3.5,
            alpha=0.35,
            markeredgewidth=0,
        )
        rate_L = [level.rate for level in curve.levels]
        value_L = [level.distortion.value for level in curve.levels]
        axes.plot(rate_L, value_L, marker=marker, color=colour, label=curve.arm, markersize=4, drawstyle="steps-pre")
        bands = [(level.rate, level.distortion.low, level.distortion.high) for level in curve.levels]
        known = [(x, low, high) for x, low, high in bands if low is not None and high is not None]
        if known:
            x, low, high = map(np.array, zip(*known, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, step="pre")
    numbers: dict[tuple[float, float], list[str]] = {}
    for number, (paper, point) in enumerate(points, 1):
        is_shown = point.distortion <= limit
        left_out += not is_shown
        label = f"{number} {paper}: {point.model}" + ("" if is_shown else " (far above)")
        at = (point.rate, point.distortion) if is_shown else (np.nan, np.nan)
        axes.plot(*at, "o", markerfacecolor="none", color="0.3", markersize=5, label=label)
        numbers.setdefault(at, []).append(str(number))
    for at, texts in numbers.items():
        if not np.isnan(at[0]):
            axes.annotate(", ".join(texts), at, (3, 3), textcoords="offset points", fontsize=5.5, color="0.3")
    axes.set(xlabel=f"{DISTORTIONS[distortion]} this {axis_label(rate)}", ylabel=axis_label(distortion))
    caption = "line, band: best configuration, 95 % interval over seeds\nmarkers: all configurations"
    if left_out:
        caption += f"; {left_out} far above not shown"
    if points:
        caption += "\nhollow: published on the same data; their protocol may differ"
    axes.annotate(
        caption,
        (0, 0),
        (0, -32),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=6,
        color="0.4",
        va="top",
    )
    if points:
        figure.legend(loc="outside lower left", frameon=False, fontsize=5.5, labelspacing=0.3)
    else:
        characters = max(len(curve.arm) for curve in curves) + LEGEND_HANDLE
        columns = max(1, int(LEGEND_CHARACTERS * (width or WIDTH) / WIDTH) // characters)
        figure.legend(loc="outside lower center", ncols=min(columns, 4), frameon=False, fontsize=6.5)
    add_title(figure, title)
    return figure
