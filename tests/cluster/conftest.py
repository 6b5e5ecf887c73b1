"""A server on the loopback interface with configurable answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = Callable[[str | None], tuple[int, dict[str, str]]]
"""From the Authorization header of a request, None if it has none, to the status and headers of the answer."""

VERSION = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "stub"}'


@dataclass
class Stub:
    """A server on the loopback interface.

    Args:
        url: Its URL.
        received: The Authorization header of each request so far; None for a request without one.
        answer: Status and headers of its answers.
        content: Body of its answers.
    """

    url: str
    received: list[str | None] = field(default_factory=list)
    answer: Answer = lambda header: (200, {})
    content: bytes = VERSION


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Stub]]:
    """Start servers, which are stopped after the test."""
    servers = []

    def start(answer: Answer) -> Stub:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.received.append(self.headers.get("Authorization"))
                status, headers = stub.answer(self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(stub.content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if status != 204:
                    self.wfile.write(stub.content)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        stub = Stub(f"http://127.0.0.1:{server.server_port}", answer=answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return stub

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
