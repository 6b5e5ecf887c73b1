"""The lease on a sweep folder: a small file that the driver keeps rewriting, used where file locks are not reliable.

The clocks of different machines are never compared. A driver that finds the lease of another driver watches it for a
while. If the lease changes, the other driver is alive; otherwise, that driver was killed.

Not every store has conditional writes, so two drivers that start at the same moment may both find no lease and both
write one. Therefore each driver reads the lease again after a pause, and a driver whose lease was overwritten gives up.

A driver that cannot reach the store for a long time may lose its lease to another driver. It detects the loss at its
next renewal.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lagvae_core.errors import LagvaeError

__all__ = [
    "LEASE",
    "LEASE_TIMING",
    "Lease",
    "LeaseHeldError",
    "LeaseTiming",
    "Store",
    "WaitingCallback",
    "host_of",
    "leased",
    "machine_id",
]

LEASE = ".driver.lease"
"""Name of the lease in the sweep folder."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

WaitingCallback = Callable[[str, float], None]
"""Called with the host of the driver whose lease is being watched, and the maximum duration of the watch [s]."""


class Store(Protocol):
    """The store that contains the lease. Each call reads, replaces or removes a whole object."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class LeaseHeldError(LagvaeError):
    """Another driver runs the sweep.

    Args:
        host: Host of the other driver; "" if it is unknown.
        lost: Whether the other driver took over the lease of this driver.
    """

    def __init__(self, host: str = "", *, lost: bool = False) -> None:
        self.host = host
        driver = f"Another driver on {host}" if host else "Another driver"
        if lost:
            text = f"{driver} took over the sweep, because this driver was disconnected from the results for too long."
        else:
            text = f"{driver} is running the sweep."
        text += " Wait until the other driver ends, or stop it."
        super().__init__(text)


@dataclass(frozen=True)
class LeaseTiming:
    """Times of a lease.

    Args:
        renewal: Time between two renewals [s].
        patience: Time after which a lease without a renewal counts as abandoned [s].
        election_delay: Pause after a driver writes its lease, before it reads the lease again: if several drivers start
            at the same moment, the last one to write keeps the lease [s].
    """

    renewal: float = 15.0
    patience: float = 50.0
    election_delay: float = 2.0


LEASE_TIMING = LeaseTiming()


@dataclass
class Lease:
    """A lease that this process holds or held.

    Args:
        store: The store that contains the lease.
        timing: Intervals at which the lease is renewed and expires.
        owner: Random identifier of this driver.
        taken_by: Host of the driver that took over the lease; "" if none did.
    """

    store: Store
    timing: LeaseTiming
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken_by: str = ""
    _verified_at: float = 0.0

    def write(self, renewals: int) -> None:
        """Write the lease into the store; `renewals` is the number of renewals so far."""
        content = {"owner": self.owner, "host": socket.gethostname(), "machine": machine_id(), "renewals": renewals}
        self.store.write(LEASE, json.dumps(content).encode())

    def verify(self) -> bool:
        """Read the lease and return whether this process still holds it.

        If there is no lease, another driver must have taken it over, ended and removed it.
        """
        content = self.store.read(LEASE)
        if _field(content, "owner") != self.owner:
            self.taken_by = host_of(content)
        self._verified_at = time.time()
        return not self.taken_by

    def lost(self) -> bool:
        """Return whether another driver took over the lease. Reads the lease again if the last check is not recent.

        Raises:
            OSError: The store cannot be read.
        """
        # The wall clock is used because a monotonic clock stops while the machine sleeps.
        if not self.taken_by and not 0 <= time.time() - self._verified_at < 2 * self.timing.renewal:
            self.verify()
        return bool(self.taken_by)


def machine_id() -> str:
    """Return an identifier of this host that changes when the host is restarted."""
    return f"{socket.gethostname()} {BOOT_ID.read_text().strip() if BOOT_ID.exists() else ''}"


@contextmanager
def leased(
    store: Store,
    timing: LeaseTiming | None = None,
    *,
    alone_here: bool = False,
    on_waiting: WaitingCallback = lambda host, seconds: None,
) -> Iterator[Lease]:
    """Context manager. Holds the lease in `store` during the block.

    Args:
        store: The store that contains the lease.
        timing: Times of the lease; `LEASE_TIMING` by default.
        alone_here: Whether a file lock proves that no other process of this machine drives the sweep. If so, a
            lease of this machine was left behind by a killed process, and is taken over at once.
        on_waiting: Called before this driver watches the lease of another driver.

    Raises:
        LeaseHeldError: Another driver holds the lease.
    """
    timing = timing or LEASE_TIMING
    lease, ended = Lease(store, timing), threading.Event()
    _wait_until_free(store, timing, ended, alone_here, on_waiting)
    lease.write(0)
    ended.wait(timing.election_delay)
    if not lease.verify():
        raise LeaseHeldError(lease.taken_by)
    renewing = threading.Thread(target=_renew, args=(lease, timing, ended), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        # A lease that is left behind only delays the next driver, and an error here would hide an error in the block.
        with contextlib.suppress(OSError):
            if lease.verify():
                store.remove(LEASE)


def _wait_until_free(
    store: Store, timing: LeaseTiming, ended: threading.Event, alone_here: bool, on_waiting: WaitingCallback
) -> None:
    """Wait until there is no lease, or until the lease has not been renewed for `timing.patience`.

    Raises:
        LeaseHeldError: The lease was renewed or replaced.
    """
    first = store.read(LEASE)
    if first is None or (alone_here and _field(first, "machine") == machine_id()):
        return
    on_waiting(host_of(first), timing.patience)
    waited = 0.0
    while waited < timing.patience:
        ended.wait(timing.patience / 10)
        waited += timing.patience / 10
        now = store.read(LEASE)
        if now is None:
            return
        if now != first:
            raise LeaseHeldError(host_of(now))


def _renew(lease: Lease, timing: LeaseTiming, ended: threading.Event) -> None:
    renewals = 0
    while not ended.wait(timing.renewal):
        renewals += 1
        try:
            if not lease.verify():
                return
            lease.write(renewals)
        except OSError:
            # The store may be reachable again at the next renewal.
            continue


def host_of(content: bytes | None) -> str:
    """Return the host in the content of a lease, for a message."""
    return _field(content, "host") or "an unknown host"


def _field(content: bytes | None, name: str) -> str | None:
    try:
        fields = json.loads(content or b"{}")
    except ValueError:
        return None
    return str(fields[name]) if isinstance(fields, dict) and name in fields else None
