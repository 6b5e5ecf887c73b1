"""The catalogue of strategies: what each does, its paper, slots, fields and what it cannot be stacked with."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import Tunable, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from sweeps.catalogue.fields import describe_docstring, describe_fields
from sweeps.formatting import format_value, table

__all__ = ["HEADING", "catalogue_page", "conflicts_of", "describe_strategy", "grouped_conflicts", "range_text"]

HEADING = "## The catalogue\n"


def describe_strategy(strategy: type[Strategy]) -> dict[str, Any]:
    """A strategy as plain data: everything that catalogue, help and documentation say of it."""
    ranges = {name: tunable for name, _, tunable in tunables(strategy)}
    fields = [
        field | {"search": _range(ranges[field["name"]]) if field["name"] in ranges else None}
        for field in describe_fields(strategy)
    ]
    return {
        "kind": strategy.name(),
        **describe_docstring(strategy),
        "paper": strategy.paper,
        "slots": sorted(strategy.slots),
        "fields": fields,
        "columns": [{"name": column.name, "doc": column.doc} for column in strategy.columns],
        "unmeasured": sorted(strategy.unmeasured),
        "conflicts": conflicts_of(strategy.name()),
    }


@functools.cache
def _refused_pairs() -> dict[str, dict[str, str]]:
    """Each kind to the kinds that it is refused with at its defaults, and why; found by asking for every pair."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in CATALOGUE}
    kinds = list(CATALOGUE)
    for number, one in enumerate(kinds):
        for other in kinds[number + 1 :]:
            reason = _incompatibility(one, other)
            if reason:
                found[one][other] = found[other][one] = reason
    return found


def _incompatibility(one: str, other: str) -> str:
    """Why the two are refused on words and on images alike, or nothing; the reason is not that they need other data."""
    found = [_reasons(one, other, data) for data in ("text", "images")]
    if not all(found):
        return ""
    told = [reasons for reasons in found if not any(reason.startswith("E09") for reason in reasons)]
    return "; ".join((told or found)[0])


def _reasons(one: str, other: str, data: str) -> list[str]:
    try:
        parse_trial({"data": {"kind": data, "path": "."}, "strategies": [one, other]})
    except ConfigError as error:
        return [_reason(issue) for issue in error.issues]
    return []


def _reason(issue: ValidationIssue) -> str:
    assert issue.code, f"a refused stack without a code: {issue}"
    return f"{issue.code}, {(issue.message if issue.code == 'E-SLOT' else issue.hint).rstrip('.')}"


def conflicts_of(kind: str) -> dict[str, str]:
    """The kinds that `kind` may not be stacked with at default settings, and why."""
    return _refused_pairs()[kind]


def _range(tunable: Tunable) -> dict[str, Any]:
    if tunable.choices:
        return {"choices": list(tunable.choices)}
    return {"low": tunable.low, "high": tunable.high, "log": tunable.log}


def range_text(search: Mapping[str, Any] | None) -> str:
    if search is None:
        return ""
    if "choices" in search:
        return "{" + ", ".join(map(str, search["choices"])) + "}"
    return f"{search['low']:g} to {search['high']:g}" + (" (log)" if search["log"] else "")


def grouped_conflicts(conflicts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The kinds that are refused for one reason together, and the reason, which then says "the other" of each."""
    alike: dict[str, list[str]] = {}
    for kind, reason in conflicts.items():
        alike.setdefault(re.sub(rf"\b{kind}\b", "the other", reason), []).append(kind)
    for reason, kinds in alike.items():
        yield ", ".join(kinds), reason if len(kinds) > 1 else conflicts[kinds[0]]


# --- on the terminal ------------------------------------------------------------------------------------------------


# --- as Markdown ----------------------------------------------------------------------------------------------------


def catalogue_page() -> str:
    """The heading of the catalogue in docs/strategies.md, and every strategy as a section below it."""
    return "\n".join([HEADING, *(_section(describe_strategy(strategy)) for strategy in CATALOGUE.values())])


def _section(entry: Mapping[str, Any]) -> str:
    lines = [f"### {entry['kind']}", "", entry["description"], ""]
    lines += [f"Paper: {entry['paper']}. Slots: {', '.join(f'`{slot}`' for slot in entry['slots'])}.", ""]
    if entry["fields"]:
        fields = [
            (f"`{f['name']}`", f["law"], f"`{format_value(f['default'])}`", range_text(f["search"]), f["description"])
            for f in entry["fields"]
        ]
        lines += [*table(("field", "law", "default", "searched over", "meaning"), fields), ""]
    if entry["columns"]:
        lines += [f"Columns of its own: {', '.join('`' + column['name'] + '`' for column in entry['columns'])}.", ""]
    if entry["unmeasured"]:
        lines += [f"Null under it: {', '.join(f'`{name}`' for name in entry['unmeasured'])}.", ""]
    if entry["conflicts"]:
        lines += ["Not to be stacked, at default settings, with"]
        lines += [f"- {kinds}: {reason}" for kinds, reason in grouped_conflicts(entry["conflicts"])]
        lines.append("")
    return "\n".join(lines)
