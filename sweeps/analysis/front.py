"""The Pareto front of stored rows, over configurations with their seeds as replicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweeps.analysis.pareto import Direction, beaten, front, replicates
from sweeps.analysis.statistics import ConfigurationIdentity, identity_of

__all__ = ["DIGITS", "ERRORS", "FrontRow", "Standing", "front_of"]

DIGITS = 3
"""Decimals to which means are printed and compared. Smaller differences are noise of floating-point arithmetic."""

ERRORS = 2.0
"""Number of standard errors of a difference that it must exceed to be clear."""

Standing = Literal["on", "in doubt", "tied", "off"]


@dataclass(frozen=True)
class FrontRow(ConfigurationIdentity):
    """One configuration in the space of the objectives.

    Args:
        mean: Mean of each objective over the finished seeds.
        se: Standard error of each mean; None if only one seed finished.
        n: Number of finished seeds.
        member: Whether the configuration is on the front: no other configuration is at least as good in every
            objective and better in one, by the means rounded to `DIGITS` decimals.
        beaten: Whether another configuration is better beyond the error of the difference: by more than `ERRORS`
            standard errors in one objective, and not worse by more than that in any.
    """

    mean: Mapping[str, float]
    se: Mapping[str, float | None]
    n: int
    member: bool
    beaten: bool

    @property
    def standing(self) -> Standing:
        """Whether the configuration is on the front, and whether that exceeds the error.

        "in doubt": on the front, although beaten. "tied": dominated, although not beaten.
        """
        if self.member:
            return "in doubt" if self.beaten else "on"
        return "off" if self.beaten else "tied"

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"arm": self.arm, "config_id": self.config_id}
        for column, mean in self.mean.items():
            values |= {column: mean, f"{column}_se": self.se[column]}
        return values | {"n": self.n, "parameters": dict(self.parameters), "standing": self.standing}


def front_of(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> list[FrontRow]:
    """Compute the Pareto front.

    Args:
        rows: Rows of runs. Only finished runs that measured every objective count as replicates; diverged, failed and
            stopped runs do not.
        objectives: Direction of improvement of each objective, by column.

    Returns:
        All configurations with at least one replicate, sorted from best to worst in the first objective.
    """
    columns = list(objectives)
    usable = [r for r in rows if r["status"] == "finished" and all(r[c] is not None for c in columns)]
    if not usable:
        return []
    values = np.array([[float(row[column]) for column in columns] for row in usable])
    groups = replicates(values, [row["config_id"] for row in usable])
    directions = tuple(objectives.values())
    mean_MD = np.round(groups.mean_MD, DIGITS)
    member, is_beaten = front(mean_MD, directions), beaten(mean_MD, groups.se_MD, directions, ERRORS)
    first_row = {row["config_id"]: row for row in reversed(usable)}
    front_rows = [
        FrontRow(
            **identity_of(first_row[config_id]),
            mean=dict(zip(columns, groups.mean_MD[m].tolist(), strict=True)),
            se={c: None if np.isnan(se) else float(se) for c, se in zip(columns, groups.se_MD[m], strict=True)},
            n=int(groups.n_M[m]),
            member=bool(member[m]),
            beaten=bool(is_beaten[m]),
        )
        for m, config_id in enumerate(groups.groups)
    ]
    sign = 1.0 if objectives[columns[0]] == "min" else -1.0
    return sorted(front_rows, key=lambda row: sign * row.mean[columns[0]])
