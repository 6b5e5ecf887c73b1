"""Plugins in the folder of a sweep: texts that workers run, and that others run only if they trust the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.plugins import Plugin, load_plugins, loaded_plugins
from sweeps.storage.folder import SweepFolder

__all__ = ["HASH_NAME", "load_stored_plugins", "missing_plugins", "plugins_of", "store_plugins", "trust_stored_plugins"]

HASH_NAME = re.compile(r"[0-9a-f]{64}\.py")
"""Name of a stored plugin whose text a row may need."""

_trusted = False


def trust_stored_plugins(trusted: bool) -> None:
    """Choose whether this process may run the plugins that results folders contain, as the option `--trust` does."""
    global _trusted
    _trusted = trusted


def store_plugins(folder: SweepFolder, plugins: Iterable[Plugin]) -> None:
    """Store the texts of plugins: under their names those of the latest driver, and under their hashes all of them."""
    for plugin in plugins:
        for name in (plugin.name, f"{plugin.sha256}.py"):
            folder.write(f"plugins/{name}", plugin.text.encode())


def plugins_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each plugin of a stored run by name."""
    return dict(json.loads(row.get("plugins") or "{}"))


def missing_plugins(hashes: Mapping[str, str]) -> dict[str, str]:
    """Return those of `hashes` whose text is not loaded and that come from a file, not from an installed package."""
    loaded = {name: plugin.sha256 for name, plugin in loaded_plugins().items()}
    return {name: sha for name, sha in hashes.items() if name.endswith(".py") and loaded.get(name) != sha}


def load_stored_plugins(folder: SweepFolder, hashes: Mapping[str, str], *, trusted: bool | None = None) -> None:
    """Load the plugins with which a run was trained, unless they are loaded.

    Args:
        folder: Folder of the sweep.
        hashes: SHA-256 of each plugin by name.
        trusted: Whether the folder is trusted; None for the choice of the user.

    Raises:
        ConfigError: The user does not trust the folder, another text is loaded under the same name, or the stored text
            is missing or damaged.
    """
    missing = missing_plugins(hashes)
    if not missing:
        return
    place = f"{folder.root}/{folder.sweep}/plugins"
    issues = []
    plugins = []
    for name, sha in missing.items():
        if name in loaded_plugins():
            message = f"must have the text with which the run was trained (SHA-256 {sha[:12]})"
            hint = f"Give that version of the file, or leave out --plugin and trust the stored one in {place}: --trust."
            issues.append(ValidationIssue(f"--plugin {name}", message, hint, loaded_plugins()[name].sha256[:12]))
        elif not (_trusted if trusted is None else trusted):
            message = f"must be given, because the configuration needs the plugin {name}"
            hint = f"Read {place}/{sha}.py before you trust it, or give your own copy with --plugin {name}."
            issues.append(ValidationIssue("--trust", message, hint))
        else:
            content = folder.read(f"plugins/{sha}.py")
            plugin = Plugin(name, (content or b"").decode(errors="replace"), f"{place}/{sha}.py")
            if plugin.sha256 != sha:
                message = "must contain the plugin" if content is None else "must be unchanged since the run"
                issues.append(ValidationIssue(plugin.path, message, f"Give your own copy with --plugin {name}."))
            plugins.append(plugin)
    if issues:
        raise ConfigError(issues)
    load_plugins(plugins)
