"""Drivers that share a store without locks, simulated in one process by a dictionary, threads and short times."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field

import pytest

from sweeps.storage.lease import LEASE, LeaseHeldError, LeaseTiming, leased, machine_id

LEASE_TIMING = LeaseTiming(renewal=0.01, patience=0.5, election_delay=0.0)


@dataclass
class Objects:
    """A store in memory, whose next `fails` writes fail."""

    contents: dict[str, bytes] = field(default_factory=dict)
    fails: int = 0

    def read(self, name: str) -> bytes | None:
        return self.contents.get(name)

    def write(self, name: str, content: bytes) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the store does not answer")
        self.contents[name] = content

    def remove(self, name: str) -> None:
        self.contents.pop(name, None)


def test_a_second_driver_fails_while_the_first_runs():
    store = Objects()
    with leased(store, LEASE_TIMING), pytest.raises(LeaseHeldError), leased(store, LEASE_TIMING):
        pass
    assert store.contents == {}
    with leased(store, LEASE_TIMING):
        assert LEASE in store.contents


def test_the_lease_of_a_killed_driver_is_taken_over():
    store = Objects({LEASE: json.dumps({"owner": "killed", "host": "h", "renewals": 7}).encode()})
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)):
        assert b"killed" not in store.contents[LEASE]


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"{}"])
def test_an_unreadable_lease_that_nobody_renews_is_taken_over(content):
    store = Objects({LEASE: content})
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)):
        assert b"owner" in store.contents[LEASE]


def test_a_waiting_driver_starts_when_the_other_ends():
    store = Objects({LEASE: b"{}"})
    threading.Timer(0.1, store.remove, (LEASE,)).start()
    with leased(store, LeaseTiming(renewal=60, patience=2, election_delay=0)):
        pass


def test_of_two_drivers_at_the_same_moment_the_last_writer_wins():
    """The other driver overwrites the lease during the pause."""
    store, rival = Objects(), json.dumps({"owner": "rival", "host": "elsewhere", "renewals": 0}).encode()

    class Overwritten(Objects):
        def write(self, name: str, content: bytes) -> None:
            store.contents[name] = rival

        def read(self, name: str) -> bytes | None:
            return store.read(name)

    with pytest.raises(LeaseHeldError) as caught, leased(Overwritten(), LEASE_TIMING):
        pass
    assert caught.value.host == "elsewhere"
    assert str(caught.value).startswith("Another driver on elsewhere is running the sweep.")
    assert store.contents[LEASE] == rival


def test_failed_renewals_are_repeated():
    store = Objects()
    with leased(store, LEASE_TIMING):
        store.fails, before = 2, store.contents[LEASE]
        renewed = threading.Event()
        while store.fails or store.contents[LEASE] == before:
            renewed.wait(0.01)
    assert store.contents == {}


def test_the_lease_is_removed_when_the_driver_fails():
    store = Objects()
    with pytest.raises(ZeroDivisionError), leased(store, LEASE_TIMING):
        raise ZeroDivisionError
    assert store.contents == {}


def abandoned_on(machine: str) -> Objects:
    """Return a store with the lease of a killed driver."""
    return Objects({LEASE: json.dumps({"owner": "killed", "host": "h", "machine": machine, "renewals": 7}).encode()})


def test_a_killed_driver_of_this_machine_is_not_waited_for():
    calls = []
    timing = LeaseTiming(renewal=60, patience=3600, election_delay=0)
    with leased(abandoned_on(machine_id()), timing, alone_here=True, on_waiting=lambda *call: calls.append(call)):
        assert calls == []


@pytest.mark.parametrize(("machine", "alone_here"), [(machine_id(), False), ("another", True)])
def test_other_abandoned_leases_are_watched_and_reported(machine, alone_here):
    calls = []
    timing = LeaseTiming(renewal=60, patience=0.05, election_delay=0)
    with leased(abandoned_on(machine), timing, alone_here=alone_here, on_waiting=lambda *call: calls.append(call)):
        assert calls == [("h", 0.05)]


def test_a_driver_detects_that_its_lease_was_taken_over_and_does_not_remove_it():
    """It could not reach the store for longer than the other driver waits."""
    store, other = Objects(), json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode()
    with leased(store, LEASE_TIMING) as lease:
        assert lease.taken_by == ""
        store.contents[LEASE] = other
        pause = threading.Event()
        while not lease.taken_by:
            pause.wait(0.01)
    assert lease.taken_by == "elsewhere"
    assert store.contents == {LEASE: other}


def test_after_sleep_the_lease_is_verified_first(monkeypatch):
    """When the machine wakes up, the driver may write a row before the lease is renewed."""
    store, other = Objects(), json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode()
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)) as lease:
        store.contents[LEASE] = other
        assert not lease.lost(), "the lease was not read since the start"
        wake_up = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: wake_up)
        assert lease.lost()
    assert store.contents == {LEASE: other}


def test_a_missing_lease_was_taken_over_by_a_driver_that_has_ended():
    """Its rows are newer, so this driver must not continue."""
    store = Objects()
    with leased(store, LEASE_TIMING) as lease:
        del store.contents[LEASE]
        pause = threading.Event()
        while not lease.taken_by:
            pause.wait(0.01)
    assert store.contents == {}


def test_a_failing_removal_of_the_lease_hides_no_exception():
    class Unremovable(Objects):
        def remove(self, name: str) -> None:
            raise OSError("the store does not answer")

    with pytest.raises(ZeroDivisionError), leased(Unremovable(), LEASE_TIMING):
        raise ZeroDivisionError
