"""Comparison of arms in one column, matched by configuration or by seed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from sweeps.analysis.front import measured
from sweeps.analysis.pareto import Direction
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.significance import ALPHA, Difference, holm, independent_difference, paired_difference
from sweeps.analysis.statistics import ConfigurationIdentity, Statistic, identity_of
from sweeps.analysis.stored import stored_plan, stored_spec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import COST_COLUMNS, metric_columns
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import non_numeric_columns, study_of, with_evaluations

__all__ = [
    "SELECT",
    "ArmComparison",
    "ArmDifference",
    "Matching",
    "Representative",
    "Verdict",
    "compare_arms",
    "compare_stored_arms",
]

SELECT: Mapping[str, Direction] = {"valid_nll_elbo": "min"}
"""Default column and direction by which the configuration that represents an arm is chosen."""

MIN_CONFIGURATIONS = 2
"""Smallest number of matched configurations that are compared as pairs."""

NEEDED = ("arm", "config_id", "configuration", "parameters", "seed", "status")
"""Columns of a row that a comparison needs besides the compared ones."""

Row = Mapping[str, Any]

Matching = Literal["configuration", "seed", "none"]
"""What the values of two arms are matched by."""

Verdict = Literal["better", "worse", "lower", "higher", "undecided", "too few"]
"""What the corrected test says; see `ArmDifference.verdict`."""


@dataclass(frozen=True)
class Representative(ConfigurationIdentity):
    """The configuration by which an arm is compared.

    Args:
        n: Number of its measured seeds.
        candidates: Number of configurations it was chosen from: those of the arm with the most measured seeds.
        configurations: Number of configurations of the arm with at least one measured seed.
        better: Number of those with fewer seeds whose mean in the validation column is better.
    """

    n: int
    candidates: int
    configurations: int
    better: int


@dataclass(frozen=True)
class ArmDifference:
    """One arm compared with the baseline.

    Args:
        arm: Name of the arm.
        matched: What the values are matched by: "configuration" (each pair has the same shared values), "seed" (each
            pair has the same seed) or "none".
        value: Statistic of the compared values of the arm: means of configurations, or runs of its representative.
        baseline_value: The same of the baseline.
        difference: Difference of the means, arm minus baseline.
        p_holm: p-value corrected for the number of compared arms by Holm's method; None without a p-value.
        representative: Configuration of the arm; None if configurations are matched.
        baseline_representative: Configuration of the baseline; None if configurations are matched.
        unmatched: Number of measured configurations, or of runs of the representatives, without a partner.
        direction: Direction of improvement of the column; "" if neither.
    """

    arm: str
    matched: Matching
    value: Statistic
    baseline_value: Statistic
    difference: Difference
    representative: Representative | None
    baseline_representative: Representative | None
    unmatched: int
    direction: Direction | Literal[""]
    p_holm: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the arm is better or worse than the baseline by the corrected test.

        "lower" or "higher" for a column without a direction, "undecided" if the difference is not significant, "too
        few" if no outcome with this many values could be significant.
        """
        if self.p_holm is None:
            return "too few"
        if self.p_holm > ALPHA:
            return "undecided"
        is_lower = self.difference.mean < 0
        if not self.direction:
            return "lower" if is_lower else "higher"
        return "better" if is_lower == (self.direction == "min") else "worse"

    def to_json(self) -> dict[str, Any]:
        low, high = self.difference.interval or (None, None)
        own, other = self.representative, self.baseline_representative
        return {
            "arm": self.arm,
            "difference": self.difference.mean,
            "difference_low": low,
            "difference_high": high,
            "p": self.difference.p,
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "matched": self.matched,
            "n": self.difference.n,
            "baseline_n": self.difference.baseline_n,
            "n_required": self.difference.required,
            "unmatched": self.unmatched,
            "mean": self.value.mean,
            "baseline_mean": self.baseline_value.mean,
            "config_id": own.config_id if own is not None else None,
            "baseline_config_id": other.config_id if other is not None else None,
        }


