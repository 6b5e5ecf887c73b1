"""Plan: the runs of a sweep that are still missing, given the stored rows."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.config.trial import TrialConfig, format_run_id
from lagvae_core.errors import ConfigError
from sweeps.search.membership import COLUMNS, Membership
from sweeps.search.racing import SeedRace
from sweeps.spec.space import Arm, Value, value_of
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.row_table import RowTable
from sweeps.storage.schema import ENDED

__all__ = ["ArmPlan", "Configuration", "Plan", "Run", "StoredRun", "Value"]


@dataclass(frozen=True)
class Run:
    """One run to train: a configuration with one seed.

    Args:
        arm: Name of the arm.
        configuration: Index of the configuration within its arm.
        parameters: Values of the searched fields, by name (`kind.field` or `section.field`).
        config: The full configuration, including the seed.
        config_id: Id of the configuration, the same for all its seeds.
        seed: Seed of the run.
        stored: Row of the previous attempt; None if this is the first attempt.
        alone: Whether the run must not share its node or GPU, because an earlier attempt ran out of memory.
    """

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
        """Id of the run in the table."""
        return format_run_id(self.config_id, self.seed)

    def is_repeated_after(self, row: Mapping[str, Any]) -> bool:
        """Return whether the run, which ended with `row`, is repeated: it ran out of memory for the first time."""
        return row["status"] == "out_of_memory" and not self.alone

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return 1 if self.stored is None else int(self.stored["attempt"]) + 1


@dataclass(frozen=True)
class Configuration:
    """One point of an arm's space.

    Args:
        arm: Name of the arm.
        index: Number of the point within its arm, counting from 0 in the order in which points are chosen.
        parameters: Values of the searched fields, by name (`kind.field` or `section.field`).
        config: The full configuration with seed 0.
        config_id: Id of the configuration, the same for all its seeds.
    """

    arm: str
    index: int
    parameters: Mapping[str, Value]
    config: TrialConfig
    config_id: str

    def run_id(self, seed: int) -> str:
        """Return the `run_id` of this configuration with `seed`."""
        return format_run_id(self.config_id, seed)


@dataclass(frozen=True)
class StoredRun:
    """A run of the sweep that has a stored curve.

    Args:
        run: The run.
        row: Its stored row.
        curve: Its stored epochs, at least one, in order.
    """

    run: Run
    row: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ArmPlan:
    """Numbers of configurations and runs of one arm.

    Args:
        arm: Name of the arm.
        configurations: Number of its configurations.
        runs: Number of its runs; with racing over seeds, the number that is still possible.
        ended: Number of runs that have ended (see `Plan.has_ended`).
        resumed: Number of runs that have a row, but have not ended.
        mean_seconds: Mean duration of its finished runs [s]; None if no run has finished.
    """

    arm: str
    configurations: int
    runs: int
    ended: int
    resumed: int
    mean_seconds: float | None

    @property
    def missing(self) -> int:
        """Number of runs that have not ended."""
        return self.runs - self.ended

    @property
    def kept(self) -> int:
        """Number of runs that have a row."""
        return self.ended + self.resumed

    @property
    def new(self) -> int:
        """Number of runs that have no row."""
        return self.runs - self.kept


class Plan:
    """The stored rows of a sweep, and the runs that are still missing.

    A row belongs to the current sweep file if the file contains its arm and seed, the index of its configuration is
    within the budget, its parameters are within the ranges, and its `config_id` equals that of the configuration with
    these parameters. The plan ignores all other rows, which stay in the table. Among them are rows whose parameters no
    longer give a valid trial, for example because a later version refuses a value.

    Args:
        spec: The sweep.
        fingerprint: Fingerprint of the data, on which every `config_id` depends.
        rows: The stored rows, in the order of the table.
        retry: Whether runs that failed or ran out of memory are repeated.
        earlier: A plan of the same sweep and data with other rows, whose configurations are not validated again.

    Attributes:
        is_current_N: Mask of the rows that belong to the sweep.
        refused: The reasons why the parameters of some of the others do not give a valid trial, by `run_id`.
    """

    def __init__(
        self,
        spec: SweepSpec,
        fingerprint: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        retry: bool = False,
        earlier: Plan | None = None,
    ) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self._stored = rows
        self._retry = retry
        self._arms = {arm.name: arm for arm in spec.arms}
        known: Membership | None = None
        if earlier is not None and earlier.spec is spec and earlier.fingerprint == fingerprint:
            known = earlier._membership
        self._membership: Membership = Membership(spec, fingerprint, known)
        self.is_current_N = self._membership.divide(RowTable.of(rows, COLUMNS))
        self.refused: Mapping[str, str] = self._membership.refused

    @property
    def current(self) -> RowTable:
        """The rows that belong to the sweep."""
        return self.stored.filter(self.is_current_N)

    @property
    def stored(self) -> RowTable:
        """All stored rows."""
        return RowTable.of(self._stored)

    @functools.cached_property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows that belong to the sweep as mappings, by `run_id`."""
        return {row["run_id"]: row for row in self._mappings(self.is_current_N)}

    @functools.cached_property
    def others(self) -> list[Mapping[str, Any]]:
        """The rows that do not belong to the sweep as mappings."""
        return list(self._mappings(~self.is_current_N))

    @property
    def earlier_runs(self) -> int:
        """Number of rows that do not belong to the sweep."""
        return int(np.count_nonzero(~self.is_current_N))

    @functools.cached_property
    def configurations(self) -> Mapping[tuple[str, int], Configuration]:
        """The configurations found in the rows, by arm and index, whatever the seeds of the rows."""
        members = self._membership.members()
        return {(arm.name, index): self.configuration(arm, index, parameters) for arm, index, parameters in members}

    def configuration(self, arm: Arm, index: int, parameters: Mapping[str, Value]) -> Configuration:
        """Return configuration number `index` of `arm`, with the searched fields set to `parameters`.

        Raises:
            ConfigError: The trial with these parameters is invalid.
        """
        return Configuration(arm.name, index, parameters, *self._membership.config(arm, parameters))

    def order(self) -> Iterator[tuple[Arm, int]]:
        """Yield the arm and the index of every configuration: index 0 of each arm, then index 1, and so on.

        In this order, an interrupted sweep has covered its arms evenly.
        """
        counts = {arm.name: self.spec.configurations(arm) for arm in self.spec.arms}
        for index in range(max(counts.values(), default=0)):
            for arm in self.spec.arms:
                if index < counts[arm.name]:
                    yield arm, index

    def has_ended(self, row: Mapping[str, Any]) -> bool:
        """Return whether the run of `row` has ended and is not to be repeated.

        A run that ran out of memory for the first time is repeated once, alone. If the plan was made with `retry`,
        runs that failed or ran out of memory are repeated.
        """
        if row["status"] == "out_of_memory":
            ran_alone = any(entry["status"] == "out_of_memory" for entry in json.loads(row["history"] or "[]"))
            return ran_alone and not self._retry
        return row["status"] in ENDED and not (self._retry and row["status"] == "failed")

    def ended_rows(self, configuration: Configuration) -> dict[int, Mapping[str, Any]]:
        """Return the stored rows of the ended runs of a configuration, by seed."""
        seeds = self.spec.seeds(self._arms[configuration.arm])
        rows = {seed: self.rows.get(configuration.run_id(seed)) for seed in seeds}
        return {seed: row for seed, row in rows.items() if row is not None and self.has_ended(row)}

    @property
    def race(self) -> SeedRace:
        """A new race over seeds, with the stored rows of the ended runs."""
        return SeedRace(self.spec.objectives, filter(self.has_ended, self.rows.values()))

    def dropped_out(self) -> set[str]:
        """Return the ids of the configurations that were out of the race over seeds when their last run ended.

        A further seed follows at once if it is due, so a configuration can be in the race again only because of runs of
        others that ended later.
        """
        # Only rows that others have edited have no time.
        ended = [row for row in self.rows.values() if self.has_ended(row)]
        ended.sort(key=lambda row: (row["ended_at"] is not None, row["ended_at"]))
        last = {row["config_id"]: row["run_id"] for row in ended}
        race, out = SeedRace(self.spec.objectives), set()
        for row in ended:
            race.add(row)
            if last[row["config_id"]] == row["run_id"] and race.is_out(row["config_id"]):
                out.add(row["config_id"])
        return out

    def runs(
        self,
        arm: Arm,
        configuration: Configuration,
        ended: Container[int] | None = None,
        race: SeedRace | None = None,
    ) -> list[Run]:
        """Return the runs of a configuration that are due, in the order of the seeds; none if it is complete.

        These are the seeds that every configuration gets, and those whose runs have started before. Once they have
        ended, it is one further seed at a time, until the configuration is out of the race.

        Args:
            arm: The arm of the configuration.
            configuration: The configuration.
            ended: Its seeds whose runs have ended; None for the stored ones.
            race: The race over seeds, with all runs that have ended; None for the stored ones.
        """
        ended = self.ended_rows(configuration) if ended is None else ended
        required = self.required_runs(arm, configuration, ended)
        further = [seed for seed in self.spec.seeds(arm) if seed not in ended][:1]
        if required or not further or (race or self.race).is_out(configuration.config_id):
            return required
        return [self.run(configuration, seed) for seed in further]

    def required_runs(self, arm: Arm, configuration: Configuration, ended: Container[int]) -> list[Run]:
        """Return the runs of a configuration that are due whether or not it is in the race over seeds (see `runs`)."""
        seeds = self.spec.seeds(arm)
        start = seeds[: self.spec.start_seeds(arm)]
        started = {seed for seed in seeds if configuration.run_id(seed) in self.rows}
        return [self.run(configuration, seed) for seed in seeds if seed not in ended and seed in {*start, *started}]

    def run(self, configuration: Configuration, seed: int) -> Run:
        """Return the run of a configuration with `seed`."""
        stored = self.rows.get(configuration.run_id(seed))
        return Run(
            arm=configuration.arm,
            configuration=configuration.index,
            parameters=configuration.parameters,
            config=configuration.config.model_copy(update={"seed": seed}),
            config_id=configuration.config_id,
            seed=seed,
            stored=stored,
            alone=stored is not None and stored["status"] == "out_of_memory",
        )

    def stored_runs(self, curves: Iterable[Mapping[str, Any]]) -> Iterator[StoredRun]:
        """Yield the runs that have a row of the sweep and a curve, whatever their status.

        Args:
            curves: The stored epochs, sorted by run and epoch.
        """
        for run_id, epochs in itertools.groupby(curves, key=lambda epoch: str(epoch["run_id"])):
            row = self.rows.get(run_id)
            if row is not None:
                configuration = self.configurations[row["arm"], row["configuration"]]
                yield StoredRun(self.run(configuration, row["seed"]), row, list(epochs))

    def arms(self) -> list[ArmPlan]:
        """Return the counts of every arm, in the order of the sweep file."""
        race = self.race
        plans = []
        for arm in self.spec.arms:
            rows = [row for row in self.rows.values() if row["arm"] == arm.name]
            ended = [row for row in rows if self.has_ended(row)]
            seconds = [row["seconds"] for row in ended if row["status"] == "finished" and row["seconds"] is not None]
            count = self._count(arm)
            mean = sum(seconds) / len(seconds) if seconds else None
            runs = count * len(self.spec.seeds(arm)) - self._saved_runs(arm, race)
            plans.append(ArmPlan(arm.name, count, runs, len(ended), len(rows) - len(ended), mean))
        return plans

    @property
    def missing(self) -> int:
        """Number of runs that have not ended."""
        return sum(arm.missing for arm in self.arms())

    def _saved_runs(self, arm: Arm, race: SeedRace) -> int:
        """Return the number of seeds that configurations of `arm` do not get, because they are out of the race."""
        saved = 0
        for configuration in self.configurations.values():
            ended = self.ended_rows(configuration) if configuration.arm == arm.name else None
            if ended is not None and not self.runs(arm, configuration, ended, race):
                saved += len(self.spec.seeds(arm)) - len(ended)
        return saved

    def _mappings(self, mask_N: NDArray[np.bool_]) -> Iterator[Mapping[str, Any]]:
        rows = self._stored
        yield from rows.filter(mask_N) if isinstance(rows, RowTable) else itertools.compress(rows, mask_N)

    def _count(self, arm: Arm) -> int:
        """Return how many configurations `arm` will have. Points that another arm already covers are not run twice."""
        count, size = self.spec.configurations(arm), arm.size()
        if size is None or not arm.dimensions:
            return count
        foreign = {c.config_id: c.config for c in self.configurations.values() if c.arm != arm.name}
        for fixed in self.spec.arms:
            if not fixed.dimensions:
                configuration = self.configuration(fixed, 0, {})
                foreign[configuration.config_id] = configuration.config
        if size >= count + len(foreign):
            return count
        shared = sum(self._has_point(arm, config_id, config) for config_id, config in foreign.items())
        return min(count, size - shared)

    def _has_point(self, arm: Arm, config_id: str, config: TrialConfig) -> bool:
        """Return whether a configuration of another arm is a point of `arm`, whose space is finite."""
        if [strategy.kind for strategy in config.strategies] != [item["kind"] for item in arm.stack]:
            return False
        values: list[Sequence[Value]] = []
        for dimension in arm.dimensions:
            value = value_of(config, dimension.name)
            # A choice may be written differently from the value that it gives, such as "1" and 1.
            near = [choice for choice in dimension.tunable.choices if choice == value or str(choice) == str(value)]
            own = [value] * (dimension.contains(value) or bool(dimension.when))
            values.append(near or dimension.tunable.choices or own)
        names = [dimension.name for dimension in arm.dimensions]
        points = (arm.active(dict(zip(names, point, strict=True))) for point in itertools.product(*values))
        return any(self._config_id(arm, point) == config_id for point in points)

    def _config_id(self, arm: Arm, point: Mapping[str, Value]) -> str | None:
        """Return the `config_id` at a point; None if the trial is invalid there."""
        try:
            return self.configuration(arm, 0, point).config_id if arm.accepts(point) else None
        except ConfigError:
            return None
