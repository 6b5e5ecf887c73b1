"""Figures for papers and the web page, drawn without a display; matplotlib's global state stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.pareto import Direction, front
from sweeps.plots.style import AXIS_LABELS, COLOURS, COUNTS, DPI, MARKERS, STYLE, UNDATED, WIDTH, figure_files

__all__ = ["FrontPoint", "beyond", "front_figure", "staircase"]


PLOT_HEIGHT = 2.55
LEGEND_ROW_HEIGHT = 0.15
LEGEND_CHARACTERS = 62
"""Characters of legend text, handles included, that fit side by side into the width."""
DODGE = 0.05
"""Of a unit of a count."""
DODGES = 6
"""Places side by side, after which the first is used again: never half-way to the next integer."""

EDGE_COLOUR = "0.3"
ARROWS: dict[tuple[Direction, Direction], str] = {
    ("max", "min"): "\N{SOUTH EAST ARROW}",
    ("max", "max"): "\N{NORTH EAST ARROW}",
    ("min", "min"): "\N{SOUTH WEST ARROW}",
    ("min", "max"): "\N{NORTH WEST ARROW}",
}


@dataclass(frozen=True)
class FrontPoint:
    """One configuration in the plane of two objectives, x before y in every pair."""

    arm: str
    config_id: str
    mean: tuple[float, float]
    """Over the seeds; finite."""
    se: tuple[float | None, float | None]
    """Standard errors of the mean; None or NaN, as for a single seed, draws no bar."""
    n: int
    """Seeds behind the mean."""
    member: bool
    """Is it on the front?"""
    label: str = ""
    """Written beside the point; a word, for close points write over each other."""


def front_figure(
    points: Sequence[FrontPoint],
    path: Path | str,
    *,
    x: str = "au",
    y: str = "nll_iw",
    directions: tuple[Direction, Direction] = ("max", "min"),
    title: str = "",
) -> None:
    """Draw the Pareto front of column `y` against column `x`; `senses` says what is better, x first.

    Arms take colours and markers in the order in which they first appear in `points`. Members of the front
    are filled and joined by the edge of what they attain; other configurations are drawn lighter. Bars reach
    one standard error to each side. Where x is a count and several arms share an integer, points that are no
    members step aside, each arm by a `DODGE` more, so as not to hide each other; to the worse side, so as not
    to seem beyond the front. Configurations far worse in y than the rest (see `beyond`) are shown as triangles at the
    edge, and the caption says where they are.

    A PNG of 200 dpi is always written, beside it the format of the path's extension where that is another one
    (`front.pdf` gives `front.pdf` and `front.png`). The folder must exist.

    Raises:
        ValueError: there is no point, a mean is not finite, or matplotlib does not write the extension.
    """
    if not points:
        raise ValueError("A front needs at least one configuration to draw, but the list of points is empty.")
    for point in points:
        if not np.isfinite(point.mean).all():
            raise ValueError(f"{point.config_id} must have a finite mean to be drawn, but has {point.mean}.")
    files = figure_files(Path(path))
    with matplotlib.rc_context(STYLE):
        figure = _draw(points, (x, y), directions, title)
        for file in files:
            figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix.lower()))


def staircase(
    xs: ArrayLike, ys: ArrayLike, directions: tuple[Direction, Direction], worst: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Vertices [K, 2], from the worst x to the best, of the edge of what the points (`xs`, `ys`) [M] attain.

    A point attains all that is no better than itself in either coordinate, so between two neighbours on the
    front the edge turns at the worse x and the worse y of the two. Dominated, equal and non-finite points add
    no vertex. Given the corner `worst`, the edge goes on from the outermost points to the two axis-parallel
    lines through it.

    Raises:
        ValueError: `xs` and `ys` differ in length, or `senses` is not two of "min" and "max".
    """
    points = np.column_stack([np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)])
    members = np.unique(points[front(points, directions)], axis=0)
    if directions[0] == "min":
        members = members[::-1]
    end_x, end_y = worst or (np.nan, np.nan)
    edge = np.column_stack([[end_x, *np.repeat(members[:, 0], 2)], [*np.repeat(members[:, 1], 2), end_y]])
    return edge if worst and len(members) else edge[1:-1]


@dataclass(frozen=True)
class _Look:
    """How an arm is told from the others."""

    colour: str
    marker: str


def _looks(points: Sequence[FrontPoint]) -> dict[str, _Look]:
    arms = dict.fromkeys(point.arm for point in points)
    return {
        arm: _Look(colour, marker) for arm, colour, marker in zip(arms, cycle(COLOURS), cycle(MARKERS), strict=False)
    }


def _dodged(points: Sequence[FrontPoint], direction: Direction) -> list[float]:
    """The x at which each point is drawn on the axis of a count."""
    step = -DODGE if direction == "max" else DODGE
    places: dict[float, dict[str, int]] = {}
    xs = []
    for point in points:
        x = float(point.mean[0])
        if x.is_integer() and not point.member:
            arms = places.setdefault(x, {})
            x += step * (arms.setdefault(point.arm, len(arms)) % DODGES)
        xs.append(x)
    return xs


