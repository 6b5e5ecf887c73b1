"""A server on the loopback that answers as a test wants it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = Callable[[str | None], tuple[int, dict[str, str]]]
VERSION = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "stub"}'


@dataclass
class Stub:
    """A server on the loopback; `heard` are the Authorization headers of its requests."""

    url: str
    heard: list[str | None] = field(default_factory=list)
    answer: Answer = lambda header: (200, {})
    content: bytes = VERSION


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Stub]]:
    servers = []

    def start(answer: Answer) -> Stub:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.heard.append(self.headers.get("Authorization"))
                status, headers = stub.answer(self.headers.get("Authorization"))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(stub.content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if status != 204:
                    self.wfile.write(stub.content)

            def log_message(self, *given: object) -> None:
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
