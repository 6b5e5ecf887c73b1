"""Output of `lagvae results rank`: arms by hypervolume, and the front with probabilities, as tables or JSON."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.analysis.front import DIGITS
from sweeps.analysis.pareto import Direction
from sweeps.analysis.ranking import DRAWS, RankedConfiguration, Ranking, rank_arms
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.statistics import CONFIDENCE, Interval
from sweeps.analysis.stored import stored_plan, stored_spec
from sweeps.cli.front import unfinished_seeds
from sweeps.cli.plan import print_earlier_rows
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_count, format_parameters
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import with_evaluations

__all__ = ["print_ranking"]

LEFT = ("arm", "front", "parameters")
"""Headings of left-aligned columns."""


def print_ranking(folder: ResultsFolder, objectives: Mapping[str, Direction] | None, *, as_json: bool) -> None:
    """Print the arms, ranked by the hypervolume of their fronts, and the common front.

    Args:
        folder: The results of the sweep.
        objectives: Directions by column; None for the objectives of the sweep.
        as_json: Print one JSON object instead of tables.

    Raises:
        ConfigError: Fewer than two arms have finished runs with a value for every objective.
    """
    spec = stored_spec(folder)
    axes = objectives or spec.objectives
    plan = stored_plan(folder, spec, list(axes))
    rows = with_evaluations(folder, plan.current, axes)
    ranking = rank_arms(folder.sweep, rows, axes)
    if as_json:
        print_json(ranking.to_json())
        return
    console = console_of_stdout()
    console.print(
        f"Arms of {folder.sweep} by the hypervolume of their fronts, with {CONFIDENCE:.0%} intervals over seeds"
    )
    print_whole(console, _arms_table(ranking))
    reference = ", ".join(f"{name} ({axes[name]}) {value:.{DIGITS}f}" for name, value in ranking.reference.items())
    console.print(f"reference point: {reference}", soft_wrap=True)
    console.print()
    console.print(f"Front of all arms, with the probability to be on it in {DRAWS:,} draws of the seeds")
    print_whole(console, _front_table(ranking, axes))
    single = sum(arm.single for arm in ranking.arms)
    if single:
        singles = format_count(single, "configuration")
        text = "with one seed: the spread is unknown, so there is no interval and no probability"
        console.print(f"{singles} {text}", soft_wrap=True)
    shown = [configuration.row.config_id for configuration in ranking.front]
    of_shown = rows.filter(rows.is_in("config_id", shown))
    for warning in (*unfinished_seeds(rows, shown), *result_warnings_of(of_shown)):
        console.print(f"warning, {warning}", soft_wrap=True)
    if ranking.unranked:
        console.print(f"arms without a value for every objective are not ranked: {', '.join(ranking.unranked)}")
    print_earlier_rows(console, folder.sweep, plan.earlier_runs)


def _arms_table(ranking: Ranking) -> TextTable:
    headings = ["rank", "arm", "hypervolume", "interval", "configurations", "one seed", "runs", "on front"]
    rows = [
        [
            str(arm.rank),
            arm.arm,
            f"{arm.hypervolume:.{DIGITS}f}",
            _interval(arm.interval),
            str(arm.configurations),
            str(arm.single),
            str(arm.runs),
            str(arm.members),
        ]
        for arm in ranking.arms
    ]
    return TextTable(headings, rows, LEFT)


def _front_table(ranking: Ranking, axes: Mapping[str, Direction]) -> TextTable:
    headings = ["arm", "front", "probability"]
    for name, direction in axes.items():
        headings += [f"{name} ({direction})", "interval"]
    rows = [_front_cells(configuration) for configuration in ranking.front]
    return TextTable([*headings, "n", "config_id", "parameters"], rows, LEFT)


def _front_cells(configuration: RankedConfiguration) -> list[str]:
    row, probability = configuration.row, configuration.probability
    cells = [row.arm, row.standing_text, f"{probability:.2f}" if probability is not None else "one seed"]
    for name, interval in configuration.intervals.items():
        cells += [f"{round(row.mean[name], DIGITS) + 0.0:.{DIGITS}f}", _interval(interval)]
    return [*cells, str(row.n), row.config_id, format_parameters(row.parameters)]


def _interval(interval: Interval | None) -> str:
    return interval.text(DIGITS) if interval is not None else ""
