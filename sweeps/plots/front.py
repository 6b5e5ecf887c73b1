"""The Pareto front of a sweep as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.pareto import Direction, front
from sweeps.plots.style import COLOURS, COUNTS, MARKERS, WIDTH, axis_label, save_figure

__all__ = ["FrontPoint", "front_figure", "outliers", "staircase"]

Directions = tuple[Direction, Direction]
"""Directions of improvement of the x axis and of the y axis."""

PLOT_HEIGHT = 2.55
LEGEND_ROW_HEIGHT = 0.15
LEGEND_CHARACTERS = 62
"""Number of characters of legend text, including handles, that fit into the width of the figure."""
DODGE = 0.05
"""Horizontal offset between arms with the same x, if the x axis shows a count."""
MAX_DODGES = 6
"""Number of different offsets. Further arms reuse the offsets, so that no point comes near the next integer."""

EDGE_COLOUR = "0.3"
ARROWS: dict[Directions, str] = {
    ("max", "min"): "\N{SOUTH EAST ARROW}",
    ("max", "max"): "\N{NORTH EAST ARROW}",
    ("min", "min"): "\N{SOUTH WEST ARROW}",
    ("min", "max"): "\N{NORTH WEST ARROW}",
}


@dataclass(frozen=True)
class FrontPoint:
    """One configuration in the plane of two objectives. Each pair holds the value for x, then the value for y."""

    arm: str
    config_id: str
    mean: tuple[float, float]
    """Mean over the seeds; must be finite."""
    se: tuple[float | None, float | None]
    """Standard error of the mean. If it is None or NaN (a single seed), no error bar is drawn."""
    n: int
    """Number of seeds."""
    member: bool
    """Whether the configuration is on the front."""
    label: str = ""
    """Text next to the point. Keep it short, because labels of close points overlap."""


def front_figure(
    points: Sequence[FrontPoint],
    path: Path | str,
    *,
    x: str = "au",
    y: str = "nll_iw",
    directions: Directions = ("max", "min"),
    title: str = "",
) -> None:
    """Draw the Pareto front of column `y` against column `x`.

    Members of the front are filled and joined by the staircase that bounds the dominated region; other configurations
    are drawn lighter. Error bars extend one standard error to each side. Arms get colours and markers in the order in
    which they first appear in `points`.

    If x is a count, several arms can share an integer. Points off the front are then shifted by multiples of
    `DODGE`, so that they do not hide each other. The shift is always to the worse side, so that no point appears
    to lie beyond the front. Configurations far worse in y than the rest (see `outliers`) are drawn as triangles at the
    edge, and the caption gives the range of their values. See `save_figure` for the files that are written.

    Args:
        points: At least one configuration.
        path: File to write.
        x: Column on the x axis.
        y: Column on the y axis.
        directions: Direction of improvement of x and of y.
        title: Title of the figure; "" for none.

    Raises:
        ValueError: There is no point, a mean is not finite, or matplotlib cannot write files with the extension of
            `path`.
        OSError: A file cannot be written.
    """
    if not points:
        raise ValueError("a figure of the front needs at least one configuration")
    for point in points:
        if not np.isfinite(point.mean).all():
            raise ValueError(f"the mean of {point.config_id} must be finite, got {point.mean}")
    save_figure(lambda: _draw(points, (x, y), directions, title), path)


def staircase(
    xs: ArrayLike, ys: ArrayLike, directions: Directions, worst: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Return the boundary of the region that the points dominate, as vertices from the worst x to the best.

    A point dominates everything that is not better than the point in either coordinate. Between two neighbours on the
    front, the boundary therefore turns at the worse of the two xs and the worse of the two ys. Dominated, duplicate and
    non-finite points add no vertex.

    Args:
        xs: Coordinates [M].
        ys: Coordinates [M].
        directions: Direction of improvement of x and of y.
        worst: The worst corner of the plot. The boundary is extended to the horizontal and the vertical line through
            this corner. None for no extension.

    Returns:
        Vertices [K, 2].

    Raises:
        ValueError: `xs` and `ys` differ in length, or a direction is neither "min" nor "max".
    """
    points = np.column_stack([np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)])
    members = np.unique(points[front(points, directions)], axis=0)
    if directions[0] == "min":
        members = members[::-1]
    end_x, end_y = worst or (np.nan, np.nan)
    edge = np.column_stack([[end_x, *np.repeat(members[:, 0], 2)], [*np.repeat(members[:, 1], 2), end_y]])
    return edge if worst and len(members) else edge[1:-1]


