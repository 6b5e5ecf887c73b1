"""The posterior mean space of He et al. 2019 as figures: many examples at a few steps, and one example at all steps."""

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

from sweeps.plots.style import COLOURS, PAGE_WIDTH, WIDTH, add_title, axis_label, save_figure

__all__ = ["ScatterPanel", "TrajectoryPoint", "scatter_figure", "select_steps", "trajectory_figure"]

ROW_HEIGHT = 1.95
TRAJECTORY_SIZE = (WIDTH, 2.8)
TRAJECTORY_COLOURS = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.0, 0.85, 256)))
"""The colour map `plasma` without its yellow end, which is hard to see on white."""
MIN_LIMIT = 0.5
"""Smallest limit of the axes on each side of 0, so that points close to the origin also look close to it."""
REFERENCE_LINE: dict[str, Any] = {"color": "0.6", "linewidth": 0.6, "zorder": 1}
MIN_PANELS_PER_ROW = 4
P_LABEL, Q_LABEL = "mean of p(z|x)", "mean of q(z|x)"


@dataclass(frozen=True, eq=False)
class ScatterPanel:
    """One panel: the means [N] of p(z|x) and q(z|x) of N examples along one latent dimension, its title and a note."""

    p_N: NDArray[np.float64]
    q_N: NDArray[np.float64]
    title: str
    note: str = ""


@dataclass(frozen=True)
class TrajectoryPoint:
    """The means of p(z|x) and q(z|x) of one example after an optimiser step.

    `update` is the outer update (a step on the main objective, with its inner encoder steps) that contains this
    optimiser step.
    """

    update: int
    p: float
    q: float


def select_steps(steps: Sequence[int], requested: Sequence[int] = ()) -> list[int]:
    """Return the stored steps to draw.

    Args:
        steps: Stored steps, in any order.
        requested: Steps to draw; for each of these, the nearest stored step is taken. By default: the first step, the
            first and the last step after 0, and the step nearest to the geometric mean of those two.

    Returns:
        The chosen steps in ascending order, without duplicates.
    """
    stored = np.array(sorted(steps))
    if not requested:
        later = stored[stored > 0]
        middle = [later[0], np.sqrt(float(later[0]) * float(later[-1])), later[-1]] if len(later) else []
        requested = [stored[0], *middle]
    nearest = [int(stored[np.abs(stored - step).argmin()]) for step in requested]
    return sorted(set(nearest))


def scatter_figure(rows: Sequence[Sequence[ScatterPanel]], path: Path | str, *, title: str = "") -> None:
    """Draw rows of panels: the mean of q(z|x) against the mean of p(z|x), with one scale for all axes.

    On the dashed diagonal, the inference network agrees with the model. On the horizontal line, the inference network
    ignores x. See `save_figure` for the files that are written.

    Raises:
        ValueError: There is no panel, or matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    if not rows or not all(rows):
        raise ValueError("a figure of the posterior mean space needs at least one snapshot")
    save_figure(lambda: _draw_rows(rows, title), path)


def _draw_rows(rows: Sequence[Sequence[ScatterPanel]], title: str) -> Figure:
    limit = _limit([values for row in rows for panel in row for values in (panel.p_N, panel.q_N)])
    columns = max(MIN_PANELS_PER_ROW, *(len(row) for row in rows))
    height = ROW_HEIGHT * MIN_PANELS_PER_ROW / columns * len(rows) + 0.35
    figure = Figure((PAGE_WIDTH, height), layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    for axes_of_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_of_row, row, strict=False):
            _draw_scatter(axes, panel, limit)
        for axes in axes_of_row[len(row) :]:
            axes.set_visible(False)
        axes_of_row[0].set_ylabel(Q_LABEL)
    for axes in grid[-1]:
        axes.set_xlabel(P_LABEL)
    add_title(figure, title)
    return figure


def _limit(values: Sequence[NDArray[np.float64]]) -> float:
    """Return the limit of the axes on each side of 0."""
    return max(MIN_LIMIT, 1.08 * max(float(np.abs(each).max()) for each in values))


def _draw_frame(axes: Axes, low: float, high: float) -> None:
    """Set equal scales on both axes, and draw the diagonal and the horizontal line."""
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.plot((low, high), (low, high), linestyle=(0, (4, 3)), **REFERENCE_LINE)
    axes.axhline(0.0, **REFERENCE_LINE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_scatter(axes: Axes, panel: ScatterPanel, limit: float) -> None:
    _draw_frame(axes, -limit, limit)
    axes.scatter(panel.p_N, panel.q_N, s=4, color=COLOURS[0], alpha=0.35, linewidths=0, zorder=3)
    axes.set_title(panel.title, fontsize=7)
    axes.text(0.04, 0.97, panel.note, transform=axes.transAxes, ha="left", va="top", fontsize=6, color="0.35")


def trajectory_figure(trajectory: Sequence[TrajectoryPoint], path: Path | str, *, title: str = "") -> None:
    """Draw the trajectory of one example: a line through all points, and a dot after each outer update.

    Colour shows the outer update. A circle marks the start and a square the end. Steps that update only the encoder
    are vertical, because they do not change p(z|x), the model's own posterior. See `save_figure` for the files that
    are written.

    Raises:
        ValueError: There is no point, or matplotlib cannot write files with the extension of `path`.
        OSError: A file cannot be written.
    """
    if not trajectory:
        raise ValueError("a figure of a trajectory needs at least one step")
    save_figure(lambda: _draw_trajectory(trajectory, title), path)


def _draw_trajectory(trajectory: Sequence[TrajectoryPoint], title: str) -> Figure:
    p, q = (np.array([getattr(point, name) for point in trajectory]) for name in ("p", "q"))
    updates = np.array([point.update for point in trajectory])
    is_last_of_update = np.append(updates[1:] != updates[:-1], True)
    low, high = min(p.min(), q.min(), 0.0), max(p.max(), q.max(), 0.0)
    margin = max(0.06 * (high - low), 0.02)
    figure = Figure(TRAJECTORY_SIZE, layout="constrained")
    axes = figure.add_subplot()
    _draw_frame(axes, low - margin, high + margin)
    vertices = np.column_stack([p, q])
    segments = list(np.stack([vertices[:-1], vertices[1:]], 1))
    lines = LineCollection(segments, cmap=TRAJECTORY_COLOURS, linewidths=0.7, alpha=0.6)
    lines.set_array(updates[1:])
    axes.add_collection(lines)
    dots = axes.scatter(
        p[is_last_of_update],
        q[is_last_of_update],
        c=updates[is_last_of_update],
        s=11,
        cmap=TRAJECTORY_COLOURS,
        linewidths=0,
        zorder=3,
    )
    for index, marker in ((0, "o"), (-1, "s")):
        axes.scatter(p[index], q[index], s=34, marker=marker, facecolors="none", edgecolors="black", zorder=4)
    axes.set(xlabel=P_LABEL, ylabel=Q_LABEL)
    bar = figure.colorbar(dots, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(axis_label("step"))
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()
    if title:
        axes.set_title(title, loc="left", fontsize=7.5)
    return figure
