"""Pareto fronts, hypervolumes and replicates, as functions of arrays.

Shape suffixes: N runs, D objectives, M configurations or points, R bootstrap draws. Every objective keeps its own unit
(NLL in nats, active units as a count) and has its own direction of improvement, "min" or "max".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sweeps.analysis.statistics import group_rows, mean_and_se
from sweeps.spec.sections import Direction

__all__ = ["Direction", "Replicates", "beaten", "front", "front_probability", "hypervolume", "replicates"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Replicates:
    """Means and standard errors over the replicates of M groups.

    Args:
        groups: Names of the groups, in order of first appearance among the rows that are replicates.
        mean_MD: Means.
        se_MD: Standard errors of the means, std(ddof=1) / sqrt(n); NaN if n = 1.
        n_M: Number of rows in each group, at least 1.
    """

    groups: tuple[str, ...]
    mean_MD: Floats
    se_MD: Floats
    n_M: NDArray[np.int64]


def replicates(values_ND: ArrayLike, groups_N: Sequence[str]) -> Replicates:
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
    groups = [kept_N[rows] for rows in group_rows(pd.DataFrame({"group": [groups_N[row] for row in kept_N.tolist()]}))]
    statistics = [mean_and_se(values_ND[rows]) for rows in groups]
    shape = (len(groups), values_ND.shape[1])
    return Replicates(
        groups=tuple(groups_N[int(rows[0])] for rows in groups),
        mean_MD=np.array([mean_D for mean_D, _ in statistics]).reshape(shape),
        se_MD=np.array([se_D for _, se_D in statistics]).reshape(shape),
        n_M=np.array([len(rows) for rows in groups], dtype=np.int64),
    )


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


def beaten(mean_MD: ArrayLike, se_MD: ArrayLike, directions: Sequence[Direction], errors: float) -> NDArray[np.bool_]:
    """Return which configurations are worse than another one beyond the error of the difference.

    A configuration is *clearly better* than another in an objective if it is better by more than `errors` standard
    errors of the difference, sqrt(se_1^2 + se_2^2). It is beaten if some other configuration is clearly better in
    at least one objective and clearly worse in none. A configuration that is not beaten may be dominated: then it
    is tied with the front. One that is beaten may be on the front: then it owes this to differences within the error.

    Args:
        mean_MD: Means.
        se_MD: Standard errors of the means. A NaN counts as 0, because the error of a single seed is unknown.
        directions: Direction of improvement of each column.
        errors: Number of standard errors.

    Returns:
        A mask [M].

    Raises:
        ValueError: As for `front`.
    """
    mean_MD, se_MD = _matrix(mean_MD, "mean_MD"), np.nan_to_num(_matrix(se_MD, "se_MD"))
    score_MD = np.where(_maximise(directions, mean_MD.shape[1]), mean_MD, -mean_MD)

    def is_beaten(score_D: Floats, se_D: Floats) -> bool:
        gain_MD, error_MD = score_MD - score_D, errors * np.hypot(se_MD, se_D)
        return bool(((gain_MD > error_MD).any(axis=1) & ~(-gain_MD > error_MD).any(axis=1)).any())

    return np.array([is_beaten(score_D, se_D) for score_D, se_D in zip(score_MD, se_MD, strict=True)], dtype=bool)


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


def front_probability(
    values: Sequence[ArrayLike], directions: Sequence[Direction], draws: int = 1000, seed: int = 0
) -> Floats:
    """Return the fraction of bootstrap draws in which each configuration is on the front.

    A draw resamples the rows of each configuration with replacement, independently of the other configurations; a
    single row is used unchanged. Rows that are not finite are not replicates, and a configuration without replicates is
    never on the front.

    This is a rough measure with the few seeds that a sweep can afford. The variance of a resampled mean is (n - 1) / n
    of the unbiased estimate (half of it for n = 2, zero for n = 1), so the probabilities tend towards 0 and 1: read 1.0
    as "not contradicted by these seeds". The draws scatter around the observed means and not around the true ones, so a
    configuration with lucky seeds remains lucky. Configurations are resampled independently even if they used the same
    seeds.

    Args:
        values: For each of M configurations, one array [n_i, D] with one row per seed.
        directions: Direction of improvement of each column.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Fraction of the draws [M] in which the configuration is on the front.

    Raises:
        ValueError: As for `front`, for each of the arrays; or `draws` is less than 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    rng = np.random.default_rng(seed)
    mean_RMD = np.full((draws, len(values), len(directions)), np.nan)
    for m, rows in enumerate(values):
        rows_ND = _matrix(rows, f"values[{m}]")
        _maximise(directions, rows_ND.shape[1])
        rows_ND = rows_ND[_finite(rows_ND)]
        if n := len(rows_ND):
            mean_RMD[:, m] = rows_ND[rng.integers(n, size=(draws, n))].mean(axis=1)
    share_M: Floats = np.mean([front(mean_MD, directions) for mean_MD in mean_RMD], axis=0)
    return share_M


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
