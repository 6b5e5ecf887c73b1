"""Drivers that share a store without locks, in one process: a dictionary, threads and short times."""

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
    kept: dict[str, bytes] = field(default_factory=dict)
    fails: int = 0

    def read(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def write(self, name: str, content: bytes) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the store is away")
        self.kept[name] = content

    def remove(self, name: str) -> None:
        self.kept.pop(name, None)


def test_a_second_driver_is_refused_while_the_first_lives():
    store = Objects()
    with leased(store, LEASE_TIMING), pytest.raises(LeaseHeldError), leased(store, LEASE_TIMING):
        pass
    assert store.kept == {}
    with leased(store, LEASE_TIMING):
        assert LEASE in store.kept


def test_the_lease_of_a_killed_driver_is_taken_over():
    store = Objects({LEASE: json.dumps({"owner": "killed", "host": "h", "renewals": 7}).encode()})
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)):
        assert b"killed" not in store.kept[LEASE]


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"{}"])
def test_a_lease_that_says_nothing_is_one(content):
    store = Objects({LEASE: content})
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)):
        assert b"owner" in store.kept[LEASE]


def test_who_waits_for_a_driver_that_ends_goes_on():
    store = Objects({LEASE: b"{}"})
    threading.Timer(0.1, store.remove, (LEASE,)).start()
    with leased(store, LeaseTiming(renewal=60, patience=2, election_delay=0)):
        pass


def test_of_rivals_the_last_writer_wins():
    """The other writes in the pause after us."""
    store, rival = Objects(), json.dumps({"owner": "rival", "host": "elsewhere", "renewals": 0}).encode()

    class Slow(Objects):
        def write(self, name: str, content: bytes) -> None:
            store.kept[name] = rival

        def read(self, name: str) -> bytes | None:
            return store.read(name)

    with pytest.raises(LeaseHeldError, match="elsewhere"), leased(Slow(), LEASE_TIMING):
        pass
    assert store.kept[LEASE] == rival


def test_a_store_that_is_away_for_a_moment_costs_nothing():
    store = Objects()
    with leased(store, LEASE_TIMING):
        store.fails, before = 2, store.kept[LEASE]
        renewed = threading.Event()
        while store.fails or store.kept[LEASE] == before:
            renewed.wait(0.01)
    assert store.kept == {}


def test_it_is_given_back_when_the_driver_fails():
    store = Objects()
    with pytest.raises(ZeroDivisionError), leased(store, LEASE_TIMING):
        raise ZeroDivisionError
    assert store.kept == {}


def of_a_killed(machine: str) -> Objects:
    return Objects({LEASE: json.dumps({"owner": "killed", "host": "h", "machine": machine, "renewals": 7}).encode()})


def test_who_alone_drives_on_a_machine_does_not_wait_for_a_dead_one_of_it():
    heard = []
    with leased(
        of_a_killed(machine_id()), LeaseTiming(60, 3600, 0), alone_here=True, waiting=lambda *of: heard.append(of)
    ):
        assert heard == []


@pytest.mark.parametrize(("machine", "alone_here"), [(machine_id(), False), ("another", True)])
def test_else_it_waits_and_says_for_whom(machine, alone_here):
    heard = []
    timing = LeaseTiming(renewal=60, patience=0.05, election_delay=0)
    with leased(of_a_killed(machine), timing, alone_here=alone_here, waiting=lambda *of: heard.append(of)):
        assert heard == [("h", 0.05)]


def test_a_driver_whose_lease_was_taken_over_learns_of_it_and_leaves_it():
    """It was away from the store for longer than another waits."""
    store, other = Objects(), json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode()
    with leased(store, LEASE_TIMING) as lease:
        assert lease.taken_by == ""
        store.kept[LEASE] = other
        pause = threading.Event()
        while not lease.taken_by:
            pause.wait(0.01)
    assert lease.taken_by == "elsewhere"
    assert store.kept == {LEASE: other}


def test_who_slept_looks_before_it_trusts(monkeypatch):
    """The first to wake up may be who writes a row, before who renews."""
    store, other = Objects(), json.dumps({"owner": "other", "host": "elsewhere", "renewals": 0}).encode()
    with leased(store, LeaseTiming(renewal=60, patience=0.05, election_delay=0)) as lease:
        store.kept[LEASE] = other
        assert not lease.lost(), "nobody looked since the start"
        woken = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: woken)
        assert lease.lost()
    assert store.kept == {LEASE: other}


def test_a_lease_that_is_gone_was_taken_over_by_a_driver_that_has_ended():
    """Who took it for one that nobody had would drive the sweep of another."""
    store = Objects()
    with leased(store, LEASE_TIMING) as lease:
        del store.kept[LEASE]
        pause = threading.Event()
        while not lease.taken_by:
            pause.wait(0.01)
    assert store.kept == {}


def test_a_lease_that_cannot_be_given_back_hides_no_exception():
    class Away(Objects):
        def remove(self, name: str) -> None:
            raise OSError("the store is away")

    with pytest.raises(ZeroDivisionError), leased(Away(), LEASE_TIMING):
        raise ZeroDivisionError
