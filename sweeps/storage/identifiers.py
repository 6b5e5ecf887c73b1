"""The forms of the identifiers in a table. Values of another form are never used as parts of a path."""

from __future__ import annotations

import re

__all__ = ["CONFIG_ID", "RUN_ID", "SWEEP_NAME", "is_arm_name", "is_plugin_name"]

SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
CONFIG_ID = re.compile(r"[0-9a-f]{12}")
RUN_ID = re.compile(rf"{CONFIG_ID.pattern}-[0-9]{{1,16}}")
_PLUGIN_NAME = re.compile(r"(?=.{1,200}$)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_arm_name(name: object) -> bool:
    """Return whether `name` has 1 to 100 printable characters, without spaces at its start or end."""
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 and name == name.strip()


def is_plugin_name(name: object) -> bool:
    """Return whether `name` is that of a Python file or module: letters, digits, _ and single dots between them."""
    return isinstance(name, str) and _PLUGIN_NAME.fullmatch(name) is not None
