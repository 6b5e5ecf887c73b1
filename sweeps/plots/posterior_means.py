"""The posterior mean space as pictures: many examples at a few moments, and the way of one through training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sweeps.plots.style import COLOURS, DPI, STYLE, UNDATED, figure_files

__all__ = ["Place", "Scatter", "chosen_steps", "scatter_figure", "trajectory_figure"]

WIDTH = 7.0
"""Inches: both columns of a two-column paper; the picture of one example takes one."""
ROW_HEIGHT = 1.95
TRAJECTORY_SIZE = (3.35, 2.8)
TRAJECTORY_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.0, 0.85, 256)))
"""Without the yellow that is lost on white."""
LEAST_REACH = 0.5
"""Of the axes to each side of 0: points at the origin should look like it."""
RULE: dict[str, Any] = {"color": "0.6", "linewidth": 0.6, "zorder": 1}
PANELS = 4


@dataclass(frozen=True, eq=False)
class Scatter:
    """One panel: the means [N] of p(z|x) and q(z|x) of N examples along one dimension, and what is said of them."""

    p_N: NDArray[np.float64]
    q_N: NDArray[np.float64]
    title: str
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Where an example was after a step of an optimiser, in the outer update `update`."""

    update: int
    p: float
    q: float


def chosen_steps(steps: Sequence[int], wanted: Sequence[int] = ()) -> list[int]:
    """Which of the stored `steps` are drawn: those nearest to `wanted`, or else the first, the last and two between.

    The two are the first after the start, and the one half-way from there to the last on a logarithmic scale.
    """
    stored = np.array(sorted(steps))
    if not wanted:
        later = stored[stored > 0]
        wanted = [
            stored[0],
            *([later[0], np.sqrt(float(later[0]) * float(later[-1])), later[-1]] if len(later) else []),
        ]
    nearest = [int(stored[np.abs(stored - step).argmin()]) for step in wanted]
    return sorted(set(nearest))


def scatter_figure(rows: Sequence[Sequence[Scatter]], path: Path | str, *, title: str = "") -> None:
    """Draw each row of panels: the mean of q(z|x) against that of p(z|x), both axes on one scale throughout.

    The diagonal, where inference has caught up with the model, is dashed; the horizontal axis, where it ignores x, is
    a line. A PNG is always written, beside it the format of the path's extension where that is another one.

    Raises:
        ValueError: there is no panel, or matplotlib does not write the extension.
    """
    if not rows or not all(rows):
        raise ValueError("A picture of the posterior mean space needs at least one snapshot, but there is none.")
    files = figure_files(Path(path))
    reach = _reach([values for row in rows for panel in row for values in (panel.p_N, panel.q_N)])
    columns = max(PANELS, *(len(row) for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH, ROW_HEIGHT * PANELS / columns * len(rows) + 0.35), layout="constrained")
        grid = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
        for axes_of_row, row in zip(grid, rows, strict=True):
            for axes, panel in zip(axes_of_row, row, strict=False):
                _draw_scatter(axes, panel, reach)
            for axes in axes_of_row[len(row) :]:
                axes.set_visible(False)
            axes_of_row[0].set_ylabel("mean of q(z|x)")
        for axes in grid[-1]:
            axes.set_xlabel("mean of p(z|x)")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix.lower()))


def _reach(values: Sequence[NDArray[np.float64]]) -> float:
    """How far the axes go to each side of 0."""
    return max(LEAST_REACH, 1.08 * max(float(np.abs(each).max()) for each in values))


def _draw_frame(axes: Axes, low: float, high: float) -> None:
    """Axes of one scale with their diagonal and the horizontal axis."""
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.plot((low, high), (low, high), linestyle=(0, (4, 3)), **RULE)
    axes.axhline(0.0, **RULE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_scatter(axes: Axes, panel: Scatter, reach: float) -> None:
    _draw_frame(axes, -reach, reach)
    axes.scatter(panel.p_N, panel.q_N, s=4, color=COLOURS[0], alpha=0.35, linewidths=0, zorder=3)
    axes.set_title(panel.title, fontsize=7)
    axes.text(0.04, 0.97, panel.note, transform=axes.transAxes, ha="left", va="top", fontsize=6, color="0.35")


def trajectory_figure(places: Sequence[Place], path: Path | str, *, title: str = "") -> None:
    """Draw the way of one example: a line through every step, a point after each outer update, both in its colour.

    A circle is where it began, a square where it ended. Steps of the encoder alone are vertical, since they leave the
    model's own posterior as it is. Files as of `scatter_figure`.

    Raises:
        ValueError: there is no place, or matplotlib does not write the extension.
    """
    if not places:
        raise ValueError("The way of an example needs at least one step, but there is none.")
    files = figure_files(Path(path))
    p, q = (np.array([getattr(place, name) for place in places]) for name in ("p", "q"))
    updates = np.array([place.update for place in places])
    ends = np.append(updates[1:] != updates[:-1], True)
    low, high = min(p.min(), q.min(), 0.0), max(p.max(), q.max(), 0.0)
    margin = max(0.06 * (high - low), 0.02)
    with matplotlib.rc_context(STYLE):
        figure = Figure(TRAJECTORY_SIZE, layout="constrained")
        axes = figure.add_subplot()
        _draw_frame(axes, low - margin, high + margin)
        corners = np.column_stack([p, q])
        lines = LineCollection(
            list(np.stack([corners[:-1], corners[1:]], 1)), cmap=TRAJECTORY_COLOURS, linewidths=0.7, alpha=0.6
        )
        lines.set_array(updates[1:])
        axes.add_collection(lines)
        points = axes.scatter(p[ends], q[ends], c=updates[ends], s=11, cmap=TRAJECTORY_COLOURS, linewidths=0, zorder=3)
        for place, marker in ((0, "o"), (-1, "s")):
            axes.scatter(p[place], q[place], s=34, marker=marker, facecolors="none", edgecolors="black", zorder=4)
        axes.set(xlabel="mean of p(z|x)", ylabel="mean of q(z|x)")
        bar = figure.colorbar(points, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("outer update")
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(5, integer=True)
        bar.update_ticks()
        if title:
            axes.set_title(title, loc="left", fontsize=7.5)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix.lower()))
