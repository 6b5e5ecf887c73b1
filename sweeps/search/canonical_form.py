"""The `config_id` of many configurations that search the same fields, without a validation of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lagvae_core.config.trial import TrialConfig, config_id_of
from sweeps.spec.space import SECTIONS, Arm, Dimension, Value
from sweeps.storage.row_table import RowTable

__all__ = ["CanonicalForm"]

NUMBER = r"-?[0-9]{1,20}(?:\.[0-9]{1,30})?(?:e[-+]?[0-9]{1,2})?"
"""A finite number in JSON, as a regular expression of RE2."""

WORD = r'"[ -!#-\[\]-~]*"|true|false'
"""A text without escapes, or a truth value, in JSON."""


class CanonicalForm:
    """The canonical JSON of the configurations of an arm that search the same fields.

    Args:
        types: Type of the value of each searched field in the canonical JSON, by name, in the order of the parameters.
        order: The same names in the order of the canonical JSON.
        template: The canonical JSON, with "%s" in place of these values and "%%" in place of "%".
    """

    def __init__(self, types: Mapping[str, type], order: Sequence[str], template: str) -> None:
        self._types, self._order, self._template = types, order, template

    @classmethod
    def of(cls, config: TrialConfig, parameters: Mapping[str, Value]) -> CanonicalForm | None:
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
        order, text = sorted(marks, key=text.index), text.replace("%", "%%")
        for mark in order:
            text = text.replace(mark, "%s")
        return cls(types, [marks[mark] for mark in order], text)

    def compare(self, arm: Arm, keys: RowTable, fingerprint: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Compare the stored `config_id` of configurations with those of their stored parameters.

        Args:
            arm: The arm of the configurations.
            keys: The configurations, with the columns `config_id` and `parameters`.
            fingerprint: Fingerprint of the data.

        Returns:
            Masks [K] of the configurations whose parameters have this form, and of those among them whose parameters
            are a point of the arm with this `config_id`.
        """
        texts = keys.column("parameters").cast(pa.string()).fill_null("{}").combine_chunks()
        found = pc.extract_regex(texts, self._pattern())
        has_form_K = np.asarray(found.is_valid())
        of_form = keys.filter(has_form_K)
        columns = iter(found.drop_null().flatten())
        values = {name: _Values(kind, next(columns)) for name, kind in self._types.items()}
        has_id_F = _are_points(arm, values, len(of_form))
        written = [values[name].canonical() for name in self._order]
        canonical = map(self._template.__mod__, zip(*written, strict=True) if written else [()] * len(of_form))
        ids = (config_id_of(text, fingerprint) for text in canonical)
        is_own = (stored == own for stored, own in zip(of_form.values("config_id"), ids, strict=True))
        has_id_F &= np.fromiter(is_own, dtype=bool, count=len(of_form))
        has_id_K = np.zeros(len(keys), dtype=bool)
        has_id_K[has_form_K] = has_id_F
        return has_form_K, has_id_K

    def _pattern(self) -> str:
        """Return a regular expression of RE2 for stored parameters of this form, with one group per value."""
        items = [
            rf"{re.escape(json.dumps(name))}: (?P<value{number}>{NUMBER if kind in (int, float) else WORD})"
            for number, (name, kind) in enumerate(self._types.items())
        ]
        return rf"^\{{{', '.join(items)}(?P<end>\}})$"


class _Values:
    """The values of one searched field as JSON.

    Args:
        kind: Type of the values in the canonical JSON.
        texts: The values [F].
    """

    def __init__(self, kind: type, texts: pa.StringArray) -> None:
        self._kind, self._texts = kind, texts

    def numbers(self) -> NDArray[np.float64]:
        """Return the values [F], which must be numbers."""
        return np.asarray(self._texts.cast(pa.float64()))

    def satisfy(self, condition: Callable[[Value], bool]) -> NDArray[np.bool_]:
        """Return a mask [F] of the values that satisfy a condition, which is checked once for each different value."""
        encoded = self._texts.dictionary_encode()
        satisfied = np.array([condition(json.loads(text)) for text in encoded.dictionary.to_pylist()], dtype=bool)
        return np.asarray(satisfied[encoded.indices])

    def are_in(self, dimension: Dimension) -> NDArray[np.bool_]:
        """Return a mask [F] of the values that a dimension contains."""
        if dimension.tunable.choices:
            return self.satisfy(dimension.contains)
        return dimension.contains_each(self.numbers())

    def canonical(self) -> list[str]:
        """Return each value [F] as in the canonical JSON. An unusual way to write a number is kept."""
        if self._kind is not float:
            return list(self._texts.to_pylist())
        with_point = pc.binary_join_element_wise(self._texts, ".0", "")
        return list(pc.if_else(pc.match_substring_regex(self._texts, "[.e]"), self._texts, with_point).to_pylist())


def _are_points(arm: Arm, values: Mapping[str, _Values], count: int) -> NDArray[np.bool_]:
    """Return a mask [F] of the points of the arm (see `Arm.accepts`).

    Args:
        arm: The arm.
        values: Values of each searched field, by name. At least one of the points is accepted.
        count: Number of points.
    """
    is_point_F = np.ones(count, dtype=bool)
    for dimension in arm.dimensions:
        is_active_F = np.ones(count, dtype=bool)
        for name, allowed in dimension.when:
            is_active_F &= values[name].satisfy(allowed.__contains__) if name in values else False
        is_point_F &= is_active_F == (dimension.name in values)
        if dimension.name in values:
            is_point_F &= values[dimension.name].are_in(dimension)
    return is_point_F
