"""The flag by which a driver asks its running runs to save their checkpoints and end."""

from __future__ import annotations

import time

__all__ = ["StopFlag"]

POLL_SECONDS = 1.0
"""Shortest time between two looks at the flag [s]."""


class StopFlag:
    """A key in the store of the Ray cluster, which the driver and all workers reach. Ray must be connected.

    A flag that was set stays in the store until the cluster ends.

    Args:
        name: Name of the flag; the same in the driver and its workers, and different for each driver.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._next_look = time.monotonic() + POLL_SECONDS

    def set(self) -> None:
        """Ask the runs to end."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(self.name, b"1")

    def is_set(self) -> bool:
        """Return whether the flag is set. It is looked up at most once per second; in between, the answer is False."""
        if time.monotonic() < self._next_look:
            return False
        from ray.experimental import internal_kv

        self._next_look = time.monotonic() + POLL_SECONDS
        return internal_kv._internal_kv_get(self.name) is not None
