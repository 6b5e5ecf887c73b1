"""Arms ranked by the hypervolumes of their fronts, and the probability of each configuration to be on the common front.

Shape suffixes: N seeds, D objectives, M configurations, R bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.analysis.front import DIGITS, Front, FrontRow, front_of, measured
from sweeps.analysis.pareto import Direction, contenders, front, front_probability, hypervolume, resample_means
from sweeps.analysis.statistics import CONFIDENCE, Interval, student_interval
from sweeps.storage.row_table import RowTable

__all__ = [
    "DRAWS",
    "MARGIN",
    "RankedArm",
    "RankedConfiguration",
    "Ranking",
    "front_probabilities",
    "rank_arms",
]

DRAWS = 1000
"""Default number of bootstrap draws."""

MARGIN = 0.1
"""Distance of the reference point from the worst values, as a fraction of the range of each objective."""

NEEDED = ("arm", "config_id", "parameters", "status", "seed")
"""Columns of a row that a ranking needs besides the objectives."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RankedArm:
    """The front of one arm, among its own configurations.

    Args:
        rank: Rank by hypervolume, from 1. Arms with equal hypervolumes have the same rank.
        arm: Name of the arm.
        hypervolume: Volume between the arm's front and the reference point, in the product of the objectives' units.
        interval: Interval for it; None if a configuration on the arm's front has only one seed.
        configurations: Number of configurations with at least one measured seed.
        single: Number of these with only one measured seed.
        runs: Number of measured runs.
        members: Number of configurations on the common front of all arms.
    """

    rank: int
    arm: str
    hypervolume: float
    interval: Interval | None
    configurations: int
    single: int
    runs: int
    members: int

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        return {
            "rank": self.rank,
            "arm": self.arm,
            "hypervolume": self.hypervolume,
            "hypervolume_low": low,
            "hypervolume_high": high,
            "configurations": self.configurations,
            "single_seed": self.single,
            "runs": self.runs,
            "on_front": self.members,
        }


@dataclass(frozen=True)
class RankedConfiguration:
    """One configuration on the common front, or tied with it.

    Args:
        row: The configuration in the space of the objectives.
        probability: Fraction of bootstrap draws in which it is on the front; None if it has only one seed.
        intervals: Interval for the mean of each objective; None if it has only one seed.
    """

    row: FrontRow
    probability: float | None
    intervals: Mapping[str, Interval | None]

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"arm": self.row.arm, "config_id": self.row.config_id, "n": self.row.n}
        values |= {"standing": self.row.standing, "rival": self.row.rival, "probability": self.probability}
        for column, interval in self.intervals.items():
            low, high = interval or (None, None)
            values |= {column: self.row.mean[column], f"{column}_low": low, f"{column}_high": high}
        return values | {"parameters": dict(self.row.parameters)}


@dataclass(frozen=True)
class Ranking:
    """The arms of a sweep, ranked.

    Args:
        arms: The arms, best first.
        front: The configurations on the common front of all arms or tied with it (see `FrontRow.standing`), best first
            in the first objective.
        reference: The reference point of all hypervolumes, by objective.
        unranked: Arms with finished runs, of which none measured every objective.
        probabilities: Probability of each configuration to be on the common front (see `front_probabilities`).
    """

    arms: Sequence[RankedArm]
    front: Sequence[RankedConfiguration]
    reference: Mapping[str, float]
    unranked: Sequence[str]
    probabilities: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": dict(self.reference),
            "arms": [arm.to_json() for arm in self.arms],
            "front": [configuration.to_json() for configuration in self.front],
            "unranked": list(self.unranked),
        }


def rank_arms(
    sweep: str, rows: Sequence[Row], objectives: Mapping[str, Direction], draws: int = DRAWS, seed: int = 0
) -> Ranking:
    """Rank arms by the hypervolume of the front of their configurations' means over seeds.

    All hypervolumes have one reference point: in each objective, the worst value on the fronts of the arms, moved
    outwards by a tenth of the range of these values, so that the extremes of a front count (Ishibuchi et al. 2018, How
    to Specify a Reference Point in Hypervolume Calculation, section 3); by 1 if the range is 0. The interval is the
    hypervolume plus or minus the standard deviation over bootstrap draws times a quantile of Student's t, with the
    degrees of freedom of the configuration on the arm's front that has the fewest seeds. Percentiles of so few seeds
    cover far less than their nominal 95 % (tests/sweeps/analysis/test_ranking.py).

    Args:
        sweep: Name of the sweep, for messages.
        rows: Rows of runs; only finished ones with a value for every objective count.
        objectives: Direction of improvement of each objective, by column.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Raises:
        ConfigError: No finished run has a value for every objective, or only one arm has.
    """
    table = RowTable.of(rows, dict.fromkeys([*NEEDED, *objectives]))
    finished = table.filter(table.equals("status", "finished")).codes("arm")[1]
    table, _ = measured(table, list(objectives))
    arms = table.codes("arm")[1]
    if len(arms) < 2:
        raise ConfigError([_too_few_arms(sweep, arms, objectives)])
    found = front_of(table, objectives)
    probabilities = front_probabilities(found, table, objectives, draws, seed)
    ranked, reference_D = _ranked_arms(found, table, objectives, draws, seed)
    return Ranking(
        arms=ranked,
        front=[_with_probability(row, probabilities[row.config_id]) for row in found.shown()],
        reference=dict(zip(objectives, reference_D.tolist(), strict=True)),
        unranked=[arm for arm in finished if arm not in arms],
        probabilities=probabilities,
    )


