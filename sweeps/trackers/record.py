"""The record of what a tracker has received completely, so that later drivers send only the rest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from sweeps.storage.folder import SweepFolder

__all__ = ["CompletionRecord"]

WRITE_SECONDS = 5.0
"""Shortest time between two writes of the record [s]. After a kill, the runs of this time are sent again."""


class CompletionRecord:
    """A file `trackers/NAME-HASH.json` in the folder of the sweep; the hash is that of the destination.

    Args:
        folder: Folder of the sweep.
        name: Name of the tracker.
        settings: Its destination. It may contain a password, so only its hash is stored.
    """

    def __init__(self, folder: SweepFolder, name: str, settings: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        self._folder, self._file = folder, f"trackers/{name}-{digest}.json"
        self._entries: dict[str, Any] = {}
        self._written = time.monotonic()
        self._changed = False
        try:
            stored = json.loads(folder.read(self._file) or b"{}")
        except ValueError:
            stored = {}  # edited or damaged: everything is sent again
        if isinstance(stored, dict):
            self._entries = stored

    def holds(self, name: str, version: object) -> bool:
        """Return whether the tracker has received this version of a run (its attempt) or of the front (its hash)."""
        return self._entries.get(name) == version

    def add(self, entries: Mapping[str, Any]) -> None:
        """Add the versions of what the tracker has received completely, and write the file if a write is due."""
        self._entries |= entries
        self._changed = True
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the file if it has changed."""
        if self._changed:
            self._folder.write(self._file, json.dumps(self._entries).encode())
            self._changed, self._written = False, time.monotonic()
