"""The Pareto front of stored rows, over configurations with their seeds as replicates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from sweeps.analysis.pareto import Direction, front, replicates, rivals
from sweeps.analysis.statistics import ConfigurationIdentity, Statistic, identity_of
from sweeps.storage.row_table import RowTable

__all__ = [
    "DIGITS",
    "ERRORS",
    "STANDINGS",
    "Front",
    "FrontRow",
    "Standing",
    "best_of_arms",
    "clear_best",
    "front_of",
    "measured",
]

DIGITS = 3
"""Decimals to which means are printed and compared. Smaller differences are noise of floating-point arithmetic."""

ERRORS = 2.0
"""Number of standard errors of a difference that it must exceed to be clear."""

Standing = Literal["on", "in doubt", "tied", "off"]

STANDINGS: Mapping[Standing, str] = {
    "in doubt": f"on the front, but another configuration (the named one) is better by more than {ERRORS:g} standard "
    "errors of the difference in one objective, and not worse by more than that in any",
    "tied": f"dominated, but no configuration is better by more than {ERRORS:g} standard errors of the difference in "
    "one objective without being worse by more than that in another",
}
"""Explanation of each standing that needs one."""


@dataclass(frozen=True)
class FrontRow(ConfigurationIdentity):
    """One configuration in the space of the objectives.

    Args:
        mean: Mean of each objective over the finished seeds.
        se: Standard error of each mean; None if only one seed finished.
        n: Number of finished seeds.
        member: Whether the configuration is on the front: no other configuration is at least as good in every
            objective and better in one, by the means rounded to `DIGITS` decimals.
        rival: A configuration that is better beyond the error of the difference: by more than `ERRORS` standard errors
            in one objective, and not worse by more than that in any. It is on the front if any of those is. None if
            there is none.
    """

    mean: Mapping[str, float]
    se: Mapping[str, float | None]
    n: int
    member: bool
    rival: str | None

    def statistic(self, column: str) -> Statistic:
        """Return the statistic of an objective."""
        return Statistic(self.mean[column], self.se[column], self.n)

    @property
    def standing(self) -> Standing:
        """Whether the configuration is on the front, and whether that exceeds the error.

        "in doubt": on the front, although another one is better. "tied": dominated, although none is better.
        """
        if self.member:
            return "on" if self.rival is None else "in doubt"
        return "tied" if self.rival is None else "off"

    @property
    def standing_text(self) -> str:
        """The standing, with the configuration that puts the front in doubt."""
        return f"in doubt: {self.rival}" if self.standing == "in doubt" else self.standing

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"arm": self.arm, "config_id": self.config_id}
        for column, mean in self.mean.items():
            values |= {column: mean, f"{column}_se": self.se[column]}
        values |= {"n": self.n, "parameters": dict(self.parameters)}
        return values | {"standing": self.standing, "rival": self.rival}


@dataclass(frozen=True, eq=False)
class Front(Sequence[FrontRow]):
    """The configurations in the space of the objectives, sorted from best to worst in the first one.

    As a sequence, it has one `FrontRow` per configuration. Of many, most are behind the front, and `shown` leaves them
    out.

    Args:
        objectives: Direction of improvement of each of D objectives, by column.
        first: A row of each of the M configurations.
        mean_MD: Mean of each objective.
        se_MD: Standard error of each mean; NaN if only one seed finished.
        n_M: Number of finished seeds.
        member_M: Whether each is on the front (see `FrontRow`).
        rival_M: Position of the rival of each (see `FrontRow`); -1 if it has none.
    """

    objectives: Mapping[str, Direction]
    first: RowTable
    mean_MD: NDArray[np.float64]
    se_MD: NDArray[np.float64]
    n_M: NDArray[np.int64]
    member_M: NDArray[np.bool_]
    rival_M: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    @overload
    def __getitem__(self, index: int) -> FrontRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[FrontRow]: ...
    def __getitem__(self, index: int | slice) -> FrontRow | list[FrontRow]:
        if isinstance(index, slice):
            return list(self._rows(np.arange(len(self))[index]))
        (row,) = self._rows(np.array([range(len(self))[index]]))
        return row

    def __iter__(self) -> Iterator[FrontRow]:
        return self._rows(np.arange(len(self)))

    def shown(self) -> list[FrontRow]:
        """Return the configurations that are on the front or tied with it."""
        return list(self._rows(np.flatnonzero(self.member_M | (self.rival_M < 0))))

    def _rows(self, positions: NDArray[np.int64]) -> Iterator[FrontRow]:
        rivals_of = self.first.take(np.maximum(self.rival_M[positions], 0)).values("config_id")
        for m, row, rival in zip(positions.tolist(), self.first.take(positions), rivals_of, strict=True):
            se_D = self.se_MD[m].tolist()
            yield FrontRow(
                **identity_of(row),
                mean=dict(zip(self.objectives, self.mean_MD[m].tolist(), strict=True)),
                se={c: None if math.isnan(se) else se for c, se in zip(self.objectives, se_D, strict=True)},
                n=int(self.n_M[m]),
                member=bool(self.member_M[m]),
                rival=None if self.rival_M[m] < 0 else rival,
            )


def front_of(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> Front:
    """Compute the Pareto front.

    Args:
        rows: Rows of runs. Only finished runs that measured every objective count as replicates; diverged, failed and
            stopped runs do not.
        objectives: Direction of improvement of each objective, by column.

    Returns:
        All configurations with at least one replicate, sorted from best to worst in the first objective.
    """
    table = RowTable.of(rows, dict.fromkeys(["arm", "config_id", "parameters", "status", *objectives]))
    table, values_ND = measured(table, list(objectives))
    groups = table.groups("config_id")
    statistics = replicates(values_ND, groups.codes_N)
    directions = tuple(objectives.values())
    mean_MD = np.round(statistics.mean_MD, DIGITS)
    member_M, rival_M = front(mean_MD, directions), rivals(mean_MD, statistics.se_MD, directions, ERRORS)
    order_M = np.argsort((1.0 if directions[0] == "min" else -1.0) * statistics.mean_MD[:, 0], kind="stable")
    rank_M = np.empty_like(order_M)
    rank_M[order_M] = np.arange(len(order_M))
    return Front(
        objectives,
        table.take(groups.first_G[order_M]),
        statistics.mean_MD[order_M],
        statistics.se_MD[order_M],
        statistics.n_M[order_M],
        member_M[order_M],
        np.where(rival_M < 0, -1, rank_M[rival_M])[order_M],
    )


def measured(rows: RowTable, columns: Sequence[str]) -> tuple[RowTable, NDArray[np.float64]]:
    """Return the finished runs with a finite value in each of D columns, and these values [N, D]."""
    values_ND = np.stack([rows.floats(column) for column in columns], axis=1)
    mask_N = rows.equals("status", "finished") & np.isfinite(values_ND).all(axis=1)
    return rows.filter(mask_N), values_ND[mask_N]


def best_of_arms(rows: Sequence[Mapping[str, Any]], column: str, direction: Direction) -> list[FrontRow]:
    """Return the configuration of each arm with the best mean of one column, sorted from best to worst.

    Args:
        rows: Rows of runs. Only finished runs that measured the column count.
        column: Name of the column.
        direction: Direction of improvement.
    """
    best: dict[str, FrontRow] = {}
    for row in front_of(rows, {column: direction}):
        best.setdefault(row.arm, row)
    return list(best.values())


def clear_best(statistics: Sequence[Statistic | None], direction: Direction) -> int | None:
    """Return the position of the best mean if it is better than every other one beyond the error, and else None.

    It must be better by more than `ERRORS` standard errors of each difference, and the errors of the best and of the
    second best mean must be known. Elsewhere an unknown error counts as 0, as it does on the front. Means are compared
    as rounded to `DIGITS` decimals.

    Args:
        statistics: Statistic of each configuration; None if it has no value.
        direction: Direction of improvement.
    """
    sign = 1.0 if direction == "max" else -1.0
    scores = [(sign * round(s.mean, DIGITS), s.se, position) for position, s in enumerate(statistics) if s is not None]
    (best, best_se, position), *others = sorted(scores, key=lambda score: -score[0]) or [(0.0, None, 0)]
    if not others or best_se is None or others[0][1] is None:
        return None
    clear = all(best - score > ERRORS * float(np.hypot(best_se, se or 0.0)) for score, se, _ in others)
    return position if clear else None
