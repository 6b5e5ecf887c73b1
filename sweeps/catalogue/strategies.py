"""The catalogue of strategies: description, paper, slots, fields, and incompatible strategies."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import Tunable, tunables
from lagvae_core.strategies import CATALOGUE, Strategy
from sweeps.catalogue.fields import describe_docstring, describe_fields
from sweeps.formatting import format_value, markdown_table

__all__ = [
    "HEADING",
    "catalogue_page",
    "conflicts_of",
    "describe_range",
    "describe_strategy",
    "format_range",
    "grouped_conflicts",
]

HEADING = "## The catalogue\n"

OTHER_DATA = "E09"
"""Error code for a strategy that is incompatible with a kind of data, model or decoder."""


def describe_strategy(strategy: type[Strategy]) -> dict[str, Any]:
    """Return everything that the catalogue and the documentation show about a strategy, as plain data."""
    ranges = {name: describe_range(tunable) for name, _, tunable in tunables(strategy)}
    return {
        "kind": strategy.name(),
        **describe_docstring(strategy),
        "paper": strategy.paper,
        "slots": sorted(strategy.slots),
        "fields": [field | {"search": ranges.get(field["name"])} for field in describe_fields(strategy)],
        "columns": [{"name": column.name, "doc": column.doc} for column in strategy.columns],
        "unmeasured": sorted(strategy.unmeasured),
        "conflicts": conflicts_of(strategy.name()),
    }


def describe_range(tunable: Tunable) -> dict[str, Any]:
    """Return a range or choices as plain data."""
    if tunable.choices:
        return {"choices": list(tunable.choices)}
    step = {} if tunable.step is None else {"step": tunable.step}
    return {"low": tunable.low, "high": tunable.high, "log": tunable.log} | step


def format_range(search: Mapping[str, Any] | None) -> str:
    """Return a default search range as text: "0.2 to 1", "1 to 100 (log)" or "{1, 2}"; "" for None."""
    if search is None:
        return ""
    if "choices" in search:
        return "{" + ", ".join(map(str, search["choices"])) + "}"
    step = f" by {search['step']:g}" if "step" in search else ""
    return f"{search['low']:g} to {search['high']:g}{step}" + (" (log)" if search["log"] else "")


def conflicts_of(kind: str) -> dict[str, str]:
    """Return the reasons why strategies cannot be combined with `kind` at default settings, by their kinds."""
    return _conflicts(tuple(CATALOGUE.values()))[kind]


@functools.lru_cache(maxsize=1)
def _conflicts(loaded: tuple[type[Strategy], ...]) -> dict[str, dict[str, str]]:
    """Return the conflicts of all kinds, found by validating every pair of strategies at default settings."""
    conflicts: dict[str, dict[str, str]] = {kind: {} for kind in CATALOGUE}
    kinds = list(CATALOGUE)
    for number, one in enumerate(kinds):
        for other in kinds[number + 1 :]:
            reason = _conflict(one, other)
            if reason:
                conflicts[one][other] = conflicts[other][one] = reason
    return conflicts


def _conflict(one: str, other: str) -> str:
    """Return why two strategies cannot be combined; "" if the combination is valid for text, images or vectors.

    If both strategies support one of these kinds of data, the reason is the one for that kind.
    """
    issues_by_data = [_stack_issues([one, other], data) for data in ("text", "images", "vectors")]
    if not all(issues_by_data):
        return ""
    supported = [issues for issues in issues_by_data if all(issue.code != OTHER_DATA for issue in issues)]
    return "; ".join(map(_reason, (supported or issues_by_data)[0]))


def _stack_issues(stack: list[str], data: str) -> Sequence[ValidationIssue]:
    try:
        parse_trial({"data": {"kind": data, "path": "."}, "strategies": stack})
    except ConfigError as error:
        return error.issues
    return ()


def _reason(issue: ValidationIssue) -> str:
    assert issue.code, f"an issue about an invalid stack must have a code, got {issue}"
    return f"{issue.code}, {(issue.message if issue.code == 'E-SLOT' else issue.hint).rstrip('.')}"


def grouped_conflicts(conflicts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each reason with the kinds that share it; if there are several, the reason says "the other strategy"."""
    kinds_by_reason: dict[str, list[str]] = {}
    for kind, reason in conflicts.items():
        general = re.sub(rf"\b{kind}\.", "the other strategy's ", reason)
        kinds_by_reason.setdefault(re.sub(rf"\b{kind}\b", "the other strategy", general), []).append(kind)
    for reason, kinds in kinds_by_reason.items():
        yield ", ".join(kinds), reason if len(kinds) > 1 else conflicts[kinds[0]]


def catalogue_page() -> str:
    """Return the catalogue part of docs/strategies.md: the heading, and one section per strategy."""
    return "\n".join([HEADING, *(_section(describe_strategy(strategy)) for strategy in CATALOGUE.values())])


def _section(entry: Mapping[str, Any]) -> str:
    lines = [f"### {entry['kind']}", "", entry["description"], ""]
    lines += [f"Paper: {entry['paper']}. Slots: {', '.join(f'`{slot}`' for slot in entry['slots'])}.", ""]
    if entry["fields"]:
        rows = [
            (
                f"`{field['name']}`",
                field["constraints"],
                f"`{format_value(field['default'])}`",
                format_range(field["search"]),
                field["description"],
            )
            for field in entry["fields"]
        ]
        lines += [*markdown_table(("field", "constraints", "default", "default search range", "meaning"), rows), ""]
    if entry["columns"]:
        lines += [f"Additional columns: {', '.join('`' + column['name'] + '`' for column in entry['columns'])}.", ""]
    if entry["unmeasured"]:
        lines += [f"Columns that are null: {', '.join(f'`{name}`' for name in entry['unmeasured'])}.", ""]
    if entry["conflicts"]:
        lines += ["At default settings, it cannot be combined with:", ""]
        lines += [f"- {kinds}: {reason}" for kinds, reason in grouped_conflicts(entry["conflicts"])]
        lines.append("")
    return "\n".join(lines)
