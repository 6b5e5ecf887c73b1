"""Printing the catalogue: `lagvae strategies` and `lagvae studies`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from sweeps.catalogue.strategies import describe_strategy, grouped_conflicts, range_text
from sweeps.catalogue.studies import describe_study
from sweeps.cli.terminal import console_of_stdout, plain_table
from sweeps.formatting import format_value

__all__ = ["print_catalogue", "print_studies"]


def print_catalogue(name: str | None, as_json: bool) -> None:
    """All strategies, or one in full."""
    if name is not None and name not in CATALOGUE:
        raise ConfigError(
            [ValidationIssue("NAME", f"must be one of {', '.join(CATALOGUE)}", "See `lagvae strategies`.", name)]
        )
    chosen = [CATALOGUE[name]] if name is not None else list(CATALOGUE.values())
    described = [describe_strategy(strategy) for strategy in chosen]
    if as_json:
        print(json.dumps(described[0] if name is not None else described, allow_nan=False))
        return
    console = console_of_stdout()
    if name is None:
        listing = plain_table("strategy", "slots", "searched", "what it does")
        for entry in described:
            searched = ", ".join(field["name"] for field in entry["fields"] if field["search"])
            listing.add_row(entry["kind"], ", ".join(entry["slots"]), searched, entry["summary"])
        console.print(listing)
    else:
        _print_strategy(console, described[0])


def _print_strategy(console: Console, entry: Mapping[str, Any]) -> None:
    heading = Text(entry["kind"], style="bold")
    console.print(heading.append(f"  {entry['paper']}\nslots: {', '.join(entry['slots'])}\n", style="not bold"))
    console.print(entry["description"])
    console.print()
    fields = plain_table("field", "law", "default", "searched over", "meaning")
    for field in entry["fields"]:
        searched = range_text(field["search"])
        fields.add_row(field["name"], field["law"], format_value(field["default"]), searched, field["description"])
    console.print(fields)
    for column in entry["columns"]:
        console.print(f"column {column['name']}: {column['doc']}")
    if entry["unmeasured"]:
        console.print(f"null under it: {', '.join(entry['unmeasured'])}")
    for kinds, reason in grouped_conflicts(entry["conflicts"]):
        console.print(f"not with {kinds}: {reason}")


def print_studies(name: str | None, as_json: bool) -> None:
    """All studies, or one in full."""
    if name is not None and name not in STUDIES:
        raise ConfigError(
            [ValidationIssue("NAME", f"must be one of {', '.join(STUDIES)}", "See `lagvae studies`.", name)]
        )
    chosen = [STUDIES[name]] if name is not None else list(STUDIES.values())
    described = [describe_study(study) for study in chosen]
    if as_json:
        print(json.dumps(described[0] if name is not None else described, allow_nan=False))
        return
    console = console_of_stdout()
    if name is not None:
        _print_study(console, described[0])
        return
    listing = plain_table("study", "of", "what it measures")
    for entry in described:
        listing.add_row(entry["kind"], ", ".join(entry["data_kinds"]), entry["summary"])
    console.print(listing)


def _print_study(console: Console, entry: Mapping[str, Any]) -> None:
    console.print(
        Text(entry["kind"], style="bold").append(f"  of {', '.join(entry['data_kinds'])}\n", style="not bold")
    )
    console.print(entry["description"])
    console.print()
    fields = plain_table("field", "law", "default", "meaning")
    for field in entry["fields"]:
        cells = (field["name"], field["law"], format_value(field["default"]), field["description"])
        fields.add_row(*cells)
    console.print(fields)
    for column in entry["columns"]:
        console.print(f"column {column['name']}: {column['doc']}", soft_wrap=True)
    for name, doc in entry["tables"].items():
        console.print(f"table {name}: {doc}", soft_wrap=True)
