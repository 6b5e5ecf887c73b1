"""`lagvae results rate`: remedies at equal information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.front import best_of_arms
from sweeps.analysis.rate_distortion import DISTORTIONS, RATES, ArmCurve, rate_distortion
from sweeps.analysis.stored import arm_order, stored_plan, stored_spec
from sweeps.cli.terminal import (
    TextTable,
    console_of_stdout,
    figure_errors,
    print_figures,
    print_json,
    print_whole,
    rich_table,
)
from sweeps.formatting import format_count
from sweeps.papers.points import CONFIGURATION_COLUMNS, PublishedPoints, may_be_published, published_points
from sweeps.storage.row_table import RowTable
from sweeps.storage.table import ResultsFolder

__all__ = ["print_rate"]


def print_rate(
    folder: ResultsFolder,
    *,
    rate: str,
    distortion: str,
    levels: Sequence[str] | None,
    as_json: bool,
    png: Path | None,
    width: float | None = None,
) -> None:
    """Print the best distortion of each arm at each rate, and what a nat costs; optionally draw the figure.

    Results of papers on the same data set are added. In JSON, each is an object without an arm.

    Raises:
        ConfigError: A column or a level is invalid, no finished run has both values, or the figure cannot be written.
    """
    numbers = _check(rate, distortion, levels)
    spec = stored_spec(folder)
    data = [spec.trial_config(arm, arm.probe(), seed=0).data.model_dump() for arm in spec.arms]
    needed = CONFIGURATION_COLUMNS if may_be_published(data) else ()
    rows = stored_plan(folder, spec, [rate, distortion, *needed]).current
    curves = rate_distortion(rows, rate=rate, distortion=distortion, levels=numbers)
    if not curves:
        message = f"must have finished runs with a value of {rate} and of {distortion}"
        raise ConfigError([ValidationIssue("SWEEP", message, "Run the sweep first.", folder.sweep)])
    curves.sort(key=arm_order(spec))  # the colours are those of the front
    published = published_points(rows, rate, distortion) if needed else []
    if png is not None:
        from sweeps.plots.rate_distortion import rate_distortion_figure

        with figure_errors(png):
            files = rate_distortion_figure(
                curves,
                png,
                rate=rate,
                distortion=distortion,
                published=published,
                title=folder.sweep,
                width=width,
            )
        print_figures(files)
    if as_json:
        points = [{"arm": None, "published": point} for of_paper in published for point in of_paper.to_json()]
        print_json([*map(_json, curves), *points])
        return
    _print(curves, rate, distortion, _without_rate(rows, rate, distortion))
    _print_published(folder.sweep, published, rate, distortion)
    if needed and rate == "mi":
        text = "published MI, which is estimated within batches, is not compared with mi: see --rate kl"
        console_of_stdout().print(text, soft_wrap=True)


def _without_rate(rows: RowTable, rate: str, distortion: str) -> dict[str, float]:
    """Return the least mean distortion of each arm that has no rate, such as a language model."""
    without = rows.filter(np.isnan(rows.floats(rate)))
    best = {row.arm: row.mean[distortion] for row in best_of_arms(without, distortion, "min")}
    return {arm: best[arm] for arm in rows.codes("arm")[1] if arm in best}


def _check(rate: str, distortion: str, levels: Sequence[str] | None) -> list[float] | None:
    issues = []
    for option, value, known in (("--rate", rate, RATES), ("--distortion", distortion, tuple(DISTORTIONS))):
        if value not in known:
            issues.append(ValidationIssue(option, f"must be {' or '.join(known)}", value=value))
    numbers = []
    for level in levels or ():
        try:
            numbers.append(float(level))
        except ValueError:
            issues.append(ValidationIssue("--at", "must be numbers separated by commas", "For example: 0,1,2.", level))
    if issues:
        raise ConfigError(issues)
    return sorted(numbers) if levels is not None else None


def _json(curve: ArmCurve) -> dict[str, Any]:
    return {
        "arm": curve.arm,
        "configurations": len(curve.rate_C),
        "levels": [asdict(level) for level in curve.levels],
        "price": curve.price and asdict(curve.price),
    }


def _print(curves: Sequence[ArmCurve], rate: str, distortion: str, without_rate: Mapping[str, float]) -> None:
    console = console_of_stdout()
    levels = sorted({level.rate for curve in curves for level in curve.levels})
    console.print(
        f"best mean {distortion} where {rate} is {DISTORTIONS[distortion]} ... nats, with 95 % intervals over seeds"
    )
    table = rich_table("arm", "configurations", *(f"{level:g}" for level in levels), "price of a nat")
    for curve in curves:
        at = {level.rate: level.distortion for level in curve.levels}
        cells = (at[level].text() if level in at else "" for level in levels)
        price = "" if curve.price is None else f"{curve.price.distortion.text()} up to {curve.price.rate:g}"
        table.add_row(curve.arm, str(len(curve.rate_C)), *cells, price)
    print_whole(console, table)
    if any(curve.price is not None for curve in curves):
        console.print(
            f"price of a nat: ({distortion} at the last rate of the arm - least {distortion} of any arm) / that rate",
            highlight=False,
        )
    for arm, value in without_rate.items():
        console.print(f"{arm}, without {rate}: {distortion} {value:z.2f} at best", highlight=False)


def _print_published(sweep: str, published: Sequence[PublishedPoints], rate: str, distortion: str) -> None:
    """Print the results of papers on the same data, and how their set-up differs."""
    console = console_of_stdout()
    cells = [
        [of_paper.paper.name, point.model, point.table, f"{point.rate:g}", f"{point.distortion:g}"]
        for of_paper in published
        for point in of_paper.points
    ]
    if cells:
        console.print()
        headings = ["paper", "published model", "table", rate, distortion]
        print_whole(console, TextTable(headings, cells, ("paper", "published model", "table")))
    for of_paper in published:
        name, listed = of_paper.paper.name, f"`lagvae results compare {sweep} --paper {of_paper.paper.name}`"
        others = "; ".join(difference.text() for difference in of_paper.other_examples)
        if others:
            text = f"{name} has results on {of_paper.dataset}, but of other examples, so they are not shown: {others}"
        elif of_paper.differences:
            count = format_count(len(of_paper.differences), "difference")
            text = f"{name}: {count} in data, model and protocol, which {listed} lists"
        else:
            text = f"{name}: the stored rows show no difference in data, model and protocol"
        console.print(text, soft_wrap=True)
