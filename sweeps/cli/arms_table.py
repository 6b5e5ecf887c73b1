"""The table of `lagvae plan` that shows what each arm fixes and searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from sweeps.catalogue.strategies import format_range
from sweeps.cli.terminal import rich_table
from sweeps.formatting import format_parameters, format_value

__all__ = ["print_arms"]

OWN = "*"
"""Mark of a range that the strategy declares."""

SHARED = "+"
"""Mark of a range that holds for the whole sweep."""


def print_arms(console: Console, arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row per strategy of each arm. `arms` maps the name of each arm to its `describe_arm`."""
    headings = ("arm", "points", "strategy", "searched", "fixed")
    table_rows: list[tuple[str, ...]] = []
    for name, arm in arms.items():
        points = "" if arm["points"] is None else f"{arm['points']:,}"
        rows = [(s["kind"], _searched(s["searched"]), _fixed(_notable(s))) for s in arm["strategies"]]
        rows = rows or [("plain VAE", "", "")]
        trial = arm["trial"]
        if trial["fixed"] or trial["searched"]:
            rows.append(("(trial)", _searched(trial["searched"]), _fixed(trial["fixed"])))
        for number, row in enumerate(rows):
            table_rows.append((*((name, points) if number == 0 else ("", "")), *row))
    filled = [number for number in range(len(headings)) if any(row[number] for row in table_rows)]
    table = rich_table(*(headings[number] for number in filled), right=("points",))
    for cells in table_rows:
        table.add_row(*(cells[number] for number in filled))
    console.print(table)
    fields = [f for arm in arms.values() for s in (*arm["strategies"], arm["trial"]) for f in s["searched"].values()]
    if any(field.get("own") for field in fields):
        text = f"{OWN} the range that the strategy declares; `FIELD: default` fixes the field at its default"
        console.print(text, soft_wrap=True)
    if any("shared" in field for field in fields):
        console.print(f"{SHARED} the range in the `space` of the sweep", soft_wrap=True)
    for name, arm in arms.items():
        if arm["first"]:
            points = "; ".join(map(format_parameters, arm["first"]))
            console.print(f"{name} tries first: {points}", soft_wrap=True, highlight=False)


def _searched(fields: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {_range(search)}" for name, search in fields.items())


def _range(search: Mapping[str, Any]) -> str:
    when = [f"{name} is {' or '.join(map(str, values))}" for name, values in search.get("when", {}).items()]
    condition = f" if {' and '.join(when)}" if when else ""
    mark = OWN if search.get("own") else SHARED if "shared" in search else ""
    return f"{format_range(search)}{mark}{condition}"


def _notable(strategy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fixed values of a strategy, without fields at their defaults that have no search range."""
    config = CATALOGUE[strategy["kind"]]
    defaults = {name: field.get_default(call_default_factory=True) for name, field in config.model_fields.items()}
    searchable = {name for name, _, _ in tunables(config)}
    return {name: value for name, value in strategy["fixed"].items() if name in searchable or value != defaults[name]}


def _fixed(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    return format_value(value) if isinstance(value, float | str) else json.dumps(value)
