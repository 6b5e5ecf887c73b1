"""Pareto fronts, hypervolumes and replicates, as functions of arrays.

Shape suffixes: N runs, D objectives, M configurations or points, R bootstrap draws. Every objective keeps its own unit
(NLL in nats, active units as a count) and has its own direction of improvement, "min" or "max".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.statistics import mean_and_se
from sweeps.spec.sections import Direction
from sweeps.storage.row_table import Groups

__all__ = [
    "Direction",
    "Replicates",
    "contenders",
    "front",
    "front_probability",
    "hypervolume",
    "replicates",
    "resample_means",
    "rivals",
]

Floats: TypeAlias = NDArray[np.float64]

COMPARED_AT_ONCE = 200_000
"""Number of pairs of configurations that are compared at once, which limits the memory."""

NEIGHBOURS = 16
"""Number of configurations that are similar enough for the same selection of rivals."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """Means and standard errors over the replicates of M groups.

    Args:
        groups: Names or numbers of the groups, in order of first appearance among the rows that are replicates.
        mean_MD: Means.
        se_MD: Standard errors of the means, std(ddof=1) / sqrt(n); NaN if n = 1.
        n_M: Number of rows in each group, at least 1.
    """

    groups: tuple[Any, ...]
    mean_MD: Floats
    se_MD: Floats
    n_M: NDArray[np.int64]


def replicates(values_ND: ArrayLike, groups_N: Sequence[Any] | NDArray[np.int64]) -> Replicates:
    """Return the mean and the standard error of the rows of each group.

    A row with NaN or infinity in any column is not a replicate. It is left out of all columns, so that all means of a
    group are over the same seeds. A group without any remaining row is left out. The result therefore describes
    only the runs that did not fail: compare `n_M` with the number of seeds.

    Args:
        values_ND: One row per run.
        groups_N: Group of each row.

    Raises:
        ValueError: `values_ND` is not a matrix, or its number of rows differs from the length of `groups_N`.
    """
    values_ND = _matrix(values_ND, "values_ND")
    if len(groups_N) != len(values_ND):
        raise ValueError(
            f"groups_N must have one entry per row of values_ND, got {len(groups_N)} entries for {len(values_ND)} rows."
        )
    kept_N = np.flatnonzero(_finite(values_ND))
    group_N = groups_N if isinstance(groups_N, np.ndarray) else np.asarray(groups_N, dtype=object)
    codes_N, names = pd.factorize(group_N[kept_N])
    groups = Groups(codes_N, len(names))
    mean_MD, se_MD = (np.empty((len(names), values_ND.shape[1])) for _ in range(2))
    for group_K, positions_Kn in groups.by_size():
        mean_MD[group_K], se_MD[group_K] = mean_and_se(values_ND[kept_N[positions_Kn]], axis=1)
    return Replicates(tuple(names.tolist()), mean_MD, se_MD, groups.count_G)


def front(points_MD: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Return which points are on the Pareto front.

    A point dominates another if it is at least as good in every column and better in at least one. Equal points are
    therefore either all on the front or all off it. A point with NaN or infinity is not on the front and dominates
    no other point.

    Args:
        points_MD: The points.
        directions: Direction of improvement of each column.

    Returns:
        A mask [M]: true for points that no other point dominates.

    Raises:
        ValueError: `points_MD` is not a matrix, or `directions` does not contain exactly one "min" or "max" per column.
    """
    points_MD = _matrix(points_MD, "points_MD")
    maximise_D = _maximise(directions, points_MD.shape[1])
    member_M = _finite(points_MD)
    member_M[member_M] = moocore.is_nondominated(points_MD[member_M], maximise=maximise_D, keep_weakly=True)
    return member_M