def _draw(
    points: Sequence[FrontPoint], columns: tuple[str, str], directions: tuple[Direction, Direction], title: str
) -> Figure:
    looks = _looks(points)
    legend_columns = max(1, LEGEND_CHARACTERS // (max(map(len, looks)) + 6))
    legend_rows = -(-(len(looks) + 1) // legend_columns)
    figure = Figure((WIDTH, PLOT_HEIGHT + LEGEND_ROW_HEIGHT * legend_rows), layout="constrained")
    axes = figure.add_subplot()
    xs = _dodged(points, directions[0]) if columns[0] in COUNTS else [point.mean[0] for point in points]
    outside = beyond([point.mean[1] for point in points], directions[1])
    for point, x, out in zip(points, xs, outside, strict=True):
        if not out:
            _draw_point(axes, point, x, looks[point.arm])
            _draw_label(axes, point, directions)
    _draw_edge(axes, points, directions)
    for point, x, out in zip(points, xs, outside, strict=True):
        if out:
            _draw_outside(axes, x, looks[point.arm], directions[1])
    _annotate(axes, columns, directions, title)
    _draw_legend(figure, _caption(points, outside), looks, legend_columns)
    return figure


def beyond(ys: Sequence[float], direction: Direction) -> NDArray[np.bool_]:
    """Which values [M] are so much worse than the rest that to show them would flatten all the others.

    Those beyond the worse quartile by more than three times the distance of the quartiles; never a better one.
    """
    badness = np.asarray(ys, dtype=np.float64) * (1.0 if direction == "min" else -1.0)
    lower, upper = np.quantile(badness, (0.25, 0.75))
    return np.asarray(badness > upper + 3.0 * max(upper - lower, 1e-9 * abs(upper)))


def _draw_outside(axes: Axes, x: float, look: _Look, direction: Direction) -> None:
    """A pointer at the worse end of the y axis, towards a configuration beyond it."""
    low, high = axes.get_ylim()
    y, marker = (high, "^") if direction == "min" else (low, "v")
    axes.plot(x, y, color=look.colour, marker=marker, markersize=3.4, clip_on=False, zorder=5, linestyle="")


def _draw_legend(figure: Figure, caption: str, looks: dict[str, _Look], legend_columns: int) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=4, label=arm)
        for arm, look in looks.items()
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


def _draw_point(axes: Axes, point: FrontPoint, x: float, look: _Look) -> None:
    x_se, y_se = (np.nan if se is None else se for se in point.se)
    axes.errorbar(
        x,
        point.mean[1],
        xerr=x_se,
        yerr=y_se,
        color=look.colour,
        marker=look.marker,
        markersize=4.2 if point.member else 3.4,
        markerfacecolor=look.colour if point.member else "white",
        markeredgecolor="white" if point.member else look.colour,
        markeredgewidth=0.4 if point.member else 0.7,
        elinewidth=0.7 if point.member else 0.5,
        alpha=None if point.member else 0.5,
        zorder=4 if point.member else 2,
    )


def _draw_label(axes: Axes, point: FrontPoint, directions: tuple[Direction, Direction]) -> None:
    """On the better side of the point, where the front leaves room."""
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


def _draw_edge(axes: Axes, points: Sequence[FrontPoint], directions: tuple[Direction, Direction]) -> None:
    """The edge of what the members attain, out to the worse ends of both axes, whose limits it fixes."""
    axes.margins(0.07, 0.1)
    limits = axes.get_xlim(), axes.get_ylim()
    worst_x, worst_y = (
        min(limit) if direction == "max" else max(limit) for limit, direction in zip(limits, directions, strict=True)
    )
    means = np.array([point.mean for point in points if point.member]).reshape(-1, 2)
    edge = staircase(means[:, 0], means[:, 1], directions, worst=(worst_x, worst_y))
    axes.plot(edge[:, 0], edge[:, 1], color=EDGE_COLOUR, linewidth=0.8, zorder=1)
    axes.set(xlim=limits[0], ylim=limits[1])


def _annotate(axes: Axes, columns: tuple[str, str], directions: tuple[Direction, Direction], title: str) -> None:
    for axis, column in zip((axes.xaxis, axes.yaxis), columns, strict=True):
        axis.set_label_text(AXIS_LABELS.get(column, column))
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


def _caption(points: Sequence[FrontPoint], outside: NDArray[np.bool_]) -> str:
    """What a marker and a bar stand for, with the number of seeds, and what is beyond the axis."""
    fewest, most = min(point.n for point in points), max(point.n for point in points)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    spread = f"mean \N{PLUS-MINUS SIGN} 1 standard error of {seeds} seeds" if most > 1 else "one seed each"
    caption = f"{spread}; filled: on the front"
    if outside.any():
        far = [point.mean[1] for point, out in zip(points, outside, strict=True) if out]
        reach = f"{min(far):.4g} to {max(far):.4g}" if len(far) > 1 else f"{far[0]:.4g}"
        caption += f"\ntriangles at the edge: {len(far)} beyond the axis, {reach}"
    return caption
