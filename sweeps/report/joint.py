"""The comparison of several sweeps in one report: their common front, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeps.analysis.front import front_of
from sweeps.analysis.ranking import front_probabilities
from sweeps.report.content import SweepContent
from sweeps.spec.yaml import dotted_items, load_yaml
from sweeps.storage.row_table import RowTable

__all__ = ["Joint", "join"]


@dataclass(frozen=True)
class Joint:
    """Several sweeps compared.

    Args:
        content: The configurations of all sweeps in the space of the objectives of the first one, with arms named
            "sweep: arm"; None if their values are not comparable.
        reasons: Why they are not comparable.
        differences: Values that differ between the sweep files, by dotted key, as JSON; "" where a file lacks the key.
    """

    content: SweepContent | None
    reasons: Sequence[str]
    differences: Mapping[str, Sequence[str]]


def join(contents: Sequence[SweepContent]) -> Joint:
    """Compare sweeps.

    Values are comparable if the sweeps have the same data, by their content, and the same settings of the evaluation.

    Args:
        contents: At least two sweeps, read with the same objectives.
    """
    reasons = list(_reasons(contents))
    return Joint(None if reasons else _common(contents), reasons, _differences(contents))


def _reasons(contents: Sequence[SweepContent]) -> Iterator[str]:
    first, *others = contents
    for other in others:
        names = f"{first.spec.name} and {other.spec.name}"
        if first.provenance.fingerprint != other.provenance.fingerprint:
            yield f"{names} have different data, so their likelihoods are not comparable."
        elif first.spec.defaults.evaluation != other.spec.defaults.evaluation:
            yield f"{names} were measured with different settings of the evaluation."


def _common(contents: Sequence[SweepContent]) -> SweepContent:
    """Return the first sweep with the runs of all sweeps. A run that several sweeps have counts in each of them."""
    rows: list[dict[str, Any]] = []
    arms = []
    for content in contents:
        name = content.spec.name
        arms += [replace(arm, name=f"{name}: {arm.name}") for arm in content.spec.arms]
        rows += [
            {**row, "arm": f"{name}: {row['arm']}", "config_id": f"{name}: {row['config_id']}"} for row in content.rows
        ]
    table, axes = RowTable.of(rows), contents[0].axes
    front = front_of(table, axes)
    return replace(
        contents[0],
        spec=replace(contents[0].spec, arms=tuple(arms)),
        rows=table,
        configurations=list(front),
        probabilities=front_probabilities(front, table, axes),
    )


def _differences(contents: Sequence[SweepContent]) -> dict[str, list[str]]:
    """Return the values of the sweep files that differ, by dotted key, and the data if they differ."""
    files = [load_yaml(content.spec.source) for content in contents]
    flat = [
        {key: json.dumps(value, default=str) for key, value in dotted_items(file) if key != "name"} for file in files
    ]
    keys = dict.fromkeys(key for values in flat for key in values)
    found = {key: [values.get(key, "") for values in flat] for key in keys}
    found["data (SHA-256)"] = [content.provenance.fingerprint[:12] for content in contents]
    return {key: values for key, values in found.items() if len(set(values)) > 1}