def rivals(mean_MD: ArrayLike, se_MD: ArrayLike, directions: Sequence[Direction], errors: float) -> NDArray[np.int64]:
    """Return for each configuration another one that beats it: one that is better beyond the error of the difference.

    A configuration is *clearly better* than another in an objective if it is better by more than `errors` standard
    errors of the difference, sqrt(se_1^2 + se_2^2). One configuration beats another if it is clearly better in at
    least one objective and clearly worse in none. A configuration that none beats may be dominated: then it is tied
    with the front. One that another beats may be on the front: then it owes this to differences within the error.

    Args:
        mean_MD: Means.
        se_MD: Standard errors of the means. A NaN counts as 0, because the error of a single seed is unknown.
        directions: Direction of improvement of each column.
        errors: Number of standard errors.

    Returns:
        The position [M] of one that beats it, on the front if any of those is; -1 if none does.

    Raises:
        ValueError: As for `front`.
    """
    mean_MD, se_MD = _matrix(mean_MD, "mean_MD"), np.nan_to_num(_matrix(se_MD, "se_MD"))
    score_MD = np.where(_maximise(directions, mean_MD.shape[1]), mean_MD, -mean_MD)
    score_DM, se_DM = np.ascontiguousarray(score_MD.T), np.ascontiguousarray(se_MD.T)
    low_DM, high_DM = score_DM - errors * se_DM, score_DM + errors * se_DM
    rival_M = np.full(len(score_MD), -1)
    # A few configurations on the front beat most of the others, which then need no comparison with more.
    on_front = np.flatnonzero(front(mean_MD, directions))
    on_front = on_front[np.argsort(score_DM[0, on_front])]
    for candidates in (*(on_front[::step] for step in (64, 16, 4, 1)), np.arange(len(score_MD))):
        rest = np.flatnonzero(rival_M < 0)
        rest = rest[np.argsort(score_DM[0, rest])]
        parts = 1 + min(len(rest) // NEIGHBOURS, len(rest) * len(candidates) // COMPARED_AT_ONCE)
        for part_K in np.array_split(rest, parts):
            # Others are clearly worse in an objective, because the error of a difference is at most the sum of both.
            least_D = low_DM[:, part_K].min(axis=1, initial=np.inf)
            near = candidates[np.logical_and.reduce(high_DM[:, candidates] >= least_D[:, None])]
            for near_R in np.array_split(near, 1 + len(part_K) * len(near) // COMPARED_AT_ONCE):
                is_better_RK, is_worse_RK = (np.zeros((len(near_R), len(part_K)), dtype=bool) for _ in range(2))
                for score_M, se_M in zip(score_DM, se_DM, strict=True):
                    gain_RK = score_M[near_R, None] - score_M[part_K]
                    error_RK = errors * np.hypot(se_M[near_R, None], se_M[part_K])
                    is_better_RK |= gain_RK > error_RK
                    is_worse_RK |= -gain_RK > error_RK
                beats_RK = is_better_RK & ~is_worse_RK
                beaten_K = beats_RK.any(axis=0)
                if beaten_K.any():
                    rival_M[part_K[beaten_K]] = near_R[beats_RK[:, beaten_K].argmax(axis=0)]
    return rival_M


def hypervolume(points_MD: ArrayLike, directions: Sequence[Direction], reference_D: ArrayLike) -> float:
    """Return the volume between the front and a reference point; its unit is the product of the objectives' units.

    Only finite points that are better than the reference in every column contribute; if there is none, the volume is 0.

    Args:
        points_MD: The points.
        directions: Direction of improvement of each column.
        reference_D: The reference point.

    Raises:
        ValueError: As for `front`, or `reference_D` does not contain exactly one finite number per column.
    """
    points_MD, reference_D = _matrix(points_MD, "points_MD"), np.asarray(reference_D, dtype=np.float64)
    maximise_D = _maximise(directions, points_MD.shape[1])
    if reference_D.shape != maximise_D.shape or not np.isfinite(reference_D).all():
        raise ValueError(f"reference_D must contain {len(maximise_D)} finite numbers, got {reference_D.tolist()}.")
    better_MD = np.where(maximise_D, points_MD > reference_D, points_MD < reference_D)
    inside_M = better_MD.all(axis=1) & _finite(points_MD)
    return float(moocore.hypervolume(points_MD[inside_M], ref=reference_D, maximise=maximise_D))


def resample_means(
    values: Sequence[ArrayLike],
    columns: int,
    draws: int = 1000,
    seed: int = 0,
    seeds: Sequence[Sequence[int]] | None = None,
    wanted_M: NDArray[np.bool_] | None = None,
) -> Floats:
    """Return the means of bootstrap draws: each resamples the rows of a configuration with replacement.

    The deviation of a resampled mean from the mean is multiplied by sqrt(n / (n - 1)), because its variance would
    otherwise be (n - 1) / n of the unbiased estimate, half of it for n = 2. Source: Efron 1979, Bootstrap Methods; the
    factor: Rao and Wu 1988, Resampling Inference with Complex Survey Data, section 2.

    Args:
        values: For each of M configurations, one array [n_i, D] with one row per seed. Rows that are not finite are
            left out.
        columns: Number of objectives, D.
        draws: Number of draws, R.
        seed: Seed of the draws.
        seeds: Seed of each row. Configurations with the same seeds are resampled together: a draw takes the same seeds
            of each, so that noise that they share, such as the order of the data, does not blur their differences. If
            None, all configurations are resampled independently.
        wanted_M: Mask of the configurations whose means are returned; None for all. The draws do not depend on it.

    Returns:
        Means [R, M, D] of the wanted configurations; NaN for a configuration without finite rows, and the row itself
        for one with a single row.

    Raises:
        ValueError: An array is not a matrix with D columns, or `draws` is less than 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[int, ...], NDArray[np.int64]] = {}
    wanted = np.ones(len(values), dtype=bool) if wanted_M is None else wanted_M
    mean_RMD = np.full((draws, int(wanted.sum()), columns), np.nan)
    position_M = np.cumsum(wanted) - 1
    for m, rows in enumerate(values):
        rows_ND = _matrix(rows, f"values[{m}]")
        if rows_ND.shape[1] != columns:
            raise ValueError(f"values[{m}] must have {columns} columns, got {rows_ND.shape[1]}.")
        order_N = np.flatnonzero(_finite(rows_ND))
        if not (n := len(order_N)):
            continue
        key: tuple[int, ...] = (-1, m)
        if seeds is not None:
            order_N = np.array(sorted(order_N.tolist(), key=seeds[m].__getitem__))
            key = tuple(seeds[m][position] for position in order_N.tolist())
        if key not in drawn:
            drawn[key] = rng.integers(n, size=(draws, n))
        if not wanted[m]:
            continue
        mean_D = rows_ND[order_N].mean(axis=0)
        factor = np.sqrt(n / (n - 1)) if n > 1 else 0.0
        mean_RMD[:, position_M[m]] = mean_D + factor * (rows_ND[order_N][drawn[key]].mean(axis=1) - mean_D)
    return mean_RMD


def front_probability(
    values: Sequence[ArrayLike],
    directions: Sequence[Direction],
    draws: int = 1000,
    seed: int = 0,
    *,
    seeds: Sequence[Sequence[int]] | None = None,
    decimals: int | None = None,
) -> Floats:
    """Return the fraction of bootstrap draws in which each configuration is on the front; see `resample_means`.

    This is a rough measure with the few seeds that a sweep can afford. The draws scatter around the observed means and
    not around the true ones, so a configuration with lucky seeds remains lucky. The spread of a configuration with a
    single row is unknown: it takes part at its observed values, and its own fraction says only how often the others
    leave it on the front.

    Args:
        values: For each of M configurations, one array [n_i, D] with one row per seed. A configuration without finite
            rows is never on the front.
        directions: Direction of improvement of each column.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.
        seeds: Seed of each row. Configurations with the same seeds are resampled together.
        decimals: Decimals to which means are compared; None for all.

    Returns:
        Fraction of the draws [M] in which the configuration is on the front.

    Raises:
        ValueError: As for `front`, for each of the arrays; or `draws` is less than 1.
    """
    _maximise(directions, len(directions))
    wanted_M = contenders(values, directions, decimals)
    mean_RMD = resample_means(values, len(directions), draws, seed, seeds, wanted_M)
    if decimals is not None:
        mean_RMD = np.round(mean_RMD, decimals)
    share_M = np.zeros(len(values))
    share_M[wanted_M] = np.mean([front(mean_MD, directions) for mean_MD in mean_RMD], axis=0)
    return share_M


def contenders(
    values: Sequence[ArrayLike], directions: Sequence[Direction], decimals: int | None = None
) -> NDArray[np.bool_]:
    """Return which configurations may be on the front in a bootstrap draw.

    The mean of a draw lies between the least and the greatest row, moved away from the mean as in `resample_means`. A
    configuration is no contender if another one is better in every objective even at its worst.

    Args:
        values: For each of M configurations, one array [n_i, D] with one row per seed.
        directions: Direction of improvement of each column.
        decimals: Decimals to which means are compared; None for all.

    Returns:
        A mask [M].
    """
    sign_D = np.where(_maximise(directions, len(directions)), -1.0, 1.0)
    best_MD, worst_MD = (np.full((len(values), len(directions)), np.nan) for _ in range(2))
    matrices = [_matrix(rows, f"values[{m}]") for m, rows in enumerate(values)]
    rows_ND = np.concatenate([np.empty((0, len(directions))), *matrices])
    configuration_N = np.repeat(np.arange(len(values)), [len(matrix) for matrix in matrices])
    is_finite_N = _finite(rows_ND)
    cost_ND, configuration_N = rows_ND[is_finite_N] * sign_D, configuration_N[is_finite_N]
    if len(cost_ND):
        measured_C, start_C, n_C = np.unique(configuration_N, return_index=True, return_counts=True)
        least_CD, greatest_CD = (extreme.reduceat(cost_ND, start_C) for extreme in (np.minimum, np.maximum))
        mean_CD = np.add.reduceat(cost_ND, start_C) / n_C[:, None]
        factor_CD = np.where(n_C > 1, np.sqrt(n_C / np.maximum(n_C - 1, 1)), 0.0)[:, None]
        rounding_CD = 1e-9 * (1.0 + np.maximum(np.abs(least_CD), np.abs(greatest_CD)))
        best_MD[measured_C] = mean_CD + factor_CD * (least_CD - mean_CD) - rounding_CD
        worst_MD[measured_C] = mean_CD + factor_CD * (greatest_CD - mean_CD) + rounding_CD
    if decimals is not None:
        best_MD, worst_MD = np.round(best_MD, decimals), np.round(worst_MD, decimals)
    contender_M = np.ones(len(values), dtype=bool)
    for worst_D in worst_MD[front(worst_MD, ["min"] * len(directions))]:
        contender_M &= ~(worst_D < best_MD).all(axis=1)
    return contender_M


def _matrix(values: ArrayLike, name: str) -> Floats:
    matrix: Floats = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got an array of shape {matrix.shape}.")
    return matrix


def _finite(matrix: Floats) -> NDArray[np.bool_]:
    """Return which rows contain only finite numbers."""
    return np.asarray(np.isfinite(matrix).all(axis=1))


def _maximise(directions: Sequence[Direction], columns: int) -> NDArray[np.bool_]:
    """Return which columns to maximise [D], after checking that there is a direction for each column."""
    if columns == 0 or len(directions) != columns or not set(directions) <= {"min", "max"}:
        raise ValueError(f"directions must be 'min' or 'max' for each of {columns} columns, got {list(directions)}.")
    return np.array([direction == "max" for direction in directions])