@dataclass(frozen=True)
class ArmComparison:
    """Arms compared with a baseline.

    Args:
        baseline: Name of the arm with which the others are compared.
        column: The compared column.
        select: Column and direction by which representatives are chosen.
        split: Split on which the column is measured; "" if it is no measurement of a model.
        differences: One comparison per arm, in the given order.
        warnings: Stored warnings about the results of the representatives.
    """

    baseline: str
    column: str
    select: tuple[str, Direction]
    split: str
    differences: Sequence[ArmDifference]
    warnings: Sequence[str] = ()

    @property
    def is_selected_on_its_split(self) -> bool:
        """Whether a representative was chosen among several by values of the split on which the column is measured."""
        return self.split == "valid" and any(chosen.candidates > 1 for chosen in self.representatives)

    @property
    def representatives(self) -> list[Representative]:
        """The configurations by which arms are compared, each once, the baseline's first."""
        both = (chosen for d in self.differences for chosen in (d.baseline_representative, d.representative))
        return list({chosen.arm: chosen for chosen in both if chosen is not None}.values())

    def to_json(self) -> dict[str, Any]:
        column, direction = self.select
        return {
            "baseline": self.baseline,
            "column": self.column,
            "select": {column: direction},
            "split": self.split or None,
            "selected_on_split": self.is_selected_on_its_split,
            "arms": [difference.to_json() for difference in self.differences],
        }


def compare_stored_arms(
    folder: ResultsFolder,
    arms: Sequence[str],
    column: str | None = None,
    select: Mapping[str, Direction] | None = None,
) -> ArmComparison:
    """Compare arms of a stored sweep by the runs of its current sweep file (see `compare_arms`).

    Args:
        folder: The folder of the sweep.
        arms: Names of at least two arms; the first is the baseline.
        column: The compared column; None for the first objective that is not of the validation split, or nll_iw.
        select: Column of the validation split and its direction; see `compare_arms`.

    Raises:
        ConfigError: An arm, the column or `select` is unknown, or an arm has no measured run; lists every issue.
    """
    spec = stored_spec(folder)
    if column is None:
        column = next((name for name in spec.objectives if not name.startswith("valid_")), "nll_iw")
    plan = stored_plan(folder, spec, [column, *(SELECT if select is None else select)])
    comparison = compare_arms(spec, with_evaluations(folder, plan.current, [column]), arms, column, select)
    stored = plan.stored
    compared = stored.filter(stored.is_in("config_id", [chosen.config_id for chosen in comparison.representatives]))
    return replace(comparison, warnings=result_warnings_of(compared))


def compare_arms(
    spec: SweepSpec,
    rows: Sequence[Row],
    arms: Sequence[str],
    column: str,
    select: Mapping[str, Direction] | None = None,
) -> ArmComparison:
    """Compare arms with the first of them in one column.

    In a sweep with `search.paired`, configurations of two arms with the same shared values are compared pair by pair,
    each by its mean over the seeds that both have. Otherwise, or if `select` is given, each arm is represented by one
    configuration: of those with the most measured seeds, the one with the best mean in a column of the validation
    split. Its runs are paired with those of the same seed, or compared as independent samples if hardly any seeds are
    common: none, or one although both have more.

    Args:
        spec: The sweep.
        rows: Rows of its runs; only finished ones with a value in `column` count.
        arms: Names of at least two arms; the first is the baseline.
        column: The compared column.
        select: Column of the validation split by which representatives are chosen, and its direction; None for
            `SELECT` where representatives are needed.

    Raises:
        ConfigError: An arm, the column or `select` is unknown, or an arm has no measured run; lists every issue.
    """
    choice = SELECT if select is None else select
    issues = [*_arm_issues(spec, arms), *non_numeric_columns("--column", [column]), *_select_issues(choice)]
    if issues:
        raise ConfigError(issues)
    ((select_column, select_direction),) = choice.items()
    table = RowTable.of(rows).select([*NEEDED, column, select_column])
    of_arms = {arm: list(measured(table.filter(table.equals("arm", arm)), [column])[0]) for arm in arms}
    if issues := [_unmeasured(arm, column, table) for arm in arms if not of_arms[arm]]:
        raise ConfigError(issues)
    by = select_column, select_direction
    is_matched = spec.search.paired and select is None
    comparison = _Comparison(spec, column, by, len(arms) - 1, _direction(spec, column), is_matched)
    differences = [comparison.of(of_arms[arm], of_arms[arms[0]]) for arm in arms[1:]]
    corrected = holm([difference.difference.p for difference in differences])
    with_p = [replace(d, p_holm=p) for d, p in zip(differences, corrected, strict=True)]
    return ArmComparison(arms[0], column, by, _split(spec, column), with_p)