def outliers(ys: Sequence[float], direction: Direction) -> NDArray[np.bool_]:
    """Return a mask [M] of the values that would compress the y axis because they are far worse than the rest.

    An outlier lies beyond the worse quartile by more than three times the interquartile range. A value on the better
    side is never an outlier.
    """
    badness = np.asarray(ys, dtype=np.float64) * (1.0 if direction == "min" else -1.0)
    lower, upper = np.quantile(badness, (0.25, 0.75))
    return np.asarray(badness > upper + 3.0 * max(upper - lower, 1e-9 * abs(upper)))


@dataclass(frozen=True)
class _ArmStyle:
    """Colour and marker of an arm."""

    colour: str
    marker: str


def _arm_styles(points: Sequence[FrontPoint]) -> dict[str, _ArmStyle]:
    arms = dict.fromkeys(point.arm for point in points)
    pairs = zip(arms, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {arm: _ArmStyle(colour, marker) for arm, colour, marker in pairs}


def _dodged(points: Sequence[FrontPoint], direction: Direction) -> list[float]:
    """Return the x coordinate at which each point is drawn if x is a count."""
    step = -DODGE if direction == "max" else DODGE
    arms_at: dict[float, dict[str, int]] = {}
    xs = []
    for point in points:
        x = float(point.mean[0])
        if x.is_integer() and not point.member:
            arms = arms_at.setdefault(x, {})
            x += step * (arms.setdefault(point.arm, len(arms)) % MAX_DODGES)
        xs.append(x)
    return xs


def _draw(points: Sequence[FrontPoint], columns: tuple[str, str], directions: Directions, title: str) -> Figure:
    styles = _arm_styles(points)
    legend_columns = max(1, LEGEND_CHARACTERS // (max(map(len, styles)) + 6))
    legend_rows = -(-(len(styles) + 1) // legend_columns)
    figure = Figure((WIDTH, PLOT_HEIGHT + LEGEND_ROW_HEIGHT * legend_rows), layout="constrained")
    axes = figure.add_subplot()
    xs = _dodged(points, directions[0]) if columns[0] in COUNTS else [point.mean[0] for point in points]
    outlying = outliers([point.mean[1] for point in points], directions[1])
    for point, x, outside in zip(points, xs, outlying, strict=True):
        if not outside:
            _draw_point(axes, point, x, styles[point.arm])
            _draw_label(axes, point, directions)
    _draw_edge(axes, points, directions)
    for point, x, outside in zip(points, xs, outlying, strict=True):
        if outside:
            _draw_outlier(axes, x, styles[point.arm], directions[1])
    _annotate(axes, columns, directions, title)
    _draw_legend(figure, _caption(points, outlying), styles, legend_columns)
    return figure


def _draw_point(axes: Axes, point: FrontPoint, x: float, style: _ArmStyle) -> None:
    x_se, y_se = (np.nan if se is None else se for se in point.se)
    axes.errorbar(
        x,
        point.mean[1],
        xerr=x_se,
        yerr=y_se,
        color=style.colour,
        marker=style.marker,
        markersize=4.2 if point.member else 3.4,
        markerfacecolor=style.colour if point.member else "white",
        markeredgecolor="white" if point.member else style.colour,
        markeredgewidth=0.4 if point.member else 0.7,
        elinewidth=0.7 if point.member else 0.5,
        alpha=None if point.member else 0.5,
        zorder=4 if point.member else 2,
    )


def _draw_label(axes: Axes, point: FrontPoint, directions: Directions) -> None:
    """Write the label on the better side of the point, where the front leaves room for text."""
    if point.label:
        right, up = directions[0] == "max", directions[1] == "max"
        axes.annotate(
            point.label,
            point.mean,
            xytext=(3 if right else -3, 3 if up else -3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if up else "top",
            fontsize=6,
            zorder=5,
        )


def _draw_edge(axes: Axes, points: Sequence[FrontPoint], directions: Directions) -> None:
    """Draw the staircase of the members up to the worse limit of each axis, and fix the limits of both axes."""
    axes.margins(0.07, 0.1)
    limits = axes.get_xlim(), axes.get_ylim()
    worst_x, worst_y = (
        min(limit) if direction == "max" else max(limit) for limit, direction in zip(limits, directions, strict=True)
    )
    means = np.array([point.mean for point in points if point.member]).reshape(-1, 2)
    edge = staircase(means[:, 0], means[:, 1], directions, worst=(worst_x, worst_y))
    axes.plot(edge[:, 0], edge[:, 1], color=EDGE_COLOUR, linewidth=0.8, zorder=1)
    axes.set(xlim=limits[0], ylim=limits[1])


def _draw_outlier(axes: Axes, x: float, style: _ArmStyle, direction: Direction) -> None:
    """Draw a triangle at the worse limit of the y axis, pointing towards a configuration beyond that limit."""
    low, high = axes.get_ylim()
    y, marker = (high, "^") if direction == "min" else (low, "v")
    axes.plot(x, y, color=style.colour, marker=marker, markersize=3.4, clip_on=False, zorder=5, linestyle="")


def _annotate(axes: Axes, columns: tuple[str, str], directions: Directions, title: str) -> None:
    for axis, column in zip((axes.xaxis, axes.yaxis), columns, strict=True):
        axis.set_label_text(axis_label(column))
        count = column in COUNTS
        axis.set_major_locator(MaxNLocator(6, integer=count, steps=[1, 2, 4, 8, 10] if count else [1, 2, 5, 10]))
    axes.ticklabel_format(useOffset=False)
    if title:
        axes.set_title(title, loc="left", fontsize=7.5, pad=12)
    axes.annotate(
        f"better {ARROWS[directions]}",
        (1, 1),
        xycoords="axes fraction",
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="0.35",
    )


def _draw_legend(figure: Figure, caption: str, styles: dict[str, _ArmStyle], legend_columns: int) -> None:
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="", markersize=4, label=arm)
        for arm, style in styles.items()
    ]
    handles.append(Line2D([], [], color=EDGE_COLOUR, linewidth=0.8, label="front"))
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns,
        title=caption,
        frameon=False,
        fontsize=6.5,
        title_fontsize=6,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.2,
        labelspacing=0.3,
    )
    legend.get_title().set_color("0.35")


def _caption(points: Sequence[FrontPoint], outlying: NDArray[np.bool_]) -> str:
    """Return a caption: the meaning of markers and error bars, the number of seeds, and the range of the outliers."""
    fewest, most = min(point.n for point in points), max(point.n for point in points)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    spread = f"mean \N{PLUS-MINUS SIGN} 1 standard error of {seeds} seeds" if most > 1 else "one seed each"
    caption = f"{spread}; filled: on the front"
    if outlying.any():
        ys = [point.mean[1] for point, outside in zip(points, outlying, strict=True) if outside]
        y_range = f"{min(ys):.4g} to {max(ys):.4g}" if len(ys) > 1 else f"{ys[0]:.4g}"
        caption += f"\ntriangles at the edge: {len(ys)} beyond the axis, {y_range}"
    return caption
