"""A driver's work under supervision, with real signals and without Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from lagvae_core.errors import LagvaeError
from sweeps.execution import supervisor as module
from sweeps.execution.monitor import SilentMonitor
from sweeps.execution.signals import interrupt_on_signals
from sweeps.execution.supervisor import Supervisor

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOR_EVER = threading.Event()
"""Stands for a call that blocks outside of Python: no exception reaches a thread that waits for it."""


class Notices(SilentMonitor):
    def __init__(self) -> None:
        self.saving: list[bool] = []
        self.time_up: list[bool] = []

    def on_interrupted(self, saving: bool) -> None:
        self.saving.append(saving)

    def on_time_up(self, saving: bool) -> None:
        self.time_up.append(saving)


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def supervisor(monkeypatch) -> Supervisor:
    monkeypatch.setattr(module, "REPEAT_SECONDS", 0.0)
    return Supervisor(Notices())


def notices(supervisor: Supervisor) -> list[bool]:
    monitor = supervisor._monitor
    assert isinstance(monitor, Notices)
    return monitor.saving


def test_results_and_exceptions_of_the_work_reach_the_caller(supervisor):
    assert supervisor.run(lambda: 1) == 1
    with pytest.raises(KeyError):
        supervisor.run(lambda: {}[0])


@pytest.mark.parametrize("number", ALL)
def test_a_signal_before_the_training_ends_the_work_and_its_cleanup_runs(supervisor, number):
    cleaned = []

    def work() -> None:
        try:
            send(number)
            wait_until(lambda: False)
        finally:
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        supervisor.run(work)
    assert notices(supervisor) == [False]
    assert cleaned


@pytest.mark.parametrize("number", ALL)
def test_during_training_the_first_signal_lets_runs_save_and_the_second_does_not(supervisor, number):
    def work() -> str:
        supervisor.start_training()
        send(number)
        wait_until(lambda: supervisor.interrupted)
        assert not supervisor.urgent
        wait_until(lambda: bool(notices(supervisor)))
        send(number)
        wait_until(lambda: supervisor.urgent)
        return "ended"

    assert supervisor.run(work) == "ended"
    assert notices(supervisor) == [True]


def test_two_signals_in_quick_succession_are_one(supervisor, monkeypatch):
    """`timeout` signals its child and then the group of its child."""
    monkeypatch.setattr(module, "REPEAT_SECONDS", 60.0)

    def work() -> bool:
        supervisor.start_training()
        for _ in range(2):
            send(signal.SIGTERM)
            time.sleep(0.3)
        return supervisor.urgent

    assert not supervisor.run(work)
    assert notices(supervisor) == [True]


class TestTimeLimit:
    def test_lets_runs_save_and_a_signal_then_stops_them(self):
        monitor = Notices()
        supervisor = Supervisor(monitor, seconds=0.0)

        def work() -> str:
            wait_until(lambda: supervisor.interrupted)
            assert (supervisor.timed_out, supervisor.urgent) == (True, False)
            wait_until(lambda: bool(monitor.time_up))
            send(signal.SIGINT)
            wait_until(lambda: supervisor.urgent)
            return "ended"

        supervisor.start_training()
        assert supervisor.run(work) == "ended"
        assert (monitor.time_up, monitor.saving) == ([True], [])

    def test_ends_the_work_before_the_training(self):
        monitor = Notices()
        with pytest.raises(KeyboardInterrupt):
            Supervisor(monitor, seconds=0.0).run(lambda: wait_until(lambda: False))
        assert (monitor.time_up, monitor.saving) == ([False], [])

    def test_has_no_effect_after_a_signal(self, monkeypatch):
        monitor = Notices()
        supervisor = Supervisor(monitor, seconds=3600.0)

        def work() -> None:
            send(signal.SIGINT)
            wait_until(lambda: bool(monitor.saving))
            monkeypatch.setattr(supervisor, "_end", 0.0)
            threading.Event().wait(3 * module.POLL_SECONDS)

        supervisor.start_training()
        supervisor.run(work)
        assert (supervisor.timed_out, supervisor.urgent, monitor.time_up) == (False, False, [])


def test_runs_have_limited_time_to_save(supervisor, monkeypatch):
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)

    def work() -> None:
        supervisor.start_training()
        send(signal.SIGTERM)
        wait_until(lambda: supervisor.urgent)

    supervisor.run(work)


def test_work_that_is_blocked_is_left_behind_after_its_rows_are_written(supervisor, monkeypatch):
    exits = []
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(module.atexit, "register", lambda *arguments: exits.append(arguments[1]))
    closed = []

    def work() -> None:
        supervisor.on_abandoned += [lambda: closed.append("first"), lambda: closed.append("last")]
        supervisor.start_training()
        send(signal.SIGINT)
        wait_until(lambda: bool(notices(supervisor)))
        send(signal.SIGINT)
        FOR_EVER.wait(60)

    with pytest.raises(KeyboardInterrupt):
        supervisor.run(work)
    assert closed == ["last", "first"]
    assert exits == [130]


def test_the_loss_of_ray_ends_blocked_work_with_its_error(supervisor, monkeypatch):
    class LostError(LagvaeError):
        exit_code = 1

    exits, lost = [], []
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(module.atexit, "register", lambda *arguments: exits.append(arguments[1]))

    def work() -> None:
        supervisor.start_training()
        with supervisor.watching(lambda: LostError("raylet") if lost else None):
            lost.append(True)
            FOR_EVER.wait(60)

    with pytest.raises(LostError):
        supervisor.run(work)
    assert exits == [1]
    assert notices(supervisor) == []


def test_an_ignored_signal_stays_ignored(supervisor):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        supervisor.run(lambda: (send(signal.SIGHUP), time.sleep(0.3)))
        with interrupt_on_signals():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert notices(supervisor) == []


def test_handlers_are_restored(supervisor):
    before = [signal.getsignal(number) for number in ALL]
    supervisor.run(lambda: None)
    assert [signal.getsignal(number) for number in ALL] == before


@pytest.mark.parametrize("number", ALL)
def test_commands_without_runs_are_interrupted_at_once(number):
    def work() -> None:
        with interrupt_on_signals():
            send(number)
            time.sleep(1.0)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_outside_of_the_main_thread_signals_are_left_alone(supervisor):
    results = []
    thread = threading.Thread(target=lambda: results.append(supervisor.run(lambda: 1)))
    thread.start()
    thread.join()
    assert results == [1]
