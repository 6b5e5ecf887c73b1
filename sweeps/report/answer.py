"""The answer of a sweep in a few sentences, each with its uncertainty."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from sweeps.analysis.arm_comparison import ArmDifference
from sweeps.analysis.costs import WITHOUT_RESULT
from sweeps.analysis.front import ERRORS, FrontRow, clear_best
from sweeps.analysis.rate_distortion import Level
from sweeps.analysis.statistics import CONFIDENCE, Statistic
from sweeps.formatting import format_count, format_parameters
from sweeps.report.content import DISTORTION, RATE, SweepContent

__all__ = ["UNUSED", "answer"]

UNUSED = 0.1
"""Mutual information below which a latent variable counts as unused [nats], as in `lagvae diagnose`."""

MOST_ARMS = 6
"""Largest number of arms that a sentence names."""


def answer(content: SweepContent) -> list[str]:
    """Return what the sweep shows: the best arm, the differences from the baseline, the use of z, and reservations."""
    if not content.configurations:
        return ["No finished run has a value for every objective, so there is nothing to compare yet."]
    return [*_best(content), *_differences(content), *_collapsed(content), *_information(content), *_caveats(content)]


def _best(content: SweepContent) -> Iterator[str]:
    """Say which arm is best in the compared objective, and whether that is clear."""
    (first, *others) = content.best
    ((column, _),) = first.mean.items()
    direction = content.axes[column]
    word = "lowest" if direction == "min" else "highest"
    without_z = "" if content.best_mean(first.arm, RATE, "max") is not None else ", which has no latent variable"
    text = f"The {word} mean {column} is {first.statistic(column).text()} by {_named(first)}{without_z}"
    text += f" ({format_count(first.n, 'seed')})"
    statistics = [row.statistic(column) for row in content.best]
    if not others:
        yield f"{text}."
    elif clear_best(statistics, direction) == 0:
        yield f"{text}. The best configuration of every other arm is worse by more than {ERRORS:g} standard errors."
    else:
        pairs = zip(others, statistics[1:], strict=True)
        close = [row.arm for row, other in pairs if not _is_clear(statistics[0], other)]
        yield f"{text}, but not clearly better than the best of {_listed(close or [others[0].arm])}."


def _is_clear(best: Statistic, other: Statistic) -> bool:
    """Return whether two means differ by more than `ERRORS` standard errors; not if an error is unknown."""
    if best.se is None or other.se is None:
        return False
    return abs(best.mean - other.mean) > ERRORS * math.hypot(best.se, other.se)


def _differences(content: SweepContent) -> Iterator[str]:
    """Say which arms differ from the baseline."""
    comparison = content.comparison
    if comparison is None:
        return
    by_verdict: dict[str, list[ArmDifference]] = {}
    for difference in comparison.differences:
        by_verdict.setdefault(difference.verdict, []).append(difference)
    column, baseline = comparison.column, comparison.baseline
    for verdict in ("better", "worse", "lower", "higher"):
        if verdict in by_verdict:
            shown = sorted(by_verdict[verdict], key=lambda compared: compared.difference.mean)
            listed = _listed([_difference(compared) for compared in shown])
            yield f"Significantly {verdict} {column} than {baseline}, with {CONFIDENCE:.0%} intervals: {listed}."
    if "undecided" in by_verdict:
        arms = _listed([compared.arm for compared in by_verdict["undecided"]])
        yield f"No significant difference from {baseline} in {column}: {arms}; this does not show that they are equal."
    if "too few" in by_verdict:
        few = by_verdict["too few"]
        required = max(compared.difference.required for compared in few)
        is_matched = few[0].matched == "configuration"
        unit, key = ("configurations", "search.configurations") if is_matched else ("seeds", "search.seeds")
        means = "means over all common configurations" if is_matched else "best configurations on the validation set"
        listed = _listed([_difference(compared) for compared in few])
        yield (
            f"Differences from {baseline} in {column} ({means}), not tested, because a test needs {required} {unit} "
            f"({key}): {listed}."
        )


def _difference(compared: ArmDifference) -> str:
    interval = compared.difference.interval
    bounds = f" {interval.text()}" if interval is not None else ""
    return f"{compared.arm} {compared.difference.mean:+z.2f}{bounds}"


def _collapsed(content: SweepContent) -> Iterator[str]:
    """Say which arms do not use z in any configuration."""
    best = {arm: content.best_mean(arm, RATE, "max") for arm in content.arms}
    unused = [arm for arm, statistic in best.items() if statistic is not None and statistic.mean < UNUSED]
    if unused:
        where = "in all of its configurations" if len(unused) == 1 else "in all of their configurations"
        yield (
            f"Collapsed {where}: {_listed(unused)}. The mean mutual information of x and z stays below {UNUSED:g} nats."
        )


def _information(content: SweepContent) -> Iterator[str]:
    """Say which arm has the best likelihood at each rate."""
    found: dict[float, list[tuple[str, Level]]] = {}
    for curve in content.rate_curves:
        for level in curve.levels:
            found.setdefault(level.rate, []).append((curve.arm, level))
    if max(found, default=0.0) <= 0:
        return
    best: dict[str, tuple[str, Level]] = {}  # the highest rate at which each configuration is the best one
    for rate in sorted(found):
        arm, level = min(found[rate], key=lambda of_arm: of_arm[1].distortion.value)
        best[level.config_id] = arm, level
    listed = "; ".join(f"≥ {level.rate:g}: {level.distortion.text()} by {arm}" for arm, level in best.values())
    yield f"Lowest mean {DISTORTION} for a required mutual information [nats]: {listed}."


def _caveats(content: SweepContent) -> Iterator[str]:
    single, count = sum(row.n == 1 for row in content.configurations), len(content.configurations)
    if single:
        yield (
            f"Of {format_count(count, 'configuration')} with a value of every objective, {single} "
            f"{'has' if single == 1 else 'have'} one finished seed, so the error is unknown."
        )
    statuses = Counter(status for status in content.rows.values("status") if status in WITHOUT_RESULT)
    if statuses:
        listed = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        yield f"Of {format_count(len(content.rows), 'run')}, {listed}: the means are those of the others."
    if content.missing:
        bound = "at most " if content.is_race else ""
        yield f"The sweep is not complete: {bound}{format_count(content.missing, 'run')} left."


def _named(row: FrontRow) -> str:
    parameters = format_parameters(row.parameters)
    return f"{row.arm} with {parameters}" if parameters else row.arm


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, shortened after `MOST_ARMS`."""
    shown = list(names[:MOST_ARMS])
    if len(names) > MOST_ARMS:
        shown.append(f"{len(names) - MOST_ARMS} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
