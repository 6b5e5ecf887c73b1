"""One driver at a time where locks do not reach every machine: an object that the driver renews while it lives.

No clock is compared. Who finds a lease watches whether it changes: if so its owner lives, if not it was killed. A store
without conditional writes cannot rule out that two who start within the same moment both see nothing; each looks again
after a pause, and who is not the last writer gives up. A driver that was away from the store so long that another took
its lease over learns of it at its next renewal.
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

__all__ = ["LEASE", "Lease", "LeaseHeldError", "LeaseTiming", "Store", "Waiting", "leased", "machine_id"]

LEASE = ".driver.lease"

BOOT = Path("/proc/sys/kernel/random/boot_id")

Waiting = Callable[[str, float], None]
"""Is told of the host whose lease is watched, and for how many seconds at most."""


class Store(Protocol):
    """Where the lease lies; each call acts on a whole object."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class LeaseHeldError(LagvaeError):
    """Another driver holds the lease; the message names its host."""


@dataclass(frozen=True)
class LeaseTiming:
    """In seconds: how often a lease is renewed, how long one without a renewal is watched, how long rivals may take."""

    renewal: float = 15.0
    patience: float = 50.0
    election_delay: float = 2.0


LEASE_TIMING = LeaseTiming()


@dataclass
class Lease:
    """A lease of this process. `taken_by`: the host of whoever took it over; empty as long as nobody did."""

    store: Store
    timing: LeaseTiming
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken_by: str = ""
    _seen: float = 0.0

    def write(self, renewals: int) -> None:
        told = {"owner": self.owner, "host": socket.gethostname(), "machine": machine_id(), "renewals": renewals}
        self.store.write(LEASE, json.dumps(told).encode())

    def verify(self) -> bool:
        """Whether it is still ours. One that is gone was another's, which has ended."""
        found = self.store.read(LEASE)
        if _field(found, "owner") != self.owner:
            self.taken_by = _host(found)
        self._seen = time.time()
        return not self.taken_by

    def lost(self) -> bool:
        """Whether another took it over; looks, if nothing was heard of it for longer than renewals take.

        Raises:
            OSError: the store does not answer, so that it cannot be told.
        """
        # The wall clock alone goes on while a machine sleeps.
        if not self.taken_by and not 0 <= time.time() - self._seen < 2 * self.timing.renewal:
            self.verify()
        return bool(self.taken_by)


def machine_id() -> str:
    """This start of this host."""
    return f"{socket.gethostname()} {BOOT.read_text().strip() if BOOT.exists() else ''}"


@contextmanager
def leased(
    store: Store,
    timing: LeaseTiming | None = None,
    *,
    alone_here: bool = False,
    waiting: Waiting = lambda host, seconds: None,
) -> Iterator[Lease]:
    """A block in which this process holds the lease of `store`.

    `alone_here`: no other process of this machine drives, so that a lease of this machine is that of a dead one.

    Raises:
        Taken: another process holds it.
    """
    timing = timing or LEASE_TIMING
    lease, ended = Lease(store, timing), threading.Event()
    _await_end_of(store, timing, ended, alone_here, waiting)
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
        # Left behind it costs the next driver a pause, and hides no exception of the block.
        with contextlib.suppress(OSError):
            if lease.verify():
                store.remove(LEASE)


def _await_end_of(
    store: Store, timing: LeaseTiming, ended: threading.Event, alone_here: bool, waiting: Waiting
) -> None:
    """Return when there is no lease, or one that nobody renews."""
    first = store.read(LEASE)
    if first is None or (alone_here and _field(first, "machine") == machine_id()):
        return
    waiting(_host(first), timing.patience)
    waited = 0.0
    while waited < timing.patience:
        ended.wait(timing.patience / 10)
        waited += timing.patience / 10
        now = store.read(LEASE)
        if now is None:
            return
        if now != first:
            raise LeaseHeldError(_host(now))


def _renew(lease: Lease, timing: LeaseTiming, ended: threading.Event) -> None:
    renewals = 0
    while not ended.wait(timing.renewal):
        renewals += 1
        try:
            if not lease.verify():
                return
            lease.write(renewals)
        except OSError:
            # The next renewal may reach the store again, and one may be missed.
            continue


def _host(content: bytes | None) -> str:
    return _field(content, "host") or "an unknown host"


def _field(content: bytes | None, name: str) -> str | None:
    try:
        told = json.loads(content or b"{}")
    except ValueError:
        return None
    return str(told[name]) if isinstance(told, dict) and name in told else None
