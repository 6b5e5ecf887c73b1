"""Supervision of a driver: its work is done in a thread, so that the main thread always answers signals.

Ray's calls can block for minutes or for ever inside C++, where Python handles no signal. Therefore the main thread only
waits, answers signals and watches the processes of Ray. If the working thread does not end although it was told to, the
main thread leaves it behind.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from lagvae_core.errors import LagvaeError
from sweeps.execution.monitor import Monitor
from sweeps.execution.signals import handling_signals

__all__ = ["INTERRUPTED", "Supervisor"]

INTERRUPTED = 130
"""Exit code of an interrupted command."""

POLL_SECONDS = 0.1
"""Time between two looks at the signals and at the processes of Ray [s]."""

REPEAT_SECONDS = 0.5
"""Time within which a further signal belongs to the first one [s]. `timeout` signals its child and then its group."""

SAVE_SECONDS = 30.0
"""Maximum time for running runs to save their checkpoints [s]. Without a signal, they save one every 30 s."""

STOP_SECONDS = 15.0
"""Maximum time for the working thread to end after it was told to stop [s]."""

T = TypeVar("T")


class Supervisor:
    """Runs the work of a driver in a thread and answers signals in the calling thread.

    The first signal interrupts the work. From `start_training` on, the work should end once running runs have saved
    their checkpoints; before, KeyboardInterrupt is raised in the working thread. The second signal, or the loss of Ray,
    demands that the work stops now. A time limit has the effect of a first signal.

    Args:
        monitor: Notified of the first signal or of the end of the time, in the calling thread.
        seconds: Time until the work is interrupted [s], counted from now; None for no limit.

    Attributes:
        interrupted: Whether a signal has arrived or the time is over.
        timed_out: Whether the end of the time interrupted the work.
        urgent: Whether the work must stop without waiting for running runs.
        failure: Why the work cannot continue, if this is not a signal.
        on_abandoned: Functions that the supervising thread calls, the last one first, if it leaves the working thread
            behind.
    """

    def __init__(self, monitor: Monitor, seconds: float | None = None) -> None:
        self.interrupted = False
        self.timed_out = False
        self.urgent = False
        self.failure: LagvaeError | None = None
        self.on_abandoned: list[Callable[[], None]] = []
        self._monitor = monitor
        self._signals = self._answered = 0
        self._last_signal = float("-inf")
        self._lock = threading.Lock()
        self._abortable = True
        self._deadline = float("inf")
        self._end = float("inf") if seconds is None else time.monotonic() + seconds
        self._check: Callable[[], LagvaeError | None] = lambda: None

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which runs in a thread.

        Signals that were ignored when the process started (`nohup`) stay ignored.

        Raises:
            KeyboardInterrupt: A signal interrupted the work.
            LagvaeError: `failure`, if the working thread had to be left behind. The process then exits without Ray's
                own cleanup, which could block as well.
        """
        result: Future[T] = Future()

        def target() -> None:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        with handling_signals(self._on_signal) as install_handlers:
            thread = threading.Thread(target=target, name="driver", daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                install_handlers()
                self._supervise(thread)
        return result.result()

    def start_training(self) -> None:
        """Promise that from now on the work observes `interrupted` and `urgent` itself."""
        with self._lock:
            self._abortable = False

    @contextlib.contextmanager
    def watching(self, check: Callable[[], LagvaeError | None]) -> Iterator[None]:
        """Context manager. During the block, the work must stop as soon as `check` returns an error."""
        self._check = check
        try:
            yield
        finally:
            self._check = lambda: None

    def _on_signal(self) -> None:
        now = time.monotonic()
        if now - self._last_signal > REPEAT_SECONDS:
            self._signals += 1
            self._last_signal = now

    def _supervise(self, thread: threading.Thread) -> None:
        if self._signals > self._answered:
            self._answered = self._signals
            self._interrupt(thread)
        if not self.interrupted and self.failure is None and time.monotonic() > self._end:
            self.timed_out = True
            self._interrupt(thread)
        if self.failure is None and (failure := self._check()) is not None:
            self.failure = failure
            self._stop(thread)
        if time.monotonic() > self._deadline and thread.is_alive():
            if self.urgent:
                self._abandon()
            self._stop(thread)

    def _interrupt(self, thread: threading.Thread) -> None:
        """Let running runs save their checkpoints, or demand that the work stops if it was interrupted before."""
        first = not self.interrupted
        saving = first and not self._abortable
        self.interrupted = True
        if saving:
            self._deadline = time.monotonic() + SAVE_SECONDS
        else:
            self._stop(thread)
        if first:
            with contextlib.suppress(OSError):  # the terminal may be gone
                notify = self._monitor.on_time_up if self.timed_out else self._monitor.on_interrupted
                notify(saving)

    def _stop(self, thread: threading.Thread) -> None:
        """Demand that the work stops now."""
        if not self.urgent:
            self.urgent = True
            self._deadline = time.monotonic() + STOP_SECONDS
        with self._lock:
            if self._abortable and thread.ident is not None:
                self._abortable = False
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
                )

    def _abandon(self) -> None:
        """Leave the working thread behind, which is blocked outside of Python."""
        for function in reversed(self.on_abandoned):
            function()
        code = INTERRUPTED if self.failure is None else self.failure.exit_code
        atexit.register(_exit_at_once, code)
        raise KeyboardInterrupt if self.failure is None else self.failure


def _exit_at_once(code: int) -> None:
    """Exit without the remaining exit handlers and without waiting for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
