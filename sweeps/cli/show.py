"""`lagvae show`: print a sweep file or a trial file, as it is or with every default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lagvae_core.config.trial import parse_trial
from sweeps.catalogue.arms import resolved_sweep
from sweeps.spec.sweep import load_plugins_of_trial, parse_spec, parse_yaml, read_spec
from sweeps.spec.yaml import dump_yaml, edit_yaml, set_dotted

__all__ = ["print_file"]


def print_file(where: str, sets: Mapping[str, Any], *, resolved: bool) -> None:
    """Print a file.

    Args:
        where: Path of a sweep file or a trial file, or name of a shipped sweep.
        sets: Overridden values by dotted key.
        resolved: Print every value, defaults included, instead of the text of the file. The output is valid input, and
            its runs have the same ids.

    Raises:
        ConfigError: The file cannot be read or is not YAML, or, with `resolved`, is not valid.
    """
    text = read_spec(where)
    values = parse_yaml(text, where)
    if not resolved:
        print((edit_yaml(text, sets) if sets else text).rstrip("\n"))
    elif "arms" in values or "name" in values:
        print(dump_yaml(resolved_sweep(parse_spec(text, where, sets))), end="")
    else:
        plugins = load_plugins_of_trial(values, where)
        for key, value in sets.items():
            set_dotted(values, key, value)
        shown = parse_trial(values, where).model_dump(mode="json")
        print(dump_yaml({**({"plugins": plugins} if plugins else {}), **shown}), end="")