def _too_few_arms(sweep: str, arms: Sequence[str], objectives: Mapping[str, Direction]) -> ValidationIssue:
    if arms:
        message = "must name a sweep in which at least two arms have finished runs with a value for every objective"
        hint = f"Only {arms[0]} has. `lagvae results pareto {sweep}` shows its front."
    else:
        message = "must name a sweep with finished runs that have a value for every objective"
        hint = f"The objectives are {', '.join(objectives)}. Choose others, or run the sweep first."
    return ValidationIssue("SWEEP", message, hint, sweep)


def _ranked_arms(
    found: Front, rows: RowTable, objectives: Mapping[str, Direction], draws: int, seed: int
) -> tuple[list[RankedArm], NDArray[np.float64]]:
    """Return the arms, best first, and the reference point [D]."""
    directions = tuple(objectives.values())
    values, seeds = _seeds_of(found, rows, objectives)
    mean_MD = np.round(found.mean_MD, DIGITS)
    positions = dict(zip(found.first.codes("arm")[1], found.first.groups("arm"), strict=True))
    own_front = {arm: of[front(mean_MD[of], directions)] for arm, of in positions.items()}
    # Only the configurations that may be on the front of their own arm in a draw contribute to its hypervolume.
    wanted_M = np.zeros(len(found), dtype=bool)
    for of in positions.values():
        wanted_M[of] = contenders([values[m] for m in of.tolist()], directions, DIGITS)
    mean_RWD = np.round(resample_means(values, len(directions), draws, seed, seeds, wanted_M), DIGITS)
    arm_W = found.first.codes("arm")[0][wanted_M]
    reference_D = _reference(mean_MD[np.concatenate(list(own_front.values()))], directions)
    volumes = {arm: hypervolume(mean_MD[of], directions, reference_D) for arm, of in positions.items()}
    arms = []
    for number, (arm, volume) in enumerate(volumes.items()):
        volume_R = [hypervolume(mean_OD, directions, reference_D) for mean_OD in mean_RWD[:, arm_W == number]]
        n_C = found.n_M[positions[arm]]
        better = sum(other > volume and not math.isclose(other, volume) for other in volumes.values())
        ranked = RankedArm(
            rank=1 + better,
            arm=arm,
            hypervolume=volume,
            interval=_volume_interval(volume, volume_R, int(found.n_M[own_front[arm]].min())),
            configurations=len(n_C),
            single=int((n_C == 1).sum()),
            runs=int(n_C.sum()),
            members=int(found.member_M[positions[arm]].sum()),
        )
        arms.append(ranked)
    return sorted(arms, key=lambda arm: arm.rank), reference_D


def _volume_interval(volume: float, volume_R: Sequence[float], n: int) -> Interval | None:
    """Return the interval for a hypervolume, given those of the draws and the smallest number of seeds on the front."""
    if n == 1:
        return None
    low, high = student_interval(volume, float(np.std(volume_R)), n - 1, CONFIDENCE)
    return Interval(max(0.0, low), high)


def front_probabilities(
    found: Front,
    rows: Sequence[Row],
    objectives: Mapping[str, Direction],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return the fraction of bootstrap draws in which each configuration is on the front (see `front_probability`).

    Args:
        found: The configurations, as from `front_of`.
        rows: Rows of runs.
        objectives: Direction of improvement of each objective, by column.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        The fraction by `config_id`; None if the configuration has one seed, because its spread is unknown.
    """
    if not found:
        return {}
    table = RowTable.of(rows, dict.fromkeys([*NEEDED, *objectives]))
    values, seeds = _seeds_of(found, table, objectives)
    share_M = front_probability(values, tuple(objectives.values()), draws, seed, seeds=seeds, decimals=DIGITS)
    shares = zip(found.first.values("config_id"), found.n_M.tolist(), share_M.tolist(), strict=True)
    return {config_id: share if n > 1 else None for config_id, n, share in shares}


def _seeds_of(
    found: Front, rows: RowTable, objectives: Mapping[str, Direction]
) -> tuple[list[NDArray[np.float64]], list[list[int]]]:
    """Return the values [N, D] and the seeds [N] of the measured runs of each configuration."""
    table, values_ND = measured(rows, list(objectives))
    seed_N = table.ints("seed")
    groups = dict(zip(table.codes("config_id")[1], table.groups("config_id"), strict=True))
    of_found = [groups[config_id] for config_id in found.first.values("config_id")]
    return [values_ND[positions] for positions in of_found], [seed_N[positions].tolist() for positions in of_found]


def _reference(points_MD: NDArray[np.float64], directions: Sequence[Direction]) -> NDArray[np.float64]:
    """Return the reference point [D] for points on the fronts of all arms."""
    low_D, high_D = points_MD.min(axis=0), points_MD.max(axis=0)
    margin_D = np.where(high_D > low_D, MARGIN * (high_D - low_D), 1.0)
    maximised_D = np.array([direction == "max" for direction in directions])
    reference_D: NDArray[np.float64] = np.where(maximised_D, low_D - margin_D, high_D + margin_D)
    return reference_D


def _with_probability(row: FrontRow, probability: float | None) -> RankedConfiguration:
    intervals = {column: row.statistic(column).interval() for column in row.mean}
    return RankedConfiguration(row, probability, intervals)
