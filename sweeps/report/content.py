"""What the report of a sweep shows, computed from its stored rows and curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.studies.diagnosis import Diagnosis, causes_of
from sweeps.analysis import costs
from sweeps.analysis.arm_comparison import SELECT, ArmComparison, compare_arms
from sweeps.analysis.costs import ArmCost, Ending, arm_costs, endings
from sweeps.analysis.curves import Curve, curves_of
from sweeps.analysis.front import FrontRow, best_of_arms, front_of, measured
from sweeps.analysis.importance import FieldImportance, field_importances
from sweeps.analysis.pareto import Direction
from sweeps.analysis.ranking import Ranking, front_probabilities, rank_arms
from sweeps.analysis.rate_distortion import ArmCurve, rate_distortion
from sweeps.analysis.result_warnings import result_warnings_of
from sweeps.analysis.statistics import Statistic
from sweeps.analysis.stored import arm_order, stored_plan, stored_spec
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.row_table import RowTable
from sweeps.storage.table import ResultsFolder
from sweeps.studies.table import several_settings, with_evaluations

__all__ = ["CURVES", "DISTORTION", "RATE", "Provenance", "SweepContent", "read_content"]

CURVES = ("valid_nll_elbo", "valid_kl", "valid_mi")
"""Columns of the curves that are drawn."""

RATE, DISTORTION = "mi", "nll_iw"
"""Columns of the rate-distortion figure."""

MOST_CURVES = 24
"""Largest number of configurations whose curves are drawn."""

VERSIONS = ("lagvae_version", "git_commit", "git_dirty", "python_version", "torch_version", "ray_version", "device")
"""Columns of the provenance whose values are listed."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Where the rows come from.

    Args:
        started: Start of the earliest attempt; None without a run.
        ended: End of the latest one; None if none has ended.
        hosts: Number of hosts.
        fingerprint: SHA-256 of the content of the data; "" without a run.
        versions: Values of each column in `VERSIONS` that has one, the most frequent first, with the number of runs.
    """

    started: datetime | None
    ended: datetime | None
    hosts: int
    fingerprint: str
    versions: Mapping[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True)
class SweepContent:
    """What the report shows of one sweep.

    Args:
        spec: The sweep, as it was last run.
        axes: Directions of the objectives by column.
        rows: Rows of the runs that belong to the sweep file, with the columns that the report needs.
        earlier: Number of stored runs of an earlier version of the sweep, which the report leaves out.
        missing: Number of runs of the sweep file that have not ended.
        configurations: The configurations in the space of the objectives, best first in the first one.
        probabilities: Probability of each configuration to be on the front; None for one with one seed.
        best: The best configuration of each arm in the first objective, best first.
        ranking: The arms ranked by hypervolume; None if fewer than two arms have values.
        comparison: The arms compared with the baseline in the first objective of the test set; None if there are no two
            arms to compare.
        rate_curves: The arms in the plane of `RATE` and `DISTORTION`.
        curves: Training curves of the best configuration of each arm and of those on the front.
        importances: Importance of the searched fields.
        costs: Cost of each arm.
        endings: How runs ended without a result.
        diagnosis: Number of diagnosed runs of each arm by cause; empty if no run was diagnosed.
        warnings: Warnings about the results.
        provenance: Where the rows come from.
    """

    spec: SweepSpec
    axes: Mapping[str, Direction]
    rows: RowTable
    earlier: int
    missing: int
    configurations: Sequence[FrontRow]
    probabilities: Mapping[str, float | None]
    best: Sequence[FrontRow]
    ranking: Ranking | None
    comparison: ArmComparison | None
    rate_curves: Sequence[ArmCurve]
    curves: Sequence[Curve]
    importances: Sequence[FieldImportance]
    costs: Sequence[ArmCost]
    endings: Sequence[Ending]
    diagnosis: Mapping[str, Mapping[str, int]]
    warnings: Sequence[str]
    provenance: Provenance

    @property
    def arms(self) -> list[str]:
        """Names of the arms that have a run, in the order of the sweep file."""
        present = self.rows.codes("arm")[1]
        return [arm.name for arm in self.spec.arms if arm.name in present]

    @property
    def is_race(self) -> bool:
        """Whether further seeds depend on the results, so that the number of runs is only bounded."""
        return any(self.spec.start_seeds(arm) < len(self.spec.seeds(arm)) for arm in self.spec.arms)

    @property
    def unplaced(self) -> list[str]:
        """Arms with a finished run that lacks a value of an objective in all of its runs, such as language models."""
        finished = self.rows.filter(self.rows.equals("status", "finished")).codes("arm")[1]
        placed = {row.arm for row in self.configurations}
        return [arm for arm in self.arms if arm in finished and arm not in placed]

    @cached_property
    def measured(self) -> Mapping[str, Sequence[Row]]:
        """The runs with a value of every objective, by `config_id`."""
        found: dict[str, list[Row]] = {}
        for row in measured(self.rows.select(["config_id", "status", *self.axes]), list(self.axes))[0]:
            found.setdefault(row["config_id"], []).append(row)
        return found

    def best_mean(self, arm: str, column: str, direction: Direction) -> Statistic | None:
        """Return the best mean of a column over the configurations of an arm; None if no run has a value."""
        best = best_of_arms(self.rows.filter(self.rows.equals("arm", arm)), column, direction)
        return best[0].statistic(column) if best else None


def read_content(folder: ResultsFolder, objectives: Mapping[str, Direction] | None = None) -> SweepContent:
    """Read a stored sweep.

    Args:
        folder: Folder of the sweep.
        objectives: Directions by column; None for the objectives of the sweep.

    Raises:
        ConfigError: The stored sweep file is invalid, or no run has ended.
    """
    spec = stored_spec(folder)
    axes = dict(objectives or spec.objectives)
    compared = next((name for name in axes if not name.startswith("valid_")), next(iter(axes)))
    columns = [*axes, RATE, DISTORTION, *SELECT, *costs.COLUMNS, *VERSIONS, "host", "ended_at"]
    plan = stored_plan(folder, spec, list(dict.fromkeys(columns)))
    if not len(plan.current):
        message, hint = "must be a sweep with runs of its current sweep file", "Run the sweep first."
        raise ConfigError([ValidationIssue("SWEEP", message, hint, folder.sweep)])
    rows = with_evaluations(folder, plan.current, axes)
    front = front_of(rows, axes)
    found = list(front)
    best = best_of_arms(rows, compared, axes[compared])
    ranking = _ranking(folder.sweep, rows, axes)
    drawn = list(dict.fromkeys([row.config_id for row in best] + [row.config_id for row in found if row.member]))
    return SweepContent(
        spec=spec,
        axes=axes,
        rows=rows,
        earlier=plan.earlier_runs,
        missing=plan.missing,
        configurations=found,
        probabilities=front_probabilities(front, rows, axes) if ranking is None else ranking.probabilities,
        best=best,
        ranking=ranking,
        comparison=_comparison(spec, rows, compared),
        rate_curves=rate_distortion(rows, rate=RATE, distortion=DISTORTION),
        curves=_curves(folder, spec, rows, drawn[:MOST_CURVES]),
        importances=field_importances(spec.arms, found, axes),
        costs=sorted(arm_costs(rows), key=arm_order(spec)),
        endings=endings(rows),
        diagnosis=_diagnosis(folder, rows),
        warnings=[*result_warnings_of(rows), *several_settings(folder, axes)],
        provenance=_provenance(rows),
    )


def _ranking(sweep: str, rows: RowTable, axes: Mapping[str, Direction]) -> Ranking | None:
    arms = measured(rows, list(axes))[0].codes("arm")[1]
    return rank_arms(sweep, rows, axes) if len(arms) > 1 else None


def _comparison(spec: SweepSpec, rows: RowTable, column: str) -> ArmComparison | None:
    """Compare all measured arms with the plain VAE, or else with the first arm."""
    present = measured(rows, [column])[0].codes("arm")[1]
    arms = [arm for arm in spec.arms if arm.name in present]
    if len(arms) < 2:
        return None
    baseline = next((arm for arm in arms if not arm.stack), arms[0])
    names = [baseline.name, *(arm.name for arm in arms if arm is not baseline)]
    return compare_arms(spec, rows, names, column)


def _curves(folder: ResultsFolder, spec: SweepSpec, rows: RowTable, config_ids: Sequence[str]) -> list[Curve]:
    drawn = rows.filter(rows.is_in("config_id", config_ids))
    statuses = dict(zip(drawn.values("run_id"), drawn.values("status"), strict=True))
    epochs = folder.curve_table(CURVES)
    epochs = epochs.filter(epochs.is_in("run_id", statuses))
    return sorted(curves_of(epochs, CURVES, statuses), key=arm_order(spec))


def _diagnosis(folder: ResultsFolder, rows: RowTable) -> dict[str, dict[str, int]]:
    columns = [column.name for column in Diagnosis.columns]
    counts: dict[str, Counter[str]] = {}
    for row in with_evaluations(folder, rows, columns):
        if row["swap_cost"] is not None:
            counts.setdefault(row["arm"], Counter())[causes_of(row)[0].cause] += 1
    return {arm: dict(of_arm.most_common()) for arm, of_arm in counts.items()}


def _provenance(rows: RowTable) -> Provenance:
    versions = {
        name: Counter(str(value) for value in rows.values(name) if value is not None).most_common() for name in VERSIONS
    }
    fingerprints = Counter(filter(None, rows.values("data_fingerprint")))
    return Provenance(
        started=min((time for time in rows.values("started_at") if time is not None), default=None),
        ended=max((time for time in rows.values("ended_at") if time is not None), default=None),
        hosts=len(set(filter(None, rows.values("host")))),
        fingerprint=fingerprints.most_common(1)[0][0] if fingerprints else "",
        versions={name: values for name, values in versions.items() if values},
    )