@dataclass(frozen=True)
class _Comparison:
    """What all comparisons with the baseline have in common.

    Args:
        spec: The sweep.
        column: The compared column.
        select: Column and direction by which representatives are chosen.
        comparisons: Number of arms that are compared with the baseline.
        direction: Direction of improvement of the column.
        is_matched: Whether configurations with the same shared values are compared.
    """

    spec: SweepSpec
    column: str
    select: tuple[str, Direction]
    comparisons: int
    direction: Direction | Literal[""]
    is_matched: bool

    def of(self, own: Sequence[Row], baseline: Sequence[Row]) -> ArmDifference:
        """Compare the measured rows of an arm with those of the baseline."""
        own_configs, baseline_configs = _by_configuration(own), _by_configuration(baseline)
        pairs = list(self._matched(own_configs, baseline_configs)) if self.is_matched else []
        if len(pairs) >= MIN_CONFIGURATIONS:
            values = [self._means(a, b) for a, b in pairs]
            unmatched = len(own_configs) + len(baseline_configs) - 2 * len(pairs)
            return self._paired("configuration", own[0]["arm"], values, unmatched, None, None)
        chosen, other = self._representative(own_configs), self._representative(baseline_configs)
        own_values, baseline_values = self._by_seed(own, chosen), self._by_seed(baseline, other)
        common = sorted(own_values.keys() & baseline_values.keys())
        if common and len(common) >= min(2, len(own_values), len(baseline_values)):
            values = [(own_values[seed], baseline_values[seed]) for seed in common]
            unmatched = len(own_values) + len(baseline_values) - 2 * len(common)
            return self._paired("seed", chosen.arm, values, unmatched, chosen, other)
        samples = list(own_values.values()), list(baseline_values.values())
        difference = independent_difference(*samples, self.comparisons)
        return ArmDifference(
            chosen.arm,
            "none",
            _statistic(samples[0]),
            _statistic(samples[1]),
            difference,
            chosen,
            other,
            0,
            self.direction,
        )

    def _paired(
        self,
        matched: Matching,
        arm: str,
        values: Sequence[tuple[float, float]],
        unmatched: int,
        chosen: Representative | None,
        other: Representative | None,
    ) -> ArmDifference:
        own, baseline = ([pair[side] for pair in values] for side in (0, 1))
        difference = paired_difference(own, baseline, self.comparisons)
        statistics = _statistic(own), _statistic(baseline)
        return ArmDifference(arm, matched, *statistics, difference, chosen, other, unmatched, self.direction)

    def _matched(
        self, own: Mapping[str, Sequence[Row]], baseline: Mapping[str, Sequence[Row]]
    ) -> Iterator[tuple[Sequence[Row], Sequence[Row]]]:
        """Yield the rows of each two configurations that have the same number and the same shared values."""
        others = {rows[0]["configuration"]: rows for rows in baseline.values()}
        for rows in own.values():
            partner = others.get(rows[0]["configuration"])
            if partner is not None:
                shared, other = self._shared(rows[0]), self._shared(partner[0])
                common = shared.keys() & other.keys()
                if common and all(shared[name] == other[name] for name in common):
                    yield rows, partner

    def _shared(self, row: Row) -> dict[str, Any]:
        (arm,) = (arm for arm in self.spec.arms if arm.name == row["arm"])
        return arm.shared_values(json.loads(row["parameters"] or "{}"))

    def _means(self, own: Sequence[Row], baseline: Sequence[Row]) -> tuple[float, float]:
        """Return the means of two configurations over the seeds that both have, or else over their own seeds."""
        common = {row["seed"] for row in own} & {row["seed"] for row in baseline}
        chosen = ([row for row in rows if not common or row["seed"] in common] for rows in (own, baseline))
        first, second = (_statistic([float(row[self.column]) for row in rows]).mean for rows in chosen)
        return first, second

    def _representative(self, configs: Mapping[str, Sequence[Row]]) -> Representative:
        """Return the configuration with the most seeds, and among these the best mean in the validation column."""
        most = max(len(rows) for rows in configs.values())
        candidates = [rows for rows in configs.values() if len(rows) == most]
        costs = [self._cost(rows) for rows in candidates]
        if len(candidates) > 1 and min(costs) == math.inf:
            message = f"must be a column that runs of {candidates[0][0]['arm']} have a value for"
            raise ConfigError(
                [ValidationIssue("--select", message, "Choose another validation column.", self.select[0])]
            )
        best = costs.index(min(costs))
        return Representative(
            **identity_of(candidates[best][0]),
            n=most,
            candidates=len(candidates),
            configurations=len(configs),
            better=sum(self._cost(rows) < costs[best] for rows in configs.values() if len(rows) < most),
        )

    def _cost(self, rows: Sequence[Row]) -> float:
        """Return the mean of the validation column, negative if larger is better; infinity without a value."""
        column, direction = self.select
        statistic = Statistic.of([row[column] for row in rows])
        return math.inf if statistic is None else statistic.mean if direction == "min" else -statistic.mean

    def _by_seed(self, rows: Sequence[Row], chosen: Representative) -> dict[int, float]:
        return {row["seed"]: float(row[self.column]) for row in rows if row["config_id"] == chosen.config_id}


