"""Membership: which stored rows belong to the current sweep file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.config.trial import TrialConfig
from lagvae_core.errors import ConfigError
from sweeps.search.canonical_form import CanonicalForm
from sweeps.spec.space import Arm, Value
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.row_table import RowTable

__all__ = ["COLUMNS", "Membership"]

KEYS = ("arm", "configuration", "config_id", "parameters", "lagvae_version")
"""Columns that decide whether a configuration belongs to the sweep."""

COLUMNS = (*KEYS, "seed", "run_id")
"""Columns of a row that decide whether it belongs to the sweep."""

MANY_POINTS = 256
"""Number of points of an arm that are examined for forms. The configurations of other forms are validated."""


class Membership:
    """The configurations of a sweep that stored rows can belong to.

    Args:
        spec: The sweep.
        fingerprint: Fingerprint of the data, on which every `config_id` depends.
        earlier: The same of other rows, whose configurations are not validated again.

    Attributes:
        refused: The reasons why parameters do not give a valid trial, by `run_id` of the rows with these parameters.
    """

    def __init__(self, spec: SweepSpec, fingerprint: str, earlier: Membership | None = None) -> None:
        self.refused: dict[str, str] = {}
        self._spec, self._fingerprint = spec, fingerprint
        self._arms = {arm.name: arm for arm in spec.arms}
        self._counts = {arm.name: spec.configurations(arm) for arm in spec.arms}
        self._configs: dict[tuple[str, str], tuple[TrialConfig, str]] = {} if earlier is None else earlier._configs
        self._keys = RowTable.of([], KEYS)
        self._first_C = np.zeros(0, dtype=np.int64)

    def config(self, arm: Arm, parameters: Mapping[str, Value]) -> tuple[TrialConfig, str]:
        """Return the configuration of `arm` with the searched fields set to `parameters`, and its id.

        Raises:
            ConfigError: The trial with these parameters is invalid.
        """
        # `repr` distinguishes 1, 1.0 and True.
        key = arm.name, repr(sorted(parameters.items()))
        if key not in self._configs:
            config = self._spec.trial_config(arm, parameters, seed=0)
            self._configs[key] = config, config.config_id(self._fingerprint)
        return self._configs[key]

    def divide(self, rows: RowTable) -> NDArray[np.bool_]:
        """Return a mask [N] of the rows that belong to the sweep. Each configuration is examined once, not each run."""
        groups = rows.groups(*KEYS)
        self._keys = keys = rows.select(KEYS).take(groups.first_G)
        is_planned_G, has_seed_N = np.zeros(len(keys), dtype=bool), np.zeros(len(rows), dtype=bool)
        index_G, seed_N = keys.ints("configuration"), rows.ints("seed")
        for arm in self._spec.arms:
            is_planned_G |= keys.equals("arm", arm.name) & (index_G >= 0) & (index_G < self._counts[arm.name])
            has_seed_N |= rows.equals("arm", arm.name) & np.isin(seed_N, self._spec.seeds(arm))
        has_id_G = self._have_usual_ids(keys, is_planned_G)
        reasons: dict[int, str] = {}
        others_K = np.flatnonzero(is_planned_G & ~has_id_G)
        for number, key in zip(others_K.tolist(), keys.take(others_K), strict=True):
            try:
                has_id_G[number] = self._has_id(key)
            except ConfigError as error:
                reasons[number] = str(error.issues[0])
        if reasons:
            of_rows = zip(rows.values("run_id"), groups.codes_N.tolist(), strict=True)
            self.refused = {run_id: reasons[number] for run_id, number in of_rows if number in reasons}
        # The first configuration with an index has it.
        member_K = np.flatnonzero(has_id_G)
        indices = keys.take(member_K).groups("arm", "configuration")
        self._first_C = member_K[indices.first_G]
        config_G = keys.codes("config_id")[0]
        has_id_G[member_K] = config_G[member_K] == config_G[self._first_C][indices.codes_N]
        return has_id_G[groups.codes_N] & has_seed_N

    def members(self) -> Iterator[tuple[Arm, int, dict[str, Value]]]:
        """Yield arm, index and parameters of each configuration that `divide` has found to belong to the sweep."""
        firsts = self._keys.take(self._first_C)
        for name, arm in self._arms.items():
            of_arm = firsts.filter(firsts.equals("arm", name))
            for index, text in zip(of_arm.values("configuration"), of_arm.values("parameters"), strict=True):
                yield arm, index, json.loads(text or "{}")

    def _have_usual_ids(self, keys: RowTable, is_planned_G: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask [G] of the keys that are certain to have the `config_id` of their parameters.

        These are configurations that this version of lagvae has trained, which therefore are valid, with parameters in
        their usual form. Compared as columns and without a validation, they take a twentieth of the time of others.
        """
        has_id_G = np.zeros(len(keys), dtype=bool)
        is_known_G = is_planned_G & keys.equals("lagvae_version", version("lagvae"))
        for arm in self._spec.arms:
            left_K = np.flatnonzero(is_known_G & keys.equals("arm", arm.name))
            for form in self._forms(arm) if len(left_K) else ():
                matches_K, has_id_G[left_K] = form.compare(arm, keys.take(left_K), self._fingerprint)
                left_K = left_K[~matches_K]
        return has_id_G

    def _forms(self, arm: Arm) -> Iterator[CanonicalForm]:
        """Yield the forms of the configurations of an arm, which differ in the fields that exist and their types."""
        known: set[tuple[Any, ...]] = set()
        for point in arm.probes(MANY_POINTS):
            signature = tuple((name, float if type(value) is int else type(value)) for name, value in point.items())
            if signature in known:
                continue
            known.add(signature)
            with contextlib.suppress(ConfigError):  # a sweep file of another version
                form = CanonicalForm.of(self.config(arm, point)[0], point)
                if form is not None:
                    yield form

    def _has_id(self, key: Mapping[str, Any]) -> bool:
        """Return whether the `config_id` of a key is that of its parameters.

        Raises:
            ConfigError: The trial with these parameters is invalid.
        """
        arm = self._arms[key["arm"]]
        parameters = self._parameters(arm, key["parameters"])
        return parameters is not None and self.config(arm, parameters)[1] == key["config_id"]

    def _parameters(self, arm: Arm, text: str | None) -> dict[str, Value] | None:
        """Return stored parameters; None if they are not a point of the arm."""
        try:
            parameters = dict(json.loads(text or "{}"))
        except (TypeError, ValueError):
            return None
        return parameters if arm.accepts(parameters) else None
