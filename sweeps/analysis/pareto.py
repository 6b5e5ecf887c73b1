"""Fronts, hypervolume, standard errors: arrays in, arrays out.

Shape suffixes: N runs, D objectives, M configurations or points, R bootstrap draws. Every objective keeps its
own unit (NLL in nats, active units as a count) and its own sense, `"min"` or `"max"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Direction", "Replicates", "front", "front_probability", "hypervolume", "replicates"]

Direction: TypeAlias = Literal["min", "max"]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Replicates:
    """What the seeds of each group say together, one row a group."""

    groups: tuple[str, ...]
    """The M groups that have a replicate, in order of first appearance among the rows kept."""
    mean_MD: Floats
    se_MD: Floats
    """Standard error of the mean, std(ddof=1) / sqrt(n); NaN where n = 1."""
    n_M: NDArray[np.int64]
    """Rows behind each mean, at least 1."""


def replicates(values_ND: ArrayLike, groups_N: Sequence[str]) -> Replicates:
    """Means and standard errors of the rows [N, D] that share a group.

    A row with a NaN or an infinity in any column is no replicate and is dropped whole, so that all columns of
    a group rest on the same seeds; a group that keeps no row is dropped too. What remains describes the runs
    that did not fail: compare `n_M` with the seeds that were run.

    Raises:
        ValueError: `values_ND` is no matrix, or `groups_N` names another number of rows.
    """
    values_ND = _matrix(values_ND, "values")
    if len(groups_N) != len(values_ND):
        raise ValueError(f"every row must have one group, but got {len(values_ND)} rows, {len(groups_N)} groups.")
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(_finite(values_ND)).tolist():
        rows_of.setdefault(groups_N[row], []).append(row)
    shape = (len(rows_of), values_ND.shape[1])
    mean_MD, se_MD = np.empty(shape), np.full(shape, np.nan)
    for m, rows in enumerate(rows_of.values()):
        mean_MD[m] = values_ND[rows].mean(axis=0)
        if len(rows) > 1:
            se_MD[m] = values_ND[rows].std(axis=0, ddof=1) / np.sqrt(len(rows))
    n_M = np.array([len(rows) for rows in rows_of.values()], dtype=np.int64)
    return Replicates(tuple(rows_of), mean_MD, se_MD, n_M)


def front(points_MD: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Which points [M, D] no other point dominates, as a mask [M].

    A point dominates another when it is at least as good in every column and better in one; equal points are
    therefore members together or not at all. A point with a NaN or an infinity is no member and dominates
    nothing.

    Raises:
        ValueError: `points_MD` is no matrix, or `senses` is not one "min" or "max" for each column.
    """
    points_MD = _matrix(points_MD, "points")
    maximise_D = _maximise(directions, points_MD.shape[1])
    member_M = _finite(points_MD)
    member_M[member_M] = moocore.is_nondominated(points_MD[member_M], maximise=maximise_D, keep_weakly=True)
    return member_M


def hypervolume(points_MD: ArrayLike, directions: Sequence[Direction], reference_D: ArrayLike) -> float:
    """The volume between the front of the points [M, D] and a reference [D], in the product of the units.

    Only finite points that are better than the reference in every column contribute; without any it is 0.

    Raises:
        ValueError: as `front`, or `reference_D` is not one finite number for each column.
    """
    points_MD, reference_D = _matrix(points_MD, "points"), np.asarray(reference_D, dtype=np.float64)
    maximise_D = _maximise(directions, points_MD.shape[1])
    if reference_D.shape != maximise_D.shape or not np.isfinite(reference_D).all():
        raise ValueError(f"reference must be {len(maximise_D)} finite numbers, but got {reference_D.tolist()}.")
    better_MD = np.where(maximise_D, points_MD > reference_D, points_MD < reference_D)
    inside_M = better_MD.all(axis=1) & _finite(points_MD)
    return float(moocore.hypervolume(points_MD[inside_M], ref=reference_D, maximise=maximise_D))


def front_probability(
    values: Sequence[ArrayLike], directions: Sequence[Direction], draws: int = 1000, seed: int = 0
) -> Floats:
    """How often each of M configurations is on the front when all means are bootstrapped, as shares [M].

    `values` holds one array [n_i, D] for each configuration, one row a seed. A draw resamples the rows of
    each configuration with replacement, independently of the others; a single row is kept as it is. Rows that
    are not finite are no replicates, and a configuration without any is never on the front.

    This is a rough measure at the handful of seeds that a sweep affords. The variance of a redrawn mean is
    (n - 1) / n of the unbiased estimate (half of it at n = 2, nothing at n = 1), so shares lean towards 0 and
    1: read 1.0 as "not contradicted by these seeds". The draws scatter about the observed means, not the true
    ones, so that a lucky configuration stays lucky. Seeds that configurations have in common are not paired.

    Raises:
        ValueError: as `front`, for any of the arrays, or `draws` is below 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, but is {draws}.")
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
        raise ValueError(f"{name} must be a matrix, one row a point, but has shape {matrix.shape}.")
    return matrix


def _finite(matrix: Floats) -> NDArray[np.bool_]:
    """Which rows hold finite numbers only."""
    return np.asarray(np.isfinite(matrix).all(axis=1))


def _maximise(directions: Sequence[Direction], columns: int) -> NDArray[np.bool_]:
    """`senses` as a mask [D], after a check that they fit the columns."""
    if columns == 0 or len(directions) != columns or not set(directions) <= {"min", "max"}:
        raise ValueError(f"senses must be 'min' or 'max' for each of {columns} columns, but got {list(directions)}.")
    return np.array([direction == "max" for direction in directions])
