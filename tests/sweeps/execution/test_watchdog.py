"""The watchdog, which finds runs that report nothing, with a clock of the test."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sweeps.execution.tune import PHASE_SECONDS, phase_seconds
from sweeps.execution.watchdog import FACTOR, FIRST_EPOCH_SECONDS, LATER_SECONDS, Watchdog
from sweeps.spec.sections import ResourceSpec


@dataclass
class World:
    """A watchdog whose driver listens ten times a second."""

    patience: float | str
    now: float = 1000.0
    watchdog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.patience, lambda: self.now)

    def listen(self, seconds: float) -> dict[str, float]:
        """Listen for some time and return the first runs that were silent for too long."""
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            if silent := self.watchdog.listen():
                return silent
        return {}


def test_a_run_is_silent_once_its_patience_is_over():
    world = World(30.0)
    world.watchdog.on_started("a")
    assert world.listen(20) == {}
    world.watchdog.on_started("b")
    assert world.listen(9) == {}
    silent = world.listen(10)
    assert silent == {"a": pytest.approx(30, abs=2)}
    world.watchdog.on_ended("a")
    assert list(world.listen(60)) == ["b"]


@pytest.mark.parametrize("epoch", [True, False])
def test_any_report_ends_a_silence(epoch):
    world = World(30.0)
    world.watchdog.on_started("a")
    for _ in range(5):
        assert world.listen(25) == {}
        world.watchdog.on_report("a", epoch=epoch)
    assert list(world.listen(40)) == ["a"]


def test_a_run_that_has_ended_is_not_watched():
    world = World(30.0)
    world.watchdog.on_started("a")
    world.watchdog.on_ended("a")
    world.watchdog.on_report("a", epoch=True)
    assert world.listen(100) == {}


def test_time_in_which_the_driver_does_not_listen_is_not_silence():
    world = World(30.0)
    world.watchdog.on_started("a")
    for _ in range(10):
        world.now += 120.0  # the driver waits for its storage
        assert world.watchdog.listen() == {}


@pytest.mark.parametrize(
    ("epoch_seconds", "patience"), [(None, FIRST_EPOCH_SECONDS), (5, LATER_SECONDS), (60, FACTOR * 60)]
)
def test_automatic_patience_follows_the_longest_epoch(epoch_seconds, patience):
    world = World("auto")
    world.watchdog.on_started("a")
    if epoch_seconds is not None:
        for seconds in (epoch_seconds, 1):
            assert world.listen(seconds) == {}
            world.watchdog.on_report("a", epoch=True)
    assert world.listen(patience - 5) == {}
    assert list(world.listen(10)) == ["a"]


def test_automatic_patience_counts_an_epoch_as_a_whole_and_a_long_phase_without_reports():
    world = World("auto")
    world.watchdog.on_started("a")
    for _ in range(10):
        assert world.listen(10) == {}
        world.watchdog.on_report("a", epoch=False)
    world.watchdog.on_report("a", epoch=True)
    assert world.listen(FACTOR * 100 - 5) == {}, "the epoch took 100 s"
    world.watchdog.on_report("a", epoch=False)
    assert world.listen(FACTOR * 1000) == {}, "the run was silent for longer than an epoch and went on"


def test_reports_within_phases_are_rarer_with_many_runs_but_more_frequent_than_the_patience():
    assert phase_seconds(2, ResourceSpec()) == PHASE_SECONDS
    assert phase_seconds(1000, ResourceSpec()) > PHASE_SECONDS
    assert phase_seconds(1000, ResourceSpec(patience=60)) <= 60 / 2
    assert phase_seconds(1000, ResourceSpec(patience=10)) == PHASE_SECONDS
