"""`lagvae dashboard`: serves the search of a stored sweep with optuna-dashboard, and follows its table."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna

from lagvae_core.errors import ConfigError, LagvaeError, ValidationIssue
from sweeps.analysis.following import SweepFollower, default_pause, pause_after
from sweeps.formatting import printable
from sweeps.search.dashboard import LiveStudies
from sweeps.spec.sweep import SweepSpec
from sweeps.storage.table import ResultsFolder

__all__ = ["serve_dashboard"]


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread of its own, because browsers open some that they do not use at once."""

    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: an open page sends a request every few seconds."""

    def address_string(self) -> str:
        """Return the address without looking up its name."""
        return str(self.client_address[0])


def serve_dashboard(folder: ResultsFolder, host: str, port: int) -> None:
    """Serve the Optuna studies of a sweep until interrupted. A thread adds what is new in the table.

    The studies are in memory: what is changed in the dashboard is lost when it ends.

    Args:
        folder: The folder of the sweep. It is only read.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.

    Raises:
        ConfigError: optuna-dashboard is not installed, the address cannot be used, or the sweep file is missing or
            invalid.
        StoreError: The results cannot be accessed.
    """
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        hint = "Run: pip install 'lagvae[dashboard]'"
        raise ConfigError([ValidationIssue("optuna-dashboard", "is not installed", hint)]) from None
    follower = _Follower(folder)
    follower.update()
    try:
        server = make_server(host, port, wsgi(follower.storage), _ServerV6 if ":" in host else _Server, _Handler)
    except OSError as error:
        message = f"must be an address that this machine can listen on ({error.strerror})"
        hint = "Choose another port with --port, or end the program that uses it."
        raise ConfigError([ValidationIssue("--host and --port", message, hint, f"{host}:{port}")]) from None
    with server, follower.following():
        place = f"[{host}]" if ":" in host else host
        print(f"http://{place}:{server.server_port}/ shows the sweep {folder.sweep}. Press Ctrl-C to stop.", flush=True)
        server.serve_forever()


class _Follower:
    """Keeps Optuna studies equal to the table of a sweep.

    Args:
        folder: The folder of the sweep.

    Attributes:
        storage: Storage of the studies.
    """

    def __init__(self, folder: ResultsFolder) -> None:
        self.storage = optuna.storages.InMemoryStorage()
        self._results = folder.results
        self._follower = SweepFollower(folder)
        self._spec: SweepSpec | None = None
        self._studies: LiveStudies | None = None
        self._told = ""

    def update(self) -> None:
        """Read the table, and add what is new to the studies."""
        snapshot = self._follower.read()
        plan = snapshot.plan
        if self._studies is None:
            self._spec, self._studies = plan.spec, LiveStudies(plan.spec, self.storage)
        if plan.spec is self._spec:
            self._studies.update(plan, {run.run.run_id: run.epochs for run in snapshot.running})
            self._tell(snapshot.outdated)
        else:
            self._tell("the sweep file has changed; start the dashboard again to see the sweep of today")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Context manager. A thread updates the studies during the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _follow(self, ended: threading.Event) -> None:
        seconds = 0.0
        while not ended.wait(pause_after(seconds, default_pause(self._results))):
            started = time.monotonic()
            try:
                self.update()
            except LagvaeError as error:
                self._tell(f"the table cannot be read; trying again. {error}")
            seconds = time.monotonic() - started

    def _tell(self, message: str) -> None:
        """Print a message unless it is the last one."""
        if message and message != self._told:
            print(printable(f"lagvae: warning, {message}"), file=sys.stderr)
        self._told = message
