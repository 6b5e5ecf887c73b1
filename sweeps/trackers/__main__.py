"""The process of one tracker: calls the client of its tool with what the driver sends, and answers each message.

A message and its answer are one line of JSON each. The first message selects the tracker. After an error, the answer is
`{"error": TEXT}`, and the process ends. It also ends if the driver dies, even within a call of the client, because the
next driver may be writing the same runs already.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from importlib import import_module
from typing import Any

from sweeps.trackers.base import Front, TrackedRun, Tracker

__all__ = ["CLASSES", "main"]

POLL_SECONDS = 0.2
"""Time between two looks at whether the driver lives [s]."""

CLASSES = {"tensorboard": "TensorBoardTracker", "mlflow": "MLflowTracker", "wandb": "WandbTracker"}
"""Class of each tracker, in the module of this package that is called like the tracker."""


class _Session:
    """Passes messages to the tracker, except for epochs that the tool has already."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._last: dict[str, int] = {}

    def handle(self, call: str, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a message: what is complete with it."""
        match call:
            case "start":
                run = TrackedRun(message["run_id"], message["config"], message["again"])
                self._last[run.run_id] = self._tracker.start_run(run)
            case "epoch" if message["epoch"] > self._last[message["run_id"]]:
                self._last[message["run_id"]] = message["epoch"]
                self._tracker.log_epoch(**message)
            case "end":
                del self._last[message["run_id"]]
                attempt = message.pop("attempt")
                self._tracker.end_run(**message)
                return {"complete": {message["run_id"]: attempt}}
            case "front":
                digest = message.pop("digest")
                self._tracker.log_front(Front(**message))
                return {"complete": {"front": digest}}
            case "close":
                self._tracker.close()
                return {"closed": True}
        return {}


def _end_with(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def main() -> None:
    """Answer messages until the driver closes the tracker."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # clients print
    session: _Session | None = None
    closed = False
    try:
        for line in sys.stdin:
            message = json.loads(line)
            call = message.pop("call")
            if session is None:
                module = import_module(f"sweeps.trackers.{call}")
                session, answer = _Session(getattr(module, CLASSES[call])(**message)), {}
            else:
                answer = session.handle(call, message)
            closed = "closed" in answer
            print(json.dumps(answer), file=answers, flush=True)
            if closed:
                return
    except BaseException as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
    finally:
        if not closed:
            os._exit(1)  # without the exit handlers of the client, which may wait for its server


if __name__ == "__main__":
    main()
