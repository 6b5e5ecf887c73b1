"""Settings as they are written on the command line: `kind:field=value,field=value+kind`."""

from __future__ import annotations

import re
from typing import Any

import yaml

from lagvae_core.errors import ConfigError, Mistake

__all__ = ["parse_items"]

OUTSIDE_BRACKETS = r"(?![^\[\]]*\])"


def parse_items(text: str, option: str, example: str) -> list[dict[str, Any]]:
    """`kind:field=value,field=value+kind` as one mapping for each kind, its values read as YAML.

    Raises:
        ConfigError: with every mistake, in the name of `option`; `example` shows how it is meant.
    """
    items: list[dict[str, Any]] = []
    mistakes: list[Mistake | str] = []
    for part in re.split(r"\+(?=\s*[A-Za-z_])", text):  # not the sign of 1e+3
        kind, _, fields = part.strip().partition(":")
        if not kind and not fields:
            continue
        item: dict[str, Any] = {"kind": kind}
        for field in filter(None, re.split(f",{OUTSIDE_BRACKETS}", fields)):
            name, sign, value = field.partition("=")
            if not sign:
                law = "give fields as name=value"
                mistakes.append(Mistake(option, part, law, f"For example '{example}'."))
                continue
            try:
                item[name.strip()] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError):
                mistakes.append(Mistake(option, part, "give each field a YAML value", "Quote it if it is a text."))
        items.append(item)
    if mistakes:
        raise ConfigError(mistakes)
    return items
