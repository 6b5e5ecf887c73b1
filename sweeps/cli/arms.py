"""The table of arms in `lagvae plan`: what is fixed, what is searched, and over which range."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sweeps.catalogue.strategies import format_range
from sweeps.cli.terminal import rich_table
from sweeps.formatting import format_value

__all__ = ["print_arms"]

OWN = "*"
"""Mark of a range that the strategy declares."""


def print_arms(console: Console, arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row per strategy of each arm. `arms` maps the name of each arm to its `describe_arm`."""
    table = rich_table("arm", "points", "strategy", "searched", "fixed", right=("points",))
    for name, arm in arms.items():
        points = "" if arm["points"] is None else f"{arm['points']:,}"
        rows = [(s["kind"], _searched(s["searched"]), _fixed(s["fixed"])) for s in arm["strategies"]]
        for number, row in enumerate(rows or [("plain VAE", "", "")]):
            table.add_row(*((name, points) if number == 0 else ("", "")), *row)
    console.print(table)
    if any(search["own"] for arm in arms.values() for s in arm["strategies"] for search in s["searched"].values()):
        text = f"{OWN} the range that the strategy declares; `FIELD: default` fixes the field at its default"
        console.print(text, soft_wrap=True)


def _searched(fields: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {format_range(search)}{OWN if search['own'] else ''}" for name, search in fields.items())


def _fixed(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _value(value: object) -> str:
    return format_value(value) if isinstance(value, float | str) else json.dumps(value)