def _by_configuration(rows: Sequence[Row]) -> dict[str, list[Row]]:
    configs: dict[str, list[Row]] = {}
    for row in rows:
        configs.setdefault(row["config_id"], []).append(row)
    return configs


def _statistic(values: Sequence[float]) -> Statistic:
    statistic = Statistic.of(values)
    assert statistic is not None
    return statistic


def _direction(spec: SweepSpec, column: str) -> Direction | Literal[""]:
    """Return the direction of improvement of a column: that of the sweep's objectives, or else its own."""
    if column in spec.objectives:
        return spec.objectives[column]
    study = study_of(column)
    columns = [*metric_columns(), *COST_COLUMNS, *(study.columns if study is not None else ())]
    return next((known.direction for known in columns if known.name == column), "")


def _split(spec: SweepSpec, column: str) -> str:
    """Return the split on which a column is measured; "" for a cost."""
    if any(column == cost.name for cost in COST_COLUMNS):
        return ""
    return "valid" if column.startswith("valid_") else spec.defaults.evaluation.split


def _arm_issues(spec: SweepSpec, arms: Sequence[str]) -> Iterator[ValidationIssue]:
    known = [arm.name for arm in spec.arms]
    for arm in dict.fromkeys(arms):
        if arm not in known:
            hint = f"{did_you_mean(arm, known)} The arms are {', '.join(known)}.".strip()
            yield ValidationIssue("ARMS", f"must name arms of {spec.name}", hint, arm)
    if len(set(arms)) < len(arms) or len(arms) < 2:
        hint = f"The first is the baseline. The arms are {', '.join(known)}."
        yield ValidationIssue("ARMS", "must be at least two different arms", hint, " ".join(arms))


def _select_issues(select: Mapping[str, Direction]) -> list[ValidationIssue]:
    hint = "For example: valid_nll_elbo:min. The compared values must not choose what is compared."
    if len(select) != 1 or not all(name.startswith("valid_") for name in select):
        message = "must be one column of the validation split (valid_...)"
        return [ValidationIssue("--select", message, hint, ", ".join(select))]
    return non_numeric_columns("--select", select)


def _unmeasured(arm: str, column: str, rows: RowTable) -> ValidationIssue:
    counts = Counter(rows.filter(rows.equals("arm", arm)).values("status"))
    runs = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    message = f"must name arms with finished runs that have a value of {column}"
    return ValidationIssue("ARMS", message, f"The runs of {arm}: {runs}.", arm)
