"""The interactive figures of the report, as Plotly figures.

Every trace of an arm has the name of the arm as its `meta`, by which the legend of the page shows and hides it.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sweeps.analysis.front import FrontRow
from sweeps.analysis.pareto import Direction
from sweeps.analysis.rate_distortion import DISTORTIONS
from sweeps.analysis.statistics import Statistic
from sweeps.formatting import format_count, format_value
from sweeps.plots.front import outliers, staircase
from sweeps.plots.style import axis_label, is_count, least_span, widened
from sweeps.report.arm_styles import DASHES, ArmStyle
from sweeps.report.content import DISTORTION, RATE, SweepContent
from sweeps.spec.space import Arm

__all__ = ["curve_figure", "front_figure", "parallel_figure", "rate_figure"]

MANY_POINTS = 2000
"""Number of configurations from which points are drawn with WebGL, because SVG becomes slow."""
MOST_SEEDS = 10
"""Largest number of seeds whose values the description of a point lists."""
LEAST_LINES = 3
"""Least number of configurations of an arm for which parallel coordinates are drawn."""
MARGIN = 0.05
"""Margin of an axis, as a fraction of its range."""
GREY = "#555555"
MOST_TICKS = 10
"""Largest range of a count with a tick at each integer."""


def front_figure(content: SweepContent, styles: Mapping[str, ArmStyle], x: str, y: str) -> go.Figure:
    """Return all configurations in the plane of two objectives, with the front and the single seeds.

    Markers are filled on the front, pale where the error does not decide, and hollow elsewhere. Arms without a value of
    `x`, such as language models, are lines. The view leaves out configurations far worse in `y` than the others;
    zooming out shows them. The line of the front is drawn if there are only two objectives.

    Args:
        content: The sweep.
        styles: Styles by arm.
        x: Objective on the x axis.
        y: Objective on the y axis.
    """
    rows = content.configurations
    xs, ys = [row.mean[x] for row in rows], np.array([row.mean[y] for row in rows])
    near = ys[~outliers(ys.tolist(), content.axes[y])].tolist()
    figure = go.Figure()
    if len(content.axes) == 2:
        members = np.array([[row.mean[x], row.mean[y]] for row in rows if row.member]).reshape(-1, 2)
        edge = staircase(members[:, 0], members[:, 1], (content.axes[x], content.axes[y]))
        line = {"color": GREY, "width": 1}
        figure.add_scatter(x=edge[:, 0].tolist(), y=edge[:, 1].tolist(), mode="lines", line=line, hoverinfo="skip")
    for arm, style in styles.items():
        of_arm = [row for row in rows if row.arm == arm]
        if of_arm:
            figure.add_traces(_points(content, of_arm, style, x, y))
    near += _add_references(figure, content, styles, y, content.axes[y], (min(xs), max(xs)))
    figure.update_xaxes(title=_axis_title(x, content.axes[x]), **_range_of(x, xs))
    figure.update_yaxes(title=_axis_title(y, content.axes[y]), **_range_of(y, near))
    return _styled(figure)


def _points(
    content: SweepContent, rows: Sequence[FrontRow], style: ArmStyle, x: str, y: str
) -> tuple[go.Scatter | go.Scattergl, go.Scatter | go.Scattergl]:
    """Return the configurations of one arm, and their seeds, which are hidden at first."""
    trace = go.Scattergl if len(content.configurations) > MANY_POINTS else go.Scatter
    fills = {"on": style.colour, "in doubt": style.pale(0.5), "tied": style.pale(0.5), "off": "white"}
    means = trace(
        x=[row.mean[x] for row in rows],
        y=[row.mean[y] for row in rows],
        error_x=_error_bars([row.se[x] for row in rows], style),
        error_y=_error_bars([row.se[y] for row in rows], style),
        mode="markers",
        marker={
            "symbol": style.symbol,
            "size": [11 if row.member else 8 for row in rows],
            "color": [fills[row.standing] for row in rows],
            "line": {"color": style.colour, "width": 1.5},
        },
        text=[_description(content, row) for row in rows],
        hovertemplate="%{text}<extra></extra>",
        meta=rows[0].arm,
    )
    runs = [run for row in rows for run in content.measured[row.config_id]]
    seeds = trace(
        x=[float(run[x]) for run in runs],
        y=[float(run[y]) for run in runs],
        mode="markers",
        marker={"symbol": style.symbol, "size": 4, "color": style.pale(0.4)},
        hoverinfo="skip",
        visible=False,
        meta=f"{rows[0].arm} seeds",
    )
    return means, seeds


def _add_references(
    figure: go.Figure,
    content: SweepContent,
    styles: Mapping[str, ArmStyle],
    column: str,
    direction: Direction,
    reach: tuple[float, float],
) -> list[float]:
    """Draw a dashed line for each arm that has no configuration in the figure, and return the values.

    Args:
        figure: The figure.
        content: The sweep.
        styles: Styles by arm.
        column: Column on the y axis. The line is at its best mean.
        direction: Direction of improvement of the column.
        reach: Start and end of the line on the x axis.
    """
    drawn = {trace.meta for trace in figure.data}
    values = []
    for arm, style in styles.items():
        statistic = None if arm in drawn else content.best_mean(arm, column, direction)
        if statistic is not None:
            values.append(statistic.mean)
            figure.add_scatter(
                x=list(reach),
                y=[statistic.mean] * 2,
                mode="lines+text",
                line={"color": style.colour, "width": 1.5, "dash": "dash"},
                text=["", html.escape(arm)],
                textposition="top left",
                hovertemplate=f"<b>{html.escape(arm)}</b><br>{column} {statistic.text()}<extra></extra>",
                meta=arm,
            )
    return values


def rate_figure(content: SweepContent, styles: Mapping[str, ArmStyle]) -> go.Figure:
    """Return what each arm reaches at equal information, as a line with a band, and all its configurations."""
    figure = go.Figure()
    for curve in content.rate_curves:
        style = styles[curve.arm]
        rates = [level.rate for level in curve.levels]
        known = [level for level in curve.levels if level.distortion.low is not None]
        bounds = [(level.distortion.low, level.distortion.high) for level in known]
        _add_band(figure, curve.arm, style, [level.rate for level in known], bounds, shape="vh")
        figure.add_trace(
            go.Scatter(
                x=curve.rate_C.tolist(),
                y=curve.distortion_C.tolist(),
                mode="markers",
                marker={"symbol": style.symbol, "size": 5, "color": style.pale(0.35)},
                hoverinfo="skip",
                meta=curve.arm,
            )
        )
        texts = []
        for level in curve.levels:
            where = f"{DISTORTION} {level.distortion.text()}<br>at {RATE} {DISTORTIONS[DISTORTION]}"
            texts.append(f"<b>{html.escape(curve.arm)}</b><br>{where} {level.rate:g}")
        figure.add_trace(
            go.Scatter(
                x=rates,
                y=[level.distortion.value for level in curve.levels],
                mode="lines+markers",
                line={"color": style.colour, "width": 2, "shape": "vh", "dash": style.dash},
                marker={"symbol": style.symbol, "size": 7},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
                meta=curve.arm,
            )
        )
    values = [level.distortion.value for curve in content.rate_curves for level in curve.levels]
    reach = 0.0, max(float(curve.rate_C.max()) for curve in content.rate_curves)
    values += _add_references(figure, content, styles, DISTORTION, "min", reach)
    figure.update_xaxes(title=f"{DISTORTIONS[DISTORTION]} this {axis_label(RATE)}")
    low, high = min(values), max(values)
    span = max(high - low, 1.0)
    figure.update_yaxes(title=axis_label(DISTORTION), range=[low - MARGIN * span, high + 0.3 * span])
    return _styled(figure)


def _add_band(
    figure: go.Figure,
    arm: str,
    style: ArmStyle,
    xs: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
    shape: str = "linear",
) -> None:
    """Draw a pale band between the bounds at each x."""
    for side, fill in ((0, None), (1, "tonexty")):
        figure.add_scatter(
            x=xs,
            y=[bound[side] for bound in bounds],
            mode="lines",
            line={"width": 0, "shape": shape},
            fill=fill,
            fillcolor=style.pale(0.15),
            hoverinfo="skip",
            meta=arm,
        )


def curve_figure(content: SweepContent, styles: Mapping[str, ArmStyle], column: str) -> go.Figure:
    """Return the mean of a column of the curves over the seeds at each epoch, with a band of one standard error."""
    figure = go.Figure()
    drawn: Counter[str] = Counter()
    for curve in content.curves:
        style = styles[curve.arm]
        dash = DASHES[drawn[curve.arm] % len(DASHES)]
        drawn[curve.arm] += 1
        points = [(point.epoch, statistic) for point in curve.points if (statistic := point.columns[column])]
        epochs = [epoch for epoch, _ in points]
        errors = [(statistic.mean, statistic.se or 0.0) for _, statistic in points]
        _add_band(figure, curve.arm, style, epochs, [(mean - error, mean + error) for mean, error in errors])
        figure.add_trace(
            go.Scatter(
                x=epochs,
                y=[statistic.mean for _, statistic in points],
                mode="lines",
                line={"color": style.colour, "width": 1.6, "dash": dash},
                text=[_of_curve(curve.label, epoch, statistic) for epoch, statistic in points],
                hovertemplate="%{text}<extra></extra>",
                meta=curve.arm,
            )
        )
    figure.update_xaxes(title="epoch")
    statistics = [point.columns[column] for curve in content.curves for point in curve.points]
    means = [statistic.mean for statistic in statistics if statistic is not None]
    figure.update_yaxes(**_range_of(column, _without_start(means)))
    return _styled(figure)


def parallel_figure(content: SweepContent, arm: Arm, colour: str) -> go.Figure | None:
    """Return the configurations of an arm in parallel coordinates: the searched fields, then the objectives.

    Args:
        content: The sweep.
        arm: The arm.
        colour: Objective that colours the lines; dark is better.

    Returns:
        The figure; None if fewer than `LEAST_LINES` configurations have values for all searched fields.
    """
    names = [dimension.name for dimension in arm.dimensions]
    rows = [row for row in content.configurations if row.arm == arm.name and all(n in row.parameters for n in names)]
    if not names or len(rows) < LEAST_LINES:
        return None
    axes = [_parallel_axis(dimension.name, dimension.tunable.log, rows) for dimension in arm.dimensions]
    axes += [{"label": name, "values": [row.mean[name] for row in rows]} for name in content.axes]
    values = [row.mean[colour] for row in rows]
    low, high = np.quantile(values, [0.0, 0.9] if content.axes[colour] == "min" else [0.1, 1.0]).tolist()
    line = {
        "color": values,
        "colorscale": "Viridis",
        "reversescale": content.axes[colour] == "max",
        "cmin": low,
        "cmax": high if high > low else low + 1.0,
        "showscale": True,
        "colorbar": {"title": {"text": colour, "side": "right"}, "thickness": 10},
    }
    figure = _styled(go.Figure(go.Parcoords(line=line, dimensions=axes, labelside="bottom")))
    return figure.update_layout(margin={"l": 80, "r": 60, "t": 30, "b": 40})


def _parallel_axis(name: str, log: bool, rows: Sequence[FrontRow]) -> dict[str, Any]:
    label, values = name.partition(".")[2], [row.parameters[name] for row in rows]
    if any(isinstance(value, str | bool) for value in values):
        choices = sorted(set(map(str, values)))
        positions = [choices.index(str(value)) for value in values]
        return {"label": label, "values": positions, "tickvals": list(range(len(choices))), "ticktext": choices}
    if not log:
        return {"label": label, "values": values}
    logs = np.log10(np.array(values, dtype=np.float64))
    ticks = np.linspace(logs.min(), logs.max(), 5)
    texts = [f"{10**tick:.2g}" for tick in ticks]
    return {"label": f"{label} (log)", "values": logs.tolist(), "tickvals": ticks.tolist(), "ticktext": texts}


def _error_bars(errors: Sequence[float | None], style: ArmStyle) -> dict[str, Any]:
    shown = [0.0 if error is None else error for error in errors]
    return {"type": "data", "array": shown, "color": style.pale(0.5), "thickness": 1, "width": 2}


def _description(content: SweepContent, row: FrontRow) -> str:
    """Return what is shown about a configuration when the pointer is above it."""
    lines = [f"<b>{html.escape(row.arm)}</b>  {row.config_id.rpartition(' ')[2]}"]
    lines += [f"{html.escape(name)} = {html.escape(format_value(value))}" for name, value in row.parameters.items()]
    runs = content.measured[row.config_id]
    for name in content.axes:
        lines.append(f"{name}: {row.statistic(name).text(3)}")
        if len(runs) > 1:
            seeds = ", ".join(f"{run[name]:.4g}" for run in runs[:MOST_SEEDS])
            lines.append(f"  seeds: {seeds}{', ...' if len(runs) > MOST_SEEDS else ''}")
    probability = content.probabilities.get(row.config_id)
    chance = "" if probability is None else f", probability {probability:.2f}"
    lines.append(f"{format_count(row.n, 'seed')}; front: {row.standing_text}{chance}")
    return "<br>".join(lines)


def _of_curve(label: str, epoch: int, statistic: Statistic) -> str:
    return f"<b>{html.escape(label)}</b><br>epoch {epoch}: {statistic.text(3)} ({statistic.n} runs)"


def _axis_title(column: str, direction: str) -> str:
    return f"{axis_label(column)} ({'lower' if direction == 'min' else 'higher'} is better)"


def _range_of(column: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the range of an axis, which does not magnify noise, and integer ticks for a count."""
    if not values:
        return {}
    low, high = widened(min(values), max(values), least_span(column), count=is_count(column))
    margin = MARGIN * (high - low) or 0.5
    is_narrow = is_count(column) and high - low <= MOST_TICKS
    ticks = {"tick0": 0, "dtick": 1} if is_narrow else {"tickformat": "d"} if is_count(column) else {}
    return {"range": [low - margin, high + margin]} | ticks


def _without_start(means: Sequence[float]) -> list[float]:
    """Return the values without the far larger ones at the start of training, which would flatten the rest."""
    if not means:
        return []
    lower, upper = np.quantile(means, [0.25, 0.75]).tolist()
    return [mean for mean in means if mean <= upper + 3.0 * max(upper - lower, 0.1)]


def _styled(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template="none",
        showlegend=False,
        margin={"l": 60, "r": 12, "t": 12, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 12},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "#111111"}},
        hovermode="closest",
        autosize=True,
    )
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(gridcolor="#e8e8e8", zeroline=False, linecolor="#999999", showline=True, ticks="outside", automargin=True)
    return figure
