"""The driver's side of the process of a tracker, which never makes the driver wait."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from queue import Empty, Full, Queue
from typing import Any

from sweeps.trackers.record import CompletionRecord

__all__ = ["MAX_QUEUED", "Message", "TrackerProcess"]

Message = Mapping[str, Any]

MAX_QUEUED = 10_000
"""Largest number of events that wait to be sent. A tracker that is further behind is given up."""

STALL_SECONDS = 300.0
"""Longest time that a tracker may take to answer a message [s]. Clients retry a server for up to two minutes."""

POLL_SECONDS = 0.1
"""Time between two looks at the queue [s] while the backlog is sent or the tracker is being closed."""


class TrackerProcess:
    """Sends messages to the process of a tracker.

    Messages are generated, sent and answered in two threads. All methods but `wait` return at once.

    Args:
        name: Name of the tracker.
        settings: Arguments of its class, as plain data.
        backlog: Messages that are sent whenever nothing else is to be sent.
        record: Receives what is complete.

    Attributes:
        name: Name of the tracker.
        failure: Why the tracker was given up; None if it was not.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        backlog: Iterable[Message],
        record: CompletionRecord,
    ) -> None:
        self.name = name
        self.failure: str | None = None
        self._backlog = iter(backlog)
        self._record = record
        self._queue: Queue[Iterable[Message]] = Queue(MAX_QUEUED)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._unanswered, self._since = 0, time.monotonic()
        # A session of its own: signals to the driver do not reach the process.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sweeps.trackers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._queue.put([{"call": name, **settings}])
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._send_all, self._receive)]
        for thread in self._threads:
            thread.start()

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages, which are taken from the iterable in another thread."""
        try:
            self._queue.put_nowait(messages)
        except Full:
            self._fail(f"it cannot keep up: {MAX_QUEUED:,} events wait to be sent")

    def check(self) -> None:
        """Give up the tracker if it has not answered for too long."""
        with self._lock:
            stalled = self._unanswered > 0 and time.monotonic() - self._since > STALL_SECONDS
        if stalled:
            self._fail(f"it did not answer for {STALL_SECONDS:.0f} s")

    def close(self) -> None:
        """Send what is left, and close the tracker."""
        self._closing.set()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`, and return whether the tracker has ended."""
        self._threads[-1].join(seconds)
        return not self._threads[-1].is_alive()

    def abandon(self, reason: str) -> None:
        """Give up the tracker because of `reason`, if it has not ended."""
        if self._threads[-1].is_alive():
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        with self._lock:
            self.failure = self.failure or reason
        self._process.kill()

    def _messages(self) -> Iterator[Message]:
        """Yield the messages: events as they come, the backlog in between, and `close` after both."""
        backlog_left = True
        while self.failure is None:
            try:
                yield from self._queue.get(timeout=0 if backlog_left else POLL_SECONDS)
                continue
            except Empty:
                pass
            if backlog_left and (message := next(self._backlog, None)) is not None:
                yield message
            elif self._closing.is_set() and self._queue.empty():
                yield {"call": "close"}
                return
            else:
                backlog_left = False

    def _send_all(self) -> None:
        assert self._process.stdin is not None
        try:
            for message in self._messages():
                line = json.dumps(message).encode() + b"\n"
                with self._lock:
                    if self._unanswered == 0:
                        self._since = time.monotonic()
                    self._unanswered += 1
                self._process.stdin.write(line)
                self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended, and `_receive` says why
        except Exception as error:  # for example, the stored curves cannot be read
            self._fail(f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _receive(self) -> None:
        try:
            closed = self._receive_answers()
            self._record.write()
        except Exception as error:  # for example, the results folder is not writable
            self._fail(f"{type(error).__name__}: {error}")
            return
        code = self._process.wait()
        if not closed:
            self._fail(f"its process ended with exit code {code}")

    def _receive_answers(self) -> bool:
        """Return whether the tracker was closed before its process ended."""
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                answer = json.loads(line)
                with self._lock:
                    self._unanswered, self._since = self._unanswered - 1, time.monotonic()
                if "error" in answer:
                    self._fail(answer["error"])
                elif "complete" in answer:
                    self._record.add(answer["complete"])
                elif "closed" in answer:
                    return True
        return False
