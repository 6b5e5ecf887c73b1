"""Racing over seeds: a configuration gets further seeds only while it may belong to the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sweeps.search.dominance import CONFIDENCE, Sample, find_dominating
from sweeps.spec.sections import Direction

__all__ = ["SeedRace"]


class SeedRace:
    """The ended runs of a sweep, by which configurations drop out of the race for further seeds.

    Args:
        objectives: Direction of improvement of each objective, by column.
        rows: Rows of ended runs.
    """

    def __init__(self, objectives: Mapping[str, Direction], rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._columns = tuple(objectives)
        self._signs_D = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
        self._finished: dict[str, dict[int, Mapping[str, Any]]] = {}
        self._samples: dict[str, Sample | None] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the final row of a run, replacing an earlier one of the same run."""
        self._samples.pop(row["config_id"], None)
        runs = self._finished.setdefault(row["config_id"], {})
        runs.pop(row["seed"], None)
        if row["status"] == "finished":
            runs[row["seed"]] = row

    def is_out(self, config_id: str) -> bool:
        """Return whether a configuration with ended runs gets no further seeds.

        Either none of its runs has finished, or another configuration dominates it beyond the error between seeds (see
        `find_dominating`). A configuration on the front is never out, and neither is one whose objectives are not
        measured, such as that of a language model without a latent variable: it cannot be compared.
        """
        if not self._finished.get(config_id):
            return True
        own = self._sample(config_id)
        if own is None:
            return False
        # In the order of ids and seeds, because the order of a sum can change its last digits.
        others = (self._sample(other) for other in sorted(self._finished) if other != config_id)
        return find_dominating(own, [other for other in others if other is not None], CONFIDENCE) is not None

    def _sample(self, config_id: str) -> Sample | None:
        """Return the values of the runs that measured every objective; None if there are none."""
        if config_id not in self._samples:
            rows = [row for _, row in sorted(self._finished[config_id].items())]
            values = [[row[column] for column in self._columns] for row in rows]
            finite = [v for v in values if all(x is not None and math.isfinite(x) for x in v)]
            values_ND = np.asarray(finite, dtype=np.float64)
            self._samples[config_id] = Sample(config_id, values_ND * self._signs_D) if finite else None
        return self._samples[config_id]
