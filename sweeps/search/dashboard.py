"""The Optuna studies of a stored sweep, which follow its table while optuna-dashboard shows them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import optuna

from sweeps.search.arm_study import ArmStudy
from sweeps.search.plan import Configuration, Plan
from sweeps.spec.sections import COMPARED_COLUMNS
from sweeps.spec.sweep import SweepSpec

__all__ = ["LiveStudies"]

SHOWN = ("valid_nll_elbo", "valid_kl", "valid_mi", "valid_au")
"""Columns of the curves that are attributes of a trial whose runs are being trained."""

Curve = Sequence[Mapping[str, Any]]


class LiveStudies:
    """One Optuna study per arm, each configuration one trial, as for the driver (see `ArmStudy`).

    A configuration appears when its first run has a row, as a running trial, and gets its values once no run of it is
    due. Optuna cannot change a trial that has ended, so seeds that are added later do not change it. A study that is
    deleted or renamed in the dashboard no longer follows the table.

    While its runs are trained, their last epochs are attributes of the trial. If the sweep has one objective with a
    counterpart in the curves (`COMPARED_COLUMNS`), the mean of this counterpart over the runs whose epochs `update` has
    received is the intermediate value of the trial at an epoch. Optuna has no intermediate values for several
    objectives.

    Args:
        spec: The sweep.
        storage: Receives the studies.
    """

    def __init__(self, spec: SweepSpec, storage: optuna.storages.BaseStorage) -> None:
        self._storage = storage
        self._studies = {arm.name: ArmStudy(spec, arm, storage=storage) for arm in spec.arms}
        self._ended: set[tuple[str, int]] = set()
        self._curves: dict[tuple[str, int], dict[int, Curve]] = {}
        columns = [COMPARED_COLUMNS.get(objective) for objective in spec.objectives]
        self._compared = columns[0] if len(columns) == 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for arm_study in self._studies.values():
                arm_study.study.set_metric_names(list(spec.objectives))

    @property
    def names(self) -> list[str]:
        """Names of the studies, in the order of the arms."""
        return [arm_study.study.study_name for arm_study in self._studies.values()]

    def update(self, plan: Plan, curves: Mapping[str, Curve]) -> None:
        """Add what is new in the table.

        Args:
            plan: The stored rows of the same sweep.
            curves: Stored epochs of running runs, by `run_id`.
        """
        race, stored = plan.race, {study._study_id for study in self._storage.get_all_studies()}
        for key, configuration in sorted(plan.configurations.items(), key=lambda item: item[0][1]):
            arm_study = self._studies[configuration.arm]
            if key in self._ended or arm_study.study._study_id not in stored:
                continue
            if key in self._curves and arm_study.trial(configuration.index).state.is_finished():
                continue  # ended by hand in the dashboard
            if key not in self._curves:
                arm_study.enqueue(configuration)
                self._set_attributes(configuration, {"config_id": configuration.config_id})
                self._curves[key] = {}
            seeds = {seed: curves.get(configuration.run_id(seed)) for seed in plan.spec.seeds(arm_study.arm)}
            new = {seed: curve for seed, curve in seeds.items() if curve and curve != self._curves[key].get(seed)}
            if new:
                self._curves[key] |= new
                self._report(configuration, self._curves[key])
            if not plan.runs(arm_study.arm, configuration, race=race):
                arm_study.tell(configuration.index, list(plan.ended_rows(configuration).values()))
                self._ended.add(key)

    def _report(self, configuration: Configuration, curves: Mapping[int, Curve]) -> None:
        """Write the curves of the runs of a configuration, by seed."""
        for seed, curve in curves.items():
            values = {name: curve[-1][name] for name in ("epoch", *SHOWN)}
            self._set_attributes(configuration, {f"seed {seed}: {name}": value for name, value in values.items()})
        if self._compared is None:
            return
        by_epoch: dict[int, list[float]] = {}
        for curve in curves.values():
            for epoch in curve:
                if epoch[self._compared] is not None:
                    by_epoch.setdefault(epoch["epoch"], []).append(epoch[self._compared])
        trial_id = self._trial_id(configuration)
        for number, values_of_epoch in by_epoch.items():
            self._storage.set_trial_intermediate_value(trial_id, number, fmean(values_of_epoch))

    def _set_attributes(self, configuration: Configuration, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._trial_id(configuration), name, value)

    def _trial_id(self, configuration: Configuration) -> int:
        return self._studies[configuration.arm].trial(configuration.index)._trial_id
