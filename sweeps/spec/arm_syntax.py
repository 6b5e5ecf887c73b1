"""Settings as they are written on the command line: `kind:field=value,field=value+kind`, and KEY=VALUE."""

from __future__ import annotations

import re
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.spec.yaml import load_yaml

__all__ = ["parse_arm_text", "parse_items", "parse_sets"]

OUTSIDE_BRACKETS = r"(?![^\[\]]*\])"


def parse_items(text: str, option: str, example: str) -> list[dict[str, Any]]:
    """`kind:field=value,field=value+kind` as one mapping for each kind, its values read as YAML.

    Raises:
        ConfigError: with every mistake, in the name of `option`; `example` shows how it is meant.
    """
    items: list[dict[str, Any]] = []
    issues: list[ValidationIssue] = []
    for part in re.split(r"\+(?=\s*[A-Za-z_])", text):  # not the sign of 1e+3
        kind, _, fields = part.strip().partition(":")
        if not kind and not fields:
            continue
        item: dict[str, Any] = {"kind": kind}
        for field in filter(None, re.split(f",{OUTSIDE_BRACKETS}", fields)):
            name, sign, value = field.partition("=")
            if not sign:
                message = "must give fields as name=value"
                issues.append(ValidationIssue(option, message, f"For example '{example}'.", part))
                continue
            try:
                item[name.strip()] = load_yaml(value)
            except ValueError:
                issues.append(
                    ValidationIssue(option, "must give each field a YAML value", "Quote it if it is a text.", part)
                )
        items.append(item)
    if issues:
        raise ConfigError(issues)
    return items


def parse_arm_text(text: str) -> list[dict[str, Any]]:
    """`aggressive:budget=30+kl_linear_epoch` as a stack; fields are separated by commas. `vae` is the empty stack."""
    return [item for item in parse_items(text, "--arm", "aggressive:budget=30") if item != {"kind": "vae"}]


def parse_sets(items: list[str] | None) -> dict[str, Any]:
    """`--set` items as dotted keys and YAML values."""
    values: dict[str, Any] = {}
    issues = []
    for item in items or []:
        key, sign, text = item.partition("=")
        if not sign or not key or not all(key.split(".")):
            issues.append(ValidationIssue("--set", "must be KEY=VALUE", "For example --set training.epochs=3", item))
            continue
        try:
            values[key] = load_yaml(text)
        except ValueError:
            issues.append(ValidationIssue(f"--set {key}", "must be a YAML value", "Quote it if it is a text.", text))
    if issues:
        raise ConfigError(issues)
    return values
