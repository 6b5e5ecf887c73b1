"""Handling the signals that end a command."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

__all__ = ["handling_signals", "interrupt_on_signals"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that interrupt a driver: from Ctrl-C, from cluster schedulers and `timeout`, and from a closed terminal."""


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Context manager. SIGTERM and SIGHUP do what SIGINT does, which raises KeyboardInterrupt.

    SIGINT keeps its handler. asyncio replaces only Python's own one, by a handler that ends the event loop in order.
    """

    def interrupt() -> None:
        if not callable(signal.getsignal(signal.SIGINT)):  # ignored, as in the background of a script
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    with handling_signals(interrupt, SIGNALS[1:]):
        yield


@contextlib.contextmanager
def handling_signals(
    handler: Callable[[], None], signals: Sequence[signal.Signals] = SIGNALS
) -> Iterator[Callable[[], None]]:
    """Context manager. Calls `handler` after each of `signals`, except those that the process ignores.

    Python handles signals only in the main thread, so in other threads this context manager has no effect.

    Yields:
        A function that installs the handlers again, in case a library has replaced them, as Ray does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    terminals = [stream for stream in (0, 1, 2) if _is_terminal(stream)]

    def handle(number: int, frame: object) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            _detach(terminals)
        handler()

    before = {number: signal.getsignal(number) for number in signals}
    handled = [number for number in signals if before[number] != signal.SIG_IGN]

    def install() -> None:
        for number in handled:
            signal.signal(number, handle)

    install()
    try:
        yield install
    finally:
        for number in handled:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:
        return False


def _detach(terminals: list[int]) -> None:
    """Replace `terminals` that are gone by /dev/null, because writing to them would fail."""
    for stream in terminals:
        if not _is_terminal(stream):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
