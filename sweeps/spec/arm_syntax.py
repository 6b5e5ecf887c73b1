"""Parsing of command-line options: `kind:field=value,field=value+kind`, `--set KEY=VALUE` and `--for 1h30m`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.spec.yaml import MAX_DEPTH, load_yaml

__all__ = ["parse_arm_text", "parse_duration", "parse_items", "parse_sets"]

OUTSIDE_BRACKETS = r"(?![^\[\]]*\])"

MAX_OPTION = 10_000
"""Largest number of characters of an option that is parsed here; matching takes a time quadratic in it."""

_NUMBER = r"([0-9]{1,6}(?:\.[0-9]{1,6})?)"
DURATION = re.compile(rf"(?:{_NUMBER}h)?\s*(?:{_NUMBER}m)?\s*(?:{_NUMBER}s)?", re.ASCII)
UNITS = (3600, 60, 1)
"""Hour, minute and second [s]."""


def parse_items(text: str, option: str, example: str) -> list[dict[str, Any]]:
    """Parse text of the form `kind:field=value,field=value+kind`.

    Args:
        text: The text to parse; each value in it is YAML.
        option: Name of the command-line option, for error messages.
        example: A valid text, shown in error messages.

    Returns:
        One mapping per item of the text, with its `kind` and its fields.

    Raises:
        ConfigError: The text is too long, or a field has no value or one that is not valid YAML; the error lists every
            problem.
    """
    if len(text) > MAX_OPTION:
        message = f"must have at most {MAX_OPTION:,} characters, but has {len(text):,}"
        raise ConfigError([ValidationIssue(option, message, "Write the configuration in a file.", text)])
    items: list[dict[str, Any]] = []
    issues: list[ValidationIssue] = []
    for part in re.split(r"\+(?=\s*[A-Za-z_])", text):  # the + in 1e+3 is not a separator
        kind, _, fields = part.strip().partition(":")
        if not kind and not fields:
            continue
        item: dict[str, Any] = {"kind": kind}
        for field in filter(None, re.split(f",{OUTSIDE_BRACKETS}", fields)):
            name, sign, value = field.partition("=")
            if not sign:
                message = "must give every field as name=value"
                issues.append(ValidationIssue(option, message, f"Write, for example, '{example}'.", part))
                continue
            try:
                item[name.strip()] = load_yaml(value)
            except ValueError as error:
                message = f"must give {name.strip()} a value that is valid YAML ({error})"
                issues.append(ValidationIssue(option, message, "Quote the value if it is text.", part))
        items.append(item)
    if issues:
        raise ConfigError(issues)
    return items


def parse_arm_text(text: str) -> list[dict[str, Any]]:
    """Parse the strategies of an arm, such as `aggressive:budget=30+kl_linear_epoch`; `vae` means no strategies."""
    return [item for item in parse_items(text, "--arm", "aggressive:budget=30") if item != {"kind": "vae"}]


def parse_sets(items: Sequence[str] | None) -> dict[str, Any]:
    """Parse the `--set` options.

    Args:
        items: The options as `KEY=VALUE`, where KEY is dotted and VALUE is YAML.

    Returns:
        Mapping from each dotted key to its value.

    Raises:
        ConfigError: An option is not KEY=VALUE, its key has too many words, or its value is not valid YAML; the error
            lists every problem.
    """
    values: dict[str, Any] = {}
    issues = []
    for item in items or []:
        key, sign, text = item.partition("=")
        if not sign or not key or not all(key.split(".")):
            hint = "Write, for example, training.epochs=3 for a trial, or trial.training.epochs=3 for a sweep."
            issues.append(ValidationIssue("--set", "must be KEY=VALUE", hint, item))
            continue
        if key.count(".") >= MAX_DEPTH:
            message = f"must be a key of at most {MAX_DEPTH} words"
            issues.append(ValidationIssue("--set", message, "Check the number of dots.", key))
            continue
        try:
            values[key] = load_yaml(text)
        except ValueError as error:
            message = f"must be valid YAML ({error})"
            issues.append(ValidationIssue(f"--set {key}", message, "Quote the value if it is text.", text))
    if issues:
        raise ConfigError(issues)
    return values


def parse_duration(text: str) -> float:
    """Parse the option `--for`: hours, minutes and seconds such as `2h`, `90m`, `1h30m` or `1.5h`.

    Returns:
        The duration [s].

    Raises:
        ConfigError: The text is not a duration of at least 1 s.
    """
    match = DURATION.fullmatch(text.strip()) if len(text) <= MAX_OPTION else None
    seconds = sum(float(number or 0) * unit for number, unit in zip(match.groups(), UNITS, strict=True)) if match else 0
    if seconds < 1:
        message, hint = "must be a time of at least 1 s", "Write, for example, 2h, 90m, 1h30m or 45s."
        raise ConfigError([ValidationIssue("--for", message, hint, text)])
    return seconds
