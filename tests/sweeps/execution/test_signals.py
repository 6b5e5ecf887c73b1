"""Signals in a command that does not supervise a driver."""

import asyncio
import signal
import threading

import pytest

from sweeps.execution.signals import SIGNALS, interrupt_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_an_event_loop_is_ended_in_order(number):
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    with interrupt_on_signals(), asyncio.Runner() as runner:
        main = threading.main_thread().ident
        timer = threading.Timer(0.2, signal.pthread_kill, [main, number])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            runner.run(wait())
        assert ended == [number]


def test_sigterm_interrupts_although_sigint_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt_on_signals(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
