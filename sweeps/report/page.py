"""The report as one HTML page, which needs no network."""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lagvae_core.studies.diagnosis import CAUSES
from sweeps.analysis.front import DIGITS, STANDINGS
from sweeps.analysis.statistics import CONFIDENCE, statistic_text
from sweeps.formatting import format_amount, format_count, format_duration, format_parameters
from sweeps.plots.style import axis_label, column_of
from sweeps.report.answer import answer
from sweeps.report.arm_styles import ArmStyle, arm_styles, joint_styles
from sweeps.report.content import CURVES, DISTORTION, RATE, SweepContent
from sweeps.report.figures import curve_figure, front_figure, parallel_figure, rate_figure
from sweeps.report.joint import Joint
from sweeps.storage.provenance import now, versions

__all__ = ["render"]

MOST_ROWS = 200
"""Largest number of configurations in a table. The figure shows all of them."""


@dataclass(frozen=True)
class _Figure:
    """A figure of the page.

    Args:
        id: Id of the element.
        json: The figure for Plotly.
        title: Its title.
        wide: Whether it keeps a least width on a narrow screen, so that it is scrolled.
    """

    id: str
    json: str
    title: str
    wide: bool = False


@dataclass(frozen=True)
class _SweepView:
    """What the template shows of one sweep, besides its content."""

    id: str
    content: SweepContent
    answer: Sequence[str]
    summary: str
    styles: Mapping[str, ArmStyle]
    fronts: Sequence[_Figure]
    rate: _Figure | None
    curves: Sequence[_Figure]
    parallel: Mapping[str, _Figure]
    definitions: Mapping[str, str]


def render(contents: Sequence[SweepContent], joint: Joint | None = None) -> str:
    """Return the page of one or several sweeps.

    Args:
        contents: The sweeps, at least one.
        joint: What compares several sweeps.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "amount": format_amount,
        "count": format_count,
        "duration": format_duration,
        "parameters": format_parameters,
        "statistic": lambda statistic: statistic_text(statistic, DIGITS),
        "interval": lambda interval: interval.text(DIGITS) if interval is not None else "",
        "number": lambda value: f"{round(value, DIGITS) + 0.0:.{DIGITS}f}",
    }
    styles = arm_styles(list(dict.fromkeys(arm for content in contents for arm in content.arms)))
    template = environment.from_string((resources.files("sweeps.report") / "page.html.jinja").read_text())
    return template.render(
        title=" and ".join(content.spec.name for content in contents),
        sweeps=[_view(number, content, styles) for number, content in enumerate(contents)],
        joint=joint and _joint_view(joint, styles),
        plotly=_compressed_plotly(),
        written=now(),
        version=versions()["lagvae_version"],
        standings=STANDINGS,
        confidence=CONFIDENCE,
        most_rows=MOST_ROWS,
        rate=RATE,
        distortion=DISTORTION,
        causes=CAUSES,
    )


def _view(number: int, content: SweepContent, all_styles: Mapping[str, ArmStyle]) -> _SweepView:
    prefix = f"s{number}"
    styles = {arm: all_styles[arm] for arm in content.arms}
    fronts = list(_fronts(prefix, content, styles)) if content.configurations else []
    rate = None
    if any(curve.levels for curve in content.rate_curves):
        rate = _figure(f"{prefix}-rate", rate_figure(content, styles), "")
    curves = [
        _figure(f"{prefix}-{column}", curve_figure(content, styles, column), axis_label(column))
        for column in CURVES
        if any(point.columns[column] for curve in content.curves for point in curve.points)
    ]
    colour = next(iter(content.axes))
    parallel = {
        arm.name: _figure(f"{prefix}-parallel-{position}", figure, arm.name, wide=True)
        for position, arm in enumerate(content.spec.arms)
        if (figure := parallel_figure(content, arm, colour)) is not None
    }
    columns = {name: column_of(name) for name in dict.fromkeys([*content.axes, RATE, DISTORTION])}
    definitions = {name: column.doc for name, column in columns.items() if column is not None}
    return _SweepView(
        prefix, content, answer(content), _summary(content), styles, fronts, rate, curves, parallel, definitions
    )


def _fronts(prefix: str, content: SweepContent, styles: Mapping[str, ArmStyle]) -> Iterator[_Figure]:
    """Yield a figure of the first objective against each other one."""
    y, *others = content.axes
    for x in others:
        figure = front_figure(content, styles, x, y)
        yield _figure(f"{prefix}-front-{x}", figure, f"{axis_label(y)} against {axis_label(x)}")


def _figure(name: str, figure: go.Figure, title: str, *, wide: bool = False) -> _Figure:
    # A browser must not find the end of the script element in a name.
    return _Figure(name.replace(".", "-"), figure.to_json().replace("<", "\\u003c"), title, wide=wide)


def _joint_view(joint: Joint, all_styles: Mapping[str, ArmStyle]) -> dict[str, Any]:
    styles = joint_styles(joint.content.arms, all_styles) if joint.content is not None else {}
    fronts = list(_fronts("joint", joint.content, styles)) if joint.content is not None else []
    return {"joint": joint, "styles": styles, "fronts": fronts}


def _summary(content: SweepContent) -> str:
    """Return the size of the sweep as a sentence."""
    provenance = content.provenance
    statuses = Counter(content.rows.values("status")).most_common()
    counts = ", ".join(f"{count} {status}" for status, count in statuses)
    runs = f"{format_count(len(content.rows), 'run')} ({counts})"
    configurations = format_count(len(content.rows.codes("config_id")[1]), "configuration")
    text = f"{runs}, {configurations}, {format_count(len(content.arms), 'arm')}"
    text += f"; {format_duration(sum(cost.cost.seconds for cost in content.costs))} of training and measurement"
    if provenance.ended is not None:
        text += f"; last run {provenance.ended:%Y-%m-%d}"
    return text


@cache
def _compressed_plotly() -> str:
    """Return Plotly's script, compressed and in base64; it is a quarter of its size."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
