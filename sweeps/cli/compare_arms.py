"""Output of `lagvae results compare SWEEP BASELINE ARM ...`: arms compared with each other, as a table or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeps.analysis.arm_comparison import (
    ArmComparison,
    ArmDifference,
    Matching,
    Representative,
    Verdict,
    compare_stored_arms,
)
from sweeps.analysis.front import DIGITS
from sweeps.analysis.pareto import Direction
from sweeps.analysis.significance import ALPHA
from sweeps.analysis.statistics import CONFIDENCE
from sweeps.cli.terminal import TextTable, console_of_stdout, print_json, print_whole
from sweeps.formatting import format_count, format_parameters
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import several_settings

__all__ = ["print_arm_comparison"]

LEFT = ("arm", "verdict", "parameters")
"""Headings of left-aligned columns."""

VERDICTS: Mapping[Verdict, str] = {
    "undecided": f"the difference is not significant at {ALPHA:g}; this does not show that the arms are equal",
    "too few": f"with so few values the exact test cannot reach {ALPHA:g}; the interval assumes normal differences",
}
"""Explanation of each verdict that needs one."""

MEANINGS: Mapping[Matching, str] = {
    "configuration": "paired: configurations with the same shared values, each by its mean over common seeds",
    "seed": "paired: runs with the same seed",
    "none": "not paired, because hardly any seeds are common",
}
"""How values are compared, by what they are matched by."""

UNITS: Mapping[Matching, tuple[str, str]] = {
    "configuration": ("common configurations", "search.configurations"),
    "seed": ("common seeds", "search.seeds"),
    "none": ("seeds of each arm", "search.seeds"),
}
"""Names of the compared values, and the key that gives more of them, by what they are matched by."""


def print_arm_comparison(
    folder: ResultsFolder,
    arms: Sequence[str],
    column: str | None,
    select: Mapping[str, Direction] | None,
    *,
    as_json: bool,
) -> None:
    """Print the differences of arms from the first of them.

    Args:
        folder: The results of the sweep.
        arms: Names of at least two arms; the first is the baseline.
        column: The compared column; None for the first objective that is not of the validation split.
        select: Column of the validation split and its direction, by which representatives are chosen; None for the
            default, and for no representatives in a paired sweep.
        as_json: Print one JSON object instead of a table.

    Raises:
        ConfigError: An arm or a column is unknown, or an arm has no finished run with a value.
    """
    comparison = compare_stored_arms(folder, arms, column, select)
    if as_json:
        print_json(comparison.to_json())
        return
    console = console_of_stdout()
    direction = comparison.differences[0].direction
    name = f"{comparison.column} ({direction})" if direction else comparison.column
    console.print(f"{name} of arms of {folder.sweep} minus {comparison.baseline}, with {CONFIDENCE:.0%} intervals")
    print_whole(console, _table(comparison))
    for line in _notes(comparison):
        console.print(line, soft_wrap=True)
    for warning in (*comparison.warnings, *several_settings(folder, [comparison.column])):
        console.print(f"warning, {warning}", soft_wrap=True)


def _table(comparison: ArmComparison) -> TextTable:
    """Return the table without a column of p-values that is empty, or that repeats another one."""
    headings = ["arm", "difference", "interval", "verdict", "p", "p (Holm)", "n"]
    headings += [comparison.column, comparison.baseline]
    rows = [_cells(difference) for difference in comparison.differences]
    unneeded = {"p (Holm)"} if len(rows) == 1 else set()
    unneeded |= {"p", "p (Holm)"} if all(compared.p_holm is None for compared in comparison.differences) else set()
    needed = [i for i, heading in enumerate(headings) if heading not in unneeded]
    return TextTable([headings[i] for i in needed], [[row[i] for i in needed] for row in rows], LEFT)


def _cells(compared: ArmDifference) -> list[str]:
    difference = compared.difference
    digits = _digits(difference.mean)
    return [
        compared.arm,
        f"{difference.mean:+.{digits}f}",
        difference.interval.text(digits) if difference.interval is not None else "",
        compared.verdict,
        _p(difference.p),
        _p(compared.p_holm),
        str(difference.n) if difference.paired else f"{difference.n}, {difference.baseline_n}",
        compared.value.text(DIGITS),
        compared.baseline_value.text(DIGITS),
    ]


def _digits(value: float) -> int:
    """Return the decimals with which a difference is printed: `DIGITS`, or more for a smaller one."""
    return next((digits for digits in range(DIGITS, 9) if round(abs(value), digits) > 0), DIGITS)


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _notes(comparison: ArmComparison) -> Iterator[str]:
    """Yield what the numbers mean, and what they do not show."""
    differences = comparison.differences
    by_matching: dict[Matching, list[str]] = {}
    for compared in differences:
        by_matching.setdefault(compared.matched, []).append(compared.arm)
    several = len(by_matching) > 1
    for matching, arms in by_matching.items():
        yield MEANINGS[matching] + (f": {', '.join(arms)}" if several else "")
    yield from _representatives(comparison)
    for verdict in dict.fromkeys(compared.verdict for compared in differences if compared.verdict in VERDICTS):
        yield f"{verdict}: {VERDICTS[verdict]}"
    yield from _requirements(comparison)
    for compared in differences:
        if compared.unmatched:
            kind = "configuration" if compared.matched == "configuration" else "run"
            unmatched = format_count(compared.unmatched, kind)
            yield f"{compared.arm} and {comparison.baseline}: {unmatched} left out, because the other arm has no result"
    if comparison.is_selected_on_its_split:
        yield (
            f"warning, {comparison.column} is measured on the validation split, on which the configurations were "
            "chosen, so the differences may be too large"
        )


def _representatives(comparison: ArmComparison) -> Iterator[str]:
    """Yield how the configurations were chosen, and one line for each."""
    if not comparison.representatives:
        return
    column, direction = comparison.select
    best = "lowest" if direction == "min" else "highest"
    yield f"configuration of each arm: {best} mean {column} among those with the most finished seeds"
    width = max(len(chosen.arm) for chosen in comparison.representatives)
    for chosen in comparison.representatives:
        parameters = format_parameters(chosen.parameters)
        yield f"  {chosen.arm:{width}}  {chosen.config_id}  {_choice(chosen)}  {parameters}".rstrip()


def _choice(representative: Representative) -> str:
    """Return from how many configurations the representative was chosen."""
    seeds = format_count(representative.n, "seed")
    others = representative.configurations - representative.candidates
    choice = f"best of {representative.candidates}" if representative.candidates > 1 else "the only one"
    better = f", {representative.better} of them better" if representative.better else ""
    return f"{choice} with {seeds}" + (f" ({others} with fewer{better})" if others else "")


def _requirements(comparison: ArmComparison) -> Iterator[str]:
    """Yield how many values a p-value would require."""
    arms_of: dict[tuple[Matching, int], list[str]] = {}
    for compared in comparison.differences:
        if compared.p_holm is None:
            arms_of.setdefault((compared.matched, compared.difference.required), []).append(compared.arm)
    count = len(comparison.differences)
    correction = f" (with Holm's correction for {count} arms)" if count > 1 else ""
    for (matching, required), arms in arms_of.items():
        values, key = UNITS[matching]
        yield f"{', '.join(arms)}: a p-value needs at least {required} {values}{correction}; raise {key}"
