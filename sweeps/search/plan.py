"""A sweep file and what is already stored, made into what must run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lagvae_core.config.trial import TrialConfig
from sweeps.spec.space import Arm, Value
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.schema import ENDED

__all__ = ["ArmPlan", "Configuration", "Plan", "Run", "Value"]


@dataclass(frozen=True)
class Run:
    """One training to be done: a configuration under one seed. `stored` is the row of an earlier attempt, if any."""

    arm: str
    configuration: int
    parameters: Mapping[str, Value]
    config: TrialConfig
    config_id: str
    seed: int
    stored: Mapping[str, Any] | None = None
    alone: bool = False

    @property
    def run_id(self) -> str:
        return f"{self.config_id}-{self.seed}"

    @property
    def attempt(self) -> int:
        return 1 if self.stored is None else int(self.stored["attempt"]) + 1


@dataclass(frozen=True)
class Configuration:
    """One point of an arm's space, number `index` in the order in which the arm's points were chosen."""

    arm: str
    index: int
    parameters: Mapping[str, Value]
    config_id: str


@dataclass(frozen=True)
class ArmPlan:
    """What an arm still needs: counts of runs, and the mean seconds of those that are finished."""

    arm: str
    configurations: int
    runs: int
    ended: int
    resumed: int
    mean_seconds: float | None

    @property
    def missing(self) -> int:
        return self.runs - self.ended


class Plan:
    """The stored rows, sorted into those of the sweep's own configurations and the rest.

    A row belongs to the sweep as the file now stands if its arm and seed exist, its configuration's number is within
    the budget, its parameters lie within the ranges and its identity is that of the resulting configuration. Rows that
    do not (`others`) stay in the table, but count for nothing here. With `retry`, failed runs and those out of memory
    have not ended.
    """

    def __init__(
        self, spec: SweepSpec, fingerprint: str, rows: Sequence[Mapping[str, Any]], *, retry: bool = False
    ) -> None:
        self.spec = spec
        self._retry = retry
        self.fingerprint = fingerprint
        self.configurations: dict[tuple[str, int], Configuration] = {}
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.others: list[Mapping[str, Any]] = []
        arms = {arm.name: arm for arm in spec.arms}
        for row in rows:
            known = self._adopt(row, arms.get(row["arm"]))
            if known is not None:
                self.configurations[known.arm, known.index] = known
            if known is not None and row["seed"] in spec.search.run_seeds:
                self.rows[row["run_id"]] = row
            else:
                self.others.append(row)

    def _adopt(self, row: Mapping[str, Any], arm: Arm | None) -> Configuration | None:
        index = row["configuration"]
        if arm is None or index is None or index >= self.spec.configurations(arm):
            return None
        try:
            parameters = dict(json.loads(row["parameters"] or "{}"))
        except (TypeError, ValueError):
            return None
        dimensions = {dimension.name: dimension for dimension in arm.dimensions}
        if set(parameters) != set(dimensions):
            return None
        if not all(dimensions[name].holds(value) for name, value in parameters.items()):
            return None
        found = self.configuration(arm, index, parameters)
        present = self.configurations.get((arm.name, index), found)
        return found if found.config_id == row["config_id"] == present.config_id else None

    def configuration(self, arm: Arm, index: int, parameters: Mapping[str, Value]) -> Configuration:
        config = self.spec.trial_config(arm, parameters, seed=0)
        return Configuration(arm.name, index, parameters, config.config_id(self.fingerprint))

    def order(self) -> Iterator[tuple[Arm, int]]:
        """Arms in turn: configuration 0 of each, then 1, so that a sweep cut short is fair to all."""
        counts = {arm.name: self.spec.configurations(arm) for arm in self.spec.arms}
        for index in range(max(counts.values(), default=0)):
            for arm in self.spec.arms:
                if index < counts[arm.name]:
                    yield arm, index

    def ended(self, row: Mapping[str, Any]) -> bool:
        """Whether the run of `row` is over. A first lack of memory is not the end: it is tried once more, alone."""
        if row["status"] == "out_of_memory":
            alone_before = any(entry["status"] == "out_of_memory" for entry in json.loads(row["history"] or "[]"))
            return alone_before and not self._retry
        return row["status"] in ENDED and not (self._retry and row["status"] == "failed")

    def runs(self, arm: Arm, configuration: Configuration) -> list[Run]:
        """The runs of a configuration that have not ended, in the order of the seeds."""
        found = []
        for seed in self.spec.search.run_seeds:
            config = self.spec.trial_config(arm, configuration.parameters, seed)
            run_id = f"{configuration.config_id}-{seed}"
            stored = self.rows.get(run_id)
            if stored is None or not self.ended(stored):
                found.append(
                    Run(
                        arm.name,
                        configuration.index,
                        configuration.parameters,
                        config,
                        configuration.config_id,
                        seed,
                        stored,
                        alone=stored is not None and stored["status"] == "out_of_memory",
                    )
                )
        return found

    def arms(self) -> list[ArmPlan]:
        """The plan, arm by arm."""
        seeds = self.spec.search.run_seeds
        found = []
        for arm in self.spec.arms:
            rows = [row for row in self.rows.values() if row["arm"] == arm.name]
            ended = [row for row in rows if self.ended(row)]
            seconds = [row["seconds"] for row in ended if row["status"] == "finished" and row["seconds"] is not None]
            count = self._count(arm)
            mean = sum(seconds) / len(seconds) if seconds else None
            found.append(ArmPlan(arm.name, count, count * len(seeds), len(ended), len(rows) - len(ended), mean))
        return found

    def _count(self, arm: Arm) -> int:
        """How many configurations `arm` has in the end: a point that another arm has is not run twice."""
        count, size = self.spec.configurations(arm), arm.size()
        if size is None or not arm.dimensions:
            return count
        foreign = {c.config_id for c in self.configurations.values() if c.arm != arm.name}
        foreign |= {self.configuration(fixed, 0, {}).config_id for fixed in self.spec.arms if not fixed.dimensions}
        if size >= count + len(foreign):
            return count
        points = (self.configuration(arm, number, arm.point(number)) for number in range(size))
        return min(count, sum(point.config_id not in foreign for point in points))

    @property
    def missing(self) -> int:
        return sum(arm.missing for arm in self.arms())
