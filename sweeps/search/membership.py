"""Membership: which stored rows belong to the current sweep file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lagvae_core.config.trial import TrialConfig, config_id_of
from lagvae_core.errors import ConfigError
from sweeps.spec.space import SECTIONS, Arm, Value
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.row_table import RowTable

__all__ = ["COLUMNS", "Membership"]

KEYS = ("arm", "configuration", "config_id", "parameters", "lagvae_version")
"""Columns that decide whether a configuration belongs to the sweep."""

COLUMNS = (*KEYS, "seed", "run_id")
"""Columns of a row that decide whether it belongs to the sweep."""

KEYS_AT_ONCE = 10_000
"""Number of configurations that are converted to Python objects at once, which limits the memory."""


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
        self._members: dict[str, dict[int, int]] = {arm.name: {} for arm in spec.arms}
        self._forms: dict[tuple[str, ...], _CanonicalForm | None] = {}

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
        self._keys = rows.select(KEYS).take(groups.first_G)
        reasons: dict[int, str] = {}
        is_member_G = np.array(list(self._are_members(reasons)), dtype=bool)
        for number, reason in reasons.items():
            run_ids = rows.filter(groups.codes_N == number).values("run_id")
            self.refused |= dict.fromkeys(run_ids, reason)
        seed_N = rows.ints("seed")
        has_seed_N = np.zeros(len(rows), dtype=bool)
        for arm in self._spec.arms:
            has_seed_N |= rows.equals("arm", arm.name) & np.isin(seed_N, self._spec.seeds(arm))
        return is_member_G[groups.codes_N] & has_seed_N if len(rows) else has_seed_N

    def members(self) -> Iterator[tuple[Arm, int, dict[str, Value]]]:
        """Yield arm, index and parameters of each configuration that `divide` has found to belong to the sweep."""
        for name, numbers in self._members.items():
            texts = self._keys.take(np.array(list(numbers.values()), dtype=np.int64)).values("parameters")
            for index, text in zip(numbers, texts, strict=True):
                yield self._arms[name], index, json.loads(text or "{}")

    def _are_members(self, reasons: dict[int, str]) -> Iterator[bool]:
        """Yield for each configuration whether it belongs to the sweep, and add why its parameters are refused."""
        this_version = version("lagvae")
        config_codes = self._keys.codes("config_id")[0]
        for number, (name, index, config_id, text, trained_by) in enumerate(self._each_key()):
            arm = self._arms.get(name)
            parameters = None if arm is None else self._parameters(arm, index, text)
            if arm is None or parameters is None:
                yield False
                continue
            try:
                is_member = self._is_id(config_id, arm, parameters, known=trained_by == this_version)
            except ConfigError as error:
                reasons[number] = str(error.issues[0])
                is_member = False
            if is_member:
                first = self._members[name].setdefault(index, number)
                is_member = first == number or bool(config_codes[first] == config_codes[number])
            yield is_member

    def _each_key(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(self._keys), KEYS_AT_ONCE):
            part = self._keys[start : start + KEYS_AT_ONCE]
            yield from zip(*(part.values(name) for name in KEYS), strict=True)

    def _parameters(self, arm: Arm, index: int | None, text: str | None) -> dict[str, Value] | None:
        """Return the stored parameters of configuration number `index`; None if they are not a point of the arm."""
        if index is None or not 0 <= index < self._counts[arm.name]:
            return None
        try:
            parameters = dict(json.loads(text or "{}"))
        except (TypeError, ValueError):
            return None
        return parameters if arm.accepts(parameters) else None

    def _is_id(self, config_id: str, arm: Arm, parameters: Mapping[str, Value], *, known: bool) -> bool:
        """Return whether a `config_id` is that of a configuration.

        Args:
            config_id: The id.
            arm: The arm of the configuration.
            parameters: Values of its searched fields.
            known: Whether this version of lagvae has trained it. It is then valid, so that its id alone, which takes a
                fortieth of the time of a validation, decides.

        Raises:
            ConfigError: The trial with these parameters is invalid.
        """
        if known:
            key = arm.name, *sorted(parameters)
            if key not in self._forms:
                self._forms[key] = _CanonicalForm.of(self.config(arm, parameters)[0], parameters)
            form = self._forms[key]
            if form is not None and config_id_of(form.with_values(parameters), self._fingerprint) == config_id:
                return True
        return self.config(arm, parameters)[1] == config_id


class _CanonicalForm:
    """The canonical JSON of the configurations of an arm that search the same fields.

    Args:
        types: Type of the value of each searched field in the JSON, by name, in the order of these values in the text.
        texts: The text before, between and after these values.
    """

    def __init__(self, types: Mapping[str, type], texts: Sequence[str]) -> None:
        self._types, self._texts = types, texts

    @classmethod
    def of(cls, config: TrialConfig, parameters: Mapping[str, Value]) -> _CanonicalForm | None:
        """Return the form of a configuration; None if a searched field does not occur with its value."""
        values = json.loads(config.canonical())
        types = {}
        for name, value in parameters.items():
            section, key = name.split(".", 1)
            place = values.get(section)
            if section not in SECTIONS:
                place = next((strategy for strategy in values["strategies"] if strategy["kind"] == section), None)
            if not isinstance(place, dict) or key not in place or place[key] != value:
                return None
            types[name] = type(place[key])
            place[key] = f"\0{name}"
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        marks = {json.dumps(f"\0{name}"): name for name in types}
        names, texts = sorted(marks, key=text.index), []
        for mark in names:
            before, _, text = text.partition(mark)
            texts.append(before)
        return cls({marks[mark]: types[marks[mark]] for mark in names}, [*texts, text])

    def with_values(self, parameters: Mapping[str, Value]) -> str:
        """Return the canonical JSON with the values of the searched fields."""
        parts = [self._texts[0]]
        for (name, kind), text in zip(self._types.items(), self._texts[1:], strict=True):
            value = parameters[name]
            # A range of whole numbers may belong to a field of any numbers, and `repr` is as in JSON.
            is_number = kind in (int, float) and isinstance(value, int | float)
            parts += (repr(kind(value)) if is_number else json.dumps(value), text)
        return "".join(parts)
