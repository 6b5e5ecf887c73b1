"""The Pareto front of a sweep as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.front import ERRORS, FrontRow, Standing
from sweeps.analysis.pareto import Direction, front
from sweeps.plots.style import (
    COLOURS,
    MARKERS,
    MIN_SPAN,
    NOISE,
    WIDTH,
    axis_label,
    is_count,
    save_figure,
    styled,
    widened,
)

__all__ = ["FrontPoint", "front_figure", "front_plot", "front_points", "outliers", "staircase"]

Directions = tuple[Direction, Direction]
"""Directions of improvement of the x axis and of the y axis."""

PLOT_HEIGHT = 2.55
LEGEND_ROW_HEIGHT = 0.15
LEGEND_CHARACTERS = 62
"""Number of characters of legend text, including handles, that fit into a figure of the default width."""
HIDDEN = (0.014, 0.02)
"""Distance below which a point hides another, as a fraction of the width and of the height of the axes."""
OFFSET = 0.024
"""Horizontal offset between points that would hide each other, as a fraction of the width of the axes."""
MAX_OFFSETS = 12
"""Largest number of offsets of a point. Further points hide each other."""
MARGINS = (0.07, 0.1)
"""Margins of the x axis and of the y axis, as a fraction of the range of the values."""

EDGE_COLOUR = "0.3"
DASHES = ((0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Dashes of the lines of references."""
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
    standing: Standing
    """Whether the configuration is on the front, and whether that exceeds the error."""
    label: str = ""
    """Text next to the point. Keep it short, because labels of close points overlap."""

    @classmethod
    def of(cls, row: FrontRow, x: str, y: str) -> FrontPoint:
        """Return the configuration in the plane of the columns `x` and `y`."""
        return cls(row.arm, row.config_id, (row.mean[x], row.mean[y]), (row.se[x], row.se[y]), row.n, row.standing)

    @property
    def member(self) -> bool:
        """Whether the configuration is on the front."""
        return self.standing in ("on", "in doubt")

    @property
    def fill(self) -> Literal["full", "left", "none"]:
        """How the marker is filled: half if the standing is not decided by the error."""
        return "full" if self.standing == "on" else "none" if self.standing == "off" else "left"


def front_points(rows: Sequence[FrontRow], x: str, y: str, arms: Sequence[str]) -> list[FrontPoint]:
    """Return configurations in the plane of the columns `x` and `y`, in the order of `arms`."""
    return [FrontPoint.of(row, x, y) for row in sorted(rows, key=lambda row: arms.index(row.arm))]


def front_figure(
    points: Sequence[FrontPoint],
    path: Path | str,
    *,
    x: str = "au",
    y: str = "nll_iw",
    directions: Directions = ("max", "min"),
    title: str = "",
    references: Mapping[str, float] | None = None,
    width: float | None = None,
) -> list[Path]:
    """Draw the Pareto front of column `y` against column `x`.

    The staircase joins the members of the front and bounds the dominated region. Markers are filled on the front, half
    filled where the error does not decide (on the front but in doubt, or tied with it), and hollow elsewhere. Error
    bars extend one standard error to each side. Arms get colours and markers in the order in which they first appear in
    `points`.

    Points that would hide each other are drawn side by side. The shift is always to the worse side, so that no point
    appears to lie beyond the front. Dominated configurations far worse in y than the rest (see `outliers`) are drawn as
    triangles at the edge, and the caption gives the range of their values. No axis shows less than `MIN_SPAN`, and
    the axis of a count has ticks only at integers. See `save_figure` for the files that are written.

    Args:
        points: At least one configuration.
        path: File to write.
        x: Column on the x axis.
        y: Column on the y axis.
        directions: Direction of improvement of x and of y.
        title: Title of the figure; "" for none.
        references: Values on the y axis at which a dashed line is drawn, by the name in the legend; None for none.
        width: Width of the figure [inches]; None for one column of a paper.

    Returns:
        The written files.

    Raises:
        ValueError: There is no point, a mean is not finite, or matplotlib cannot write files with the extension of
            `path`.
        OSError: A file cannot be written.
    """
    _check(points)
    return save_figure(lambda: _draw(points, (x, y), directions, title, references, width), path)


def front_plot(
    points: Sequence[FrontPoint], *, x: str, y: str, directions: Directions = ("max", "min"), title: str = ""
) -> Figure:
    """Return the figure that `front_figure` writes, for example for a notebook.

    Raises:
        ValueError: There is no point, or a mean is not finite.
    """
    _check(points)
    return styled(lambda: _draw(points, (x, y), directions, title))


def _check(points: Sequence[FrontPoint]) -> None:
    if not points:
        raise ValueError("a figure of the front needs at least one configuration")
    for point in points:
        if not np.isfinite(point.mean).all():
            raise ValueError(f"the mean of {point.config_id} must be finite, got {point.mean}")


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


