"""One driver at a time on a store that has no locks: an object that the driver renews for as long as it lives.

No clock is compared. Who finds a lease watches whether it changes: if so its owner lives, if not it was killed. A store
without conditional writes cannot rule out that two who start within the same moment both see nothing; each looks again
after a pause, and who is not the last writer gives up.
"""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["LEASE", "Pace", "Store", "Taken", "leased"]

LEASE = ".driver.lease"


class Store(Protocol):
    """Where the lease lies; each call acts on a whole object."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class Taken(Exception):
    """Another driver holds the lease; the message names its host."""


@dataclass(frozen=True)
class Pace:
    """In seconds: how often a lease is renewed, how long one without a renewal is watched, how long rivals may take."""

    renewal: float = 15.0
    patience: float = 50.0
    rivalry: float = 2.0


@contextmanager
def leased(store: Store, pace: Pace | None = None) -> Iterator[None]:
    """A block in which this process holds the lease of `store`.

    Raises:
        Taken: another process does.
    """
    pace, owner, ended = pace or Pace(), uuid.uuid4().hex, threading.Event()
    _await_end_of(store, pace, ended)
    _write(store, owner, 0)
    ended.wait(pace.rivalry)
    found = store.read(LEASE)
    if _owner(found) != owner:
        raise Taken(_host(found))
    renewing = threading.Thread(target=_renew, args=(store, owner, pace, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        if _owner(store.read(LEASE)) == owner:
            store.remove(LEASE)


def _await_end_of(store: Store, pace: Pace, ended: threading.Event) -> None:
    """Return when there is no lease, or one that nobody renews."""
    first = store.read(LEASE)
    waited = 0.0
    while first is not None and waited < pace.patience:
        ended.wait(pace.patience / 10)
        waited += pace.patience / 10
        now = store.read(LEASE)
        if now is None:
            return
        if now != first:
            raise Taken(_host(now))


def _renew(store: Store, owner: str, pace: Pace, ended: threading.Event) -> None:
    renewals = 0
    while not ended.wait(pace.renewal):
        renewals += 1
        try:
            _write(store, owner, renewals)
        except OSError:
            # The next renewal may reach the store again, and one may be missed.
            continue


def _write(store: Store, owner: str, renewals: int) -> None:
    told = {"owner": owner, "host": socket.gethostname(), "renewals": renewals}
    store.write(LEASE, json.dumps(told).encode())


def _owner(content: bytes | None) -> str | None:
    return _field(content, "owner")


def _host(content: bytes | None) -> str:
    return _field(content, "host") or "an unknown host"


def _field(content: bytes | None, name: str) -> str | None:
    try:
        told = json.loads(content or b"{}")
    except ValueError:
        return None
    return str(told[name]) if isinstance(told, dict) and name in told else None
