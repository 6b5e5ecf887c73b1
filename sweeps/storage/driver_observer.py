"""Signs of a driver of a sweep, for readers that must not disturb it. Nothing is locked or written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sweeps.storage.folder import SweepFolder
from sweeps.storage.lease import LEASE, LEASE_TIMING, host_of
from sweeps.storage.locks import is_locked
from sweeps.storage.mounts import is_local_filesystem

__all__ = ["DriverObserver", "DriverSign", "DriverState"]


class DriverState(Enum):
    """What lock and lease of a sweep show about its driver."""

    PRESENT = "present"
    """A process of this machine holds the lock, or a driver holds the lease."""

    SILENT = "silent"
    """A driver holds the lease, but has not renewed it for so long that the next driver would take it over."""

    ABSENT = "absent"
    """The lock was held and no longer is, or there is no lease on a storage that needs one."""

    UNKNOWN = "unknown"
    """There is nothing to see, such as a lock of another container."""


@dataclass(frozen=True)
class DriverSign:
    """A state of the driver.

    Args:
        state: The state.
        host: Host in the lease; "" if there is no lease.
        seconds: Time for which the lease has not been renewed [s].
    """

    state: DriverState
    host: str = ""
    seconds: float = 0.0


class DriverObserver:
    """Watches lock and lease of a sweep.

    As for the next driver, a lease is only compared with itself, because clocks of machines differ: it is silent if it
    has not changed while this object watched.

    Args:
        folder: The folder of the sweep.
        clock: Returns the current time [s].
    """

    def __init__(self, folder: SweepFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._was_locked = False
        self._lease: bytes | None = None
        self._changed_at = clock()

    def observe(self) -> DriverSign:
        """Return the state of the driver now.

        Raises:
            StoreError: The storage cannot be accessed.
        """
        path = self._folder.local_path
        if path is not None and is_locked(path / ".driver.lock"):
            self._was_locked = True
            return DriverSign(DriverState.PRESENT)
        lease, now = self._folder.read(LEASE), self._clock()
        if lease != self._lease:
            self._lease, self._changed_at = lease, now
        if lease is not None:
            seconds = now - self._changed_at
            state = DriverState.PRESENT if seconds <= LEASE_TIMING.patience else DriverState.SILENT
            return DriverSign(state, host_of(lease), seconds)
        needs_lease = path is None or not is_local_filesystem(path)
        return DriverSign(DriverState.ABSENT if self._was_locked or needs_lease else DriverState.UNKNOWN)