def outliers(ys: Sequence[float], direction: Direction, spread: float = MIN_SPAN) -> NDArray[np.bool_]:
    """Return a mask [M] of the values that would compress the y axis because they are far worse than the rest.

    An outlier lies beyond the worse quartile by more than three times the interquartile range, or three times `spread`
    if that is larger. A value on the better side is never an outlier.
    """
    badness = np.asarray(ys, dtype=np.float64) * (1.0 if direction == "min" else -1.0)
    lower, upper = np.quantile(badness, (0.25, 0.75))
    return np.asarray(badness > upper + 3.0 * max(upper - lower, spread))


@dataclass(frozen=True)
class _ArmStyle:
    """Colour and marker of an arm."""

    colour: str
    marker: str

    def of(self, fill: str) -> dict[str, Any]:
        """Return the properties of a marker that is filled in this way, in the plot as in the legend."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "fillstyle": fill,
            "markersize": 4.2 if fill != "none" else 3.6,
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.7,
            "markerfacecoloralt": "white",
            "alpha": 0.65 if fill == "none" else None,
        }


def _arm_styles(points: Sequence[FrontPoint]) -> dict[str, _ArmStyle]:
    arms = dict.fromkeys(point.arm for point in points)
    pairs = zip(arms, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {arm: _ArmStyle(colour, marker) for arm, colour, marker in pairs}


def _outlying(points: Sequence[FrontPoint], direction: Direction) -> NDArray[np.bool_]:
    """Return which points are drawn at the edge. No point that is on the front or tied with it is."""
    ys_of_front = [point.mean[1] for point in points if point.standing != "off"] or [0.0]
    spread = max(MIN_SPAN, max(ys_of_front) - min(ys_of_front))
    far = outliers([point.mean[1] for point in points], direction, spread)
    return np.asarray(far & np.array([point.standing == "off" for point in points]))


def _limits(points: Sequence[FrontPoint], axis: int, count: bool) -> tuple[float, float]:
    """Return the limits of the x axis (0) or the y axis (1)."""
    means = np.array([point.mean[axis] for point in points])
    errors = np.nan_to_num(np.array([point.se[axis] for point in points], dtype=np.float64))
    low, high = float((means - errors).min()), float((means + errors).max())
    low, high = widened(low, high, 1.0 if count else MIN_SPAN, count=count)
    margin = MARGINS[axis] * (high - low)
    return low - margin, high + margin


def _side_by_side(
    points: Sequence[FrontPoint], limits: Sequence[tuple[float, float]], direction: Direction
) -> NDArray[np.float64]:
    """Return the x coordinate of each point, shifted to the worse side as long as the point would hide another one."""
    (left, right), (bottom, top) = limits
    step = (right - left) * (-OFFSET if direction == "max" else OFFSET)
    reach = np.array([(right - left) * HIDDEN[0], (top - bottom) * HIDDEN[1]])
    drawn = np.full((len(points), 2), np.inf)
    for index in sorted(range(len(points)), key=lambda index: not points[index].member):
        x, y = points[index].mean
        for offset in range(MAX_OFFSETS + 1):
            drawn[index] = np.inf
            hides = (np.abs(drawn - (x + offset * step, y)) < reach).all(axis=1).any()
            drawn[index] = (x + offset * step, y)
            if not hides:
                break
    return drawn[:, 0]


def _draw(
    points: Sequence[FrontPoint],
    columns: tuple[str, str],
    directions: Directions,
    title: str,
    references: Mapping[str, float] | None = None,
    width: float | None = None,
) -> Figure:
    references, width = references or {}, width or WIDTH
    styles = _arm_styles(points)
    legend_columns = max(1, int(LEGEND_CHARACTERS * width / WIDTH) // (max(map(len, (*styles, *references))) + 6))
    legend_rows = -(-(len(styles) + 1 + len(references)) // legend_columns)
    figure = Figure((width, PLOT_HEIGHT + LEGEND_ROW_HEIGHT * legend_rows), layout="constrained")
    axes = figure.add_subplot()
    outlying = _outlying(points, directions[1])
    inside = [point for point, outside in zip(points, outlying, strict=True) if not outside]
    x_limits, y_limits = (_limits(inside, axis, is_count(column)) for axis, column in enumerate(columns))
    x_limits = _limits(points, 0, is_count(columns[0]))
    margin = MARGINS[1] * (y_limits[1] - y_limits[0])
    low = min([y_limits[0], *(value - margin for value in references.values())])
    high = max([y_limits[1], *(value + margin for value in references.values())])
    y_limits = low, high
    xs = _side_by_side(points, (x_limits, y_limits), directions[0])
    beyond = OFFSET * (x_limits[1] - x_limits[0])
    axes.set(xlim=(min(x_limits[0], xs.min() - beyond), max(x_limits[1], xs.max() + beyond)), ylim=y_limits)
    for point, x, outside in zip(points, xs, outlying, strict=True):
        if outside:
            _draw_outlier(axes, x, styles[point.arm], directions[1])
        else:
            _draw_point(axes, point, x, styles[point.arm])
            _draw_label(axes, point, directions)
    _draw_edge(axes, points, directions)
    for dash, value in zip(cycle(DASHES), references.values(), strict=False):
        axes.axhline(value, color=EDGE_COLOUR, linewidth=0.8, linestyle=dash, zorder=1)
    _set_ticks(axes, columns, [min(point.mean[axis] for point in points) for axis in (0, 1)])
    _annotate(axes, directions, title)
    shifted = bool((xs != np.array([point.mean[0] for point in points])).any())
    _draw_legend(figure, _caption(points, outlying, shifted), points, styles, legend_columns, list(references))
    return figure


def _draw_point(axes: Axes, point: FrontPoint, x: float, style: _ArmStyle) -> None:
    x_se, y_se = (np.nan if se is None else se for se in point.se)
    zorder = {"full": 4, "left": 3, "none": 2}[point.fill]
    axes.errorbar(x, point.mean[1], xerr=x_se, yerr=y_se, elinewidth=0.6, zorder=zorder, **style.of(point.fill))


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
    """Draw the staircase of the members up to the worse limit of each axis."""
    limits = axes.get_xlim(), axes.get_ylim()
    worst_x, worst_y = (
        min(limit) if direction == "max" else max(limit) for limit, direction in zip(limits, directions, strict=True)
    )
    means = np.array([point.mean for point in points if point.member]).reshape(-1, 2)
    edge = staircase(means[:, 0], means[:, 1], directions, worst=(worst_x, worst_y))
    axes.plot(edge[:, 0], edge[:, 1], color=EDGE_COLOUR, linewidth=0.8, zorder=1)


def _draw_outlier(axes: Axes, x: float, style: _ArmStyle, direction: Direction) -> None:
    """Draw a triangle at the worse limit of the y axis, pointing towards a configuration beyond that limit."""
    low, high = axes.get_ylim()
    y, marker = (high, "^") if direction == "min" else (low, "v")
    axes.plot(x, y, color=style.colour, marker=marker, markersize=3.4, clip_on=False, zorder=5, linestyle="")


def _set_ticks(axes: Axes, columns: tuple[str, str], least: Sequence[float]) -> None:
    """Set the labels and ticks of both axes. An axis has no tick below 0 if its least value has not."""
    for axis, column, least_value in zip((axes.xaxis, axes.yaxis), columns, least, strict=True):
        axis.set_label_text(axis_label(column))
        count = is_count(column)
        steps = [1, 2, 4, 8, 10] if count else [1, 2, 5, 10]
        locator = MaxNLocator(6, integer=count, min_n_ticks=1 if count else 2, steps=steps)
        ticks = np.asarray(locator.tick_values(*axis.get_view_interval()))
        axis.set_major_locator(locator if least_value < -NOISE else FixedLocator(ticks[ticks > -NOISE].tolist()))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter(useOffset=False))


def _annotate(axes: Axes, directions: Directions, title: str) -> None:
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


def _draw_legend(
    figure: Figure,
    caption: str,
    points: Sequence[FrontPoint],
    styles: dict[str, _ArmStyle],
    legend_columns: int,
    references: Sequence[str],
) -> None:
    """Draw the legend. The marker of an arm is filled as that of its best configuration in the plot."""
    handles = []
    for arm, style in styles.items():
        fills = {point.fill for point in points if point.arm == arm}
        best = next(fill for fill in ("full", "left", "none") if fill in fills)
        handles.append(Line2D([], [], linestyle="", label=arm, **style.of(best)))
    handles.append(Line2D([], [], color=EDGE_COLOUR, linewidth=0.8, label="front"))
    for dash, name in zip(cycle(DASHES), references, strict=False):
        handles.append(Line2D([], [], color=EDGE_COLOUR, linewidth=0.8, linestyle=dash, label=name))
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


def _caption(points: Sequence[FrontPoint], outlying: NDArray[np.bool_], shifted: bool) -> str:
    """Return a caption: the meaning of markers and error bars, the number of seeds, shifts, and range of outliers."""
    fewest, most = min(point.n for point in points), max(point.n for point in points)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    spread = f"mean \N{PLUS-MINUS SIGN} 1 standard error of {seeds} seeds" if most > 1 else "one seed each"
    caption = f"{spread}; filled: on the front"
    if any(point.fill == "left" for point in points):
        caption += f"\nhalf filled: on or off the front by less than {ERRORS:g} standard errors"
    if shifted:
        caption += "\npoints that coincide are drawn side by side"
    if outlying.any():
        ys = [point.mean[1] for point, outside in zip(points, outlying, strict=True) if outside]
        y_range = f"{min(ys):.4g} to {max(ys):.4g}" if len(ys) > 1 else f"{ys[0]:.4g}"
        caption += f"\ntriangles at the edge: {len(ys)} beyond the axis, {y_range}"
    return caption
