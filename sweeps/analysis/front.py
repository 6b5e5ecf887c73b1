"""Rows to front: configurations with their replicates' means, and which of them are on the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.analysis.pareto import Direction, front, replicates

__all__ = ["FrontRow", "front_of"]


@dataclass(frozen=True)
class FrontRow:
    """One configuration: mean and standard error (None for one seed) of each objective over its n finished seeds."""

    arm: str
    config_id: str
    parameters: Mapping[str, int | float | str]
    mean: Mapping[str, float]
    se: Mapping[str, float | None]
    n: int
    member: bool

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"arm": self.arm, "config_id": self.config_id}
        for column, mean in self.mean.items():
            values |= {column: mean, f"{column}_se": self.se[column]}
        return values | {"n": self.n, "parameters": dict(self.parameters)}


def front_of(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> list[FrontRow]:
    """Every configuration with a finished run, best in the first objective first; members are non-dominated.

    Only finished rows with finite objectives count; a diverged, failed or stopped run is no replicate.
    """
    columns = list(objectives)
    usable = [r for r in rows if r["status"] == "finished" and all(r[c] is not None for c in columns)]
    if not usable:
        return []
    values = np.array([[float(row[column]) for column in columns] for row in usable])
    groups = replicates(values, [row["config_id"] for row in usable])
    member = front(groups.mean_MD, tuple(objectives.values()))
    first = {row["config_id"]: row for row in reversed(usable)}
    found = []
    for number, config_id in enumerate(groups.groups):
        row = first[config_id]
        spread = groups.se_MD[number]
        found.append(
            FrontRow(
                arm=row["arm"],
                config_id=config_id,
                parameters=json.loads(row["parameters"] or "{}"),
                mean=dict(zip(columns, groups.mean_MD[number].tolist(), strict=True)),
                se={c: None if np.isnan(s) else float(s) for c, s in zip(columns, spread, strict=True)},
                n=int(groups.n_M[number]),
                member=bool(member[number]),
            )
        )
    sign = 1.0 if objectives[columns[0]] == "min" else -1.0
    return sorted(found, key=lambda row: sign * row.mean[columns[0]])
