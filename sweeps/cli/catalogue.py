"""Output of `lagvae strategies` and `lagvae studies`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from sweeps.catalogue.strategies import describe_strategy, format_range, grouped_conflicts
from sweeps.catalogue.studies import describe_study
from sweeps.cli.terminal import console_of_stdout, print_json, rich_table
from sweeps.formatting import format_value

__all__ = ["print_strategies", "print_studies"]

Entry = Mapping[str, Any]
"""A strategy or a study as plain data."""


def print_strategies(name: str | None, *, as_json: bool) -> None:
    """Print a list of all strategies, or the full description of one.

    Raises:
        ConfigError: There is no strategy `name`.
    """
    if name is not None:
        entry = describe_strategy(CATALOGUE[_check_name(name, CATALOGUE, "strategies")])
        print_json(entry) if as_json else _print_strategy(console_of_stdout(), entry)
        return
    entries = [describe_strategy(strategy) for strategy in CATALOGUE.values()]
    if as_json:
        print_json(entries)
        return
    table = rich_table("strategy", "slots", "searched", "description")
    for entry in entries:
        searched = ", ".join(field["name"] for field in entry["fields"] if field["search"])
        table.add_row(entry["kind"], ", ".join(entry["slots"]), searched, entry["summary"])
    console_of_stdout().print(table)


def print_studies(name: str | None, *, as_json: bool) -> None:
    """Print a list of all studies, or the full description of one.

    Raises:
        ConfigError: There is no study `name`.
    """
    if name is not None:
        entry = describe_study(STUDIES[_check_name(name, STUDIES, "studies")])
        print_json(entry) if as_json else _print_study(console_of_stdout(), entry)
        return
    entries = [describe_study(study) for study in STUDIES.values()]
    if as_json:
        print_json(entries)
        return
    table = rich_table("study", "data", "description")
    for entry in entries:
        table.add_row(entry["kind"], ", ".join(entry["data_kinds"]), entry["summary"])
    console_of_stdout().print(table)


def _check_name(name: str, known: Iterable[str], verb: str) -> str:
    if name not in known:
        hint = f"{did_you_mean(name, known)} Known {verb}: {', '.join(known)}.".lstrip()
        raise ConfigError([ValidationIssue("NAME", f"must be one of the {verb}", hint, name)])
    return name


def _print_strategy(console: Console, entry: Entry) -> None:
    _print_head(console, entry, f"  {entry['paper']}\nslots: {', '.join(entry['slots'])}\n")
    table = rich_table("field", "constraints", "default", "default search range", "meaning")
    for field in entry["fields"]:
        default, search = format_value(field["default"]), format_range(field["search"])
        table.add_row(field["name"], field["constraints"], default, search, field["description"])
    console.print(table)
    for column in entry["columns"]:
        console.print(f"column {column['name']}: {column['doc']}")
    if entry["unmeasured"]:
        console.print(f"columns that are null: {', '.join(entry['unmeasured'])}")
    for kinds, reason in grouped_conflicts(entry["conflicts"]):
        console.print(f"cannot be combined with {kinds}: {reason}")


def _print_study(console: Console, entry: Entry) -> None:
    _print_head(console, entry, f"  for {', '.join(entry['data_kinds'])} data\n")
    table = rich_table("field", "constraints", "default", "meaning")
    for field in entry["fields"]:
        table.add_row(field["name"], field["constraints"], format_value(field["default"]), field["description"])
    console.print(table)
    for column in entry["columns"]:
        console.print(f"column {column['name']}: {column['doc']}", soft_wrap=True)
    for name, doc in entry["tables"].items():
        console.print(f"table {name}: {doc}", soft_wrap=True)


def _print_head(console: Console, entry: Entry, subtitle: str) -> None:
    console.print(Text(entry["kind"], style="bold").append(subtitle, style="not bold"))
    console.print(entry["description"])
    console.print()
