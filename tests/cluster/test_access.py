"""Who is talked to, and with what: addresses, tokens, and a server on the loopback that behaves in every way."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cluster import access, jobs
from cluster.access import AccessDenied, Endpoint, Token, find_token, probe
from cluster.jobs import Cluster, JobError

SECRET = "5ec2e7" * 8
NO_WORDS = [f"{SECRET} {SECRET}", f"{SECRET}\r\nX-Evil: 1", f"tök{SECRET}", f"{SECRET}\0"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def keep(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


class TestToken:
    def test_of_the_named_file_first(self, home):
        keep(home / ".ray" / "auth_token", "other")
        named = keep(home / "token", SECRET + "\n")
        token = find_token({"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "third"})
        assert (token.source, token.secret) == (str(named), SECRET)

    def test_then_of_the_home(self, home):
        keep(home / ".ray" / "auth_token")
        assert find_token({"RAY_AUTH_TOKEN": "third"}).secret == SECRET

    def test_then_of_the_environment(self, home):
        assert find_token({"RAY_AUTH_TOKEN": f" {SECRET} "}) == Token("RAY_AUTH_TOKEN", SECRET)

    @pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_TOKEN": " "}])
    def test_none_is_refused_and_says_where_it_is_looked_for(self, home, environment):
        with pytest.raises(AccessDenied, match=r"none in RAY_AUTH_TOKEN_PATH or .*auth_token\. Copy .* chmod 600\."):
            find_token(environment)

    def test_a_named_file_that_is_missing_is_not_made_up_for(self, home):
        keep(home / ".ray" / "auth_token")
        with pytest.raises(AccessDenied, match="No such file"):
            find_token({"RAY_AUTH_TOKEN_PATH": str(home / "nothing")})

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o610])
    def test_a_file_that_others_may_read_is_refused(self, home, mode):
        with pytest.raises(AccessDenied, match=f"its mode is {mode:o}. Run chmod 600") as caught:
            find_token({"RAY_AUTH_TOKEN_PATH": str(keep(home / "token", mode=mode))})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "\n", *NO_WORDS])
    def test_a_file_of_no_word_of_ascii_is_refused_and_not_shown(self, home, text):
        with pytest.raises(AccessDenied, match="token must hold one word of ASCII") as caught:
            find_token({"RAY_AUTH_TOKEN_PATH": str(keep(home / "token", text))})
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("text", NO_WORDS)
    def test_nor_does_the_environment_hold_anything_else(self, home, text):
        with pytest.raises(AccessDenied, match="RAY_AUTH_TOKEN must hold one word of ASCII") as caught:
            find_token({"RAY_AUTH_TOKEN": text})
        assert SECRET not in str(caught.value)

    def test_a_file_of_bytes_is_refused(self, home):
        (home / "token").write_bytes(b"\xff\xfe")
        with pytest.raises(AccessDenied, match="it is no text"):
            find_token({"RAY_AUTH_TOKEN_PATH": str(home / "token")})

    def test_never_shows(self):
        token = Token("a file", SECRET)
        assert SECRET not in f"{token} {token!r} {[token]}"
        assert token.headers == {"Authorization": f"Bearer {SECRET}"}

    @pytest.mark.parametrize("cut", [1, 2, 5, len(SECRET), 1000])
    def test_does_not_show_where_it_lies_across_two_pieces_of_a_log(self, cut):
        token, text = Token("a file", SECRET), f"x{SECRET[:3]} {SECRET}{SECRET} y{SECRET[:-1]}z{SECRET[:4]}"
        pieces = [text[start : start + cut] for start in range(0, len(text), cut)]
        told = list(token.masked(pieces))
        assert "".join(told) == token.mask(text) == f"x{SECRET[:3]} [token][token] y{SECRET[:-1]}z{SECRET[:4]}"
        assert all(told)

    def test_what_cannot_begin_it_is_told_at_once(self):
        pieces = Token("a file", "secret").masked(iter(["epoch 1\n", "epoch 2 se", "t\n"]))
        assert [*pieces] == ["epoch 1\n", "epoch 2 ", "set\n"]

    def test_a_home_that_nobody_has_is_a_file_that_is_missing(self):
        with pytest.raises(AccessDenied, match="must be readable"):
            find_token({"RAY_AUTH_TOKEN_PATH": "~nosuchuser/token"})


class TestEndpoint:
    @pytest.mark.parametrize(
        ("address", "url"),
        [
            ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
            ("http://127.0.0.1:8265/", "http://127.0.0.1:8265"),
            ("http://localhost:8265", "http://localhost:8265"),
            ("http://[::1]:8265", "http://[::1]:8265"),
            ("http://127.9.9.9", "http://127.9.9.9"),
            ("https://ray.example.org", "https://ray.example.org"),
            ("https://ray.example.org:443", "https://ray.example.org:443"),
        ],
    )
    def test_lawful(self, address, url):
        assert Endpoint.of(address).url == url

    @pytest.mark.parametrize(
        "address",
        [
            *(
                "",
                "auto",
                "head:8265",
                "127.0.0.1:8265",
                "ray://head:10001",
                "file:///etc/passwd",
                "http://",
                "http://:1",
            ),
            *("http://h:99999", "http://h:port", "https://h/path", "https://h?q=1", "https://h#f", "http://[::1"),
            *("https://h\n.example", "https://h\x1b[31m"),
        ],
    )
    def test_unlawful(self, address):
        with pytest.raises(AccessDenied, match="must be http://HOST:PORT or https://HOST") as caught:
            Endpoint.of(address)
        assert caught.value.args[0].isprintable()

    @pytest.mark.parametrize("address", ["https://user:hunter2@h", "https://hunter2@h", "https://:hunter2@h"])
    def test_a_secret_in_the_address_is_refused_and_not_shown(self, address):
        with pytest.raises(AccessDenied, match="without a user or password") as caught:
            Endpoint.of(address)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "host",
        ["10.0.0.1", "head", "192.168.1.1", "0.0.0.0", "localhost.example.org", "127.0.0.1.example.org", "[::2]"],
    )
    def test_plain_http_to_another_machine_needs_a_word(self, host):
        with pytest.raises(AccessDenied, match=r"must not travel in the clear.*ssh -N -L.*https://.*--insecure"):
            Endpoint.of(f"http://{host}:8265")
        assert Endpoint.of(f"http://{host}:8265", insecure=True).url == f"http://{host}:8265"
        assert Endpoint.of(f"https://{host}:8265").url == f"https://{host}:8265"


def guarded(header: str | None) -> tuple[int, dict[str, str]]:
    """As Ray answers: 401 without a token, 403 with a wrong one."""
    return (401 if header is None else 200 if header == f"Bearer {SECRET}" else 403), {}


def told(url: str, secret: str = SECRET) -> str:
    """What is said when the cluster at `url` is refused."""
    with pytest.raises(AccessDenied) as caught:
        probe(Endpoint.of(url), Token("the token file", secret))
    message = str(caught.value)
    assert secret not in message
    assert message.endswith((".", "?"))
    return message


class TestProbe:
    def test_a_cluster_that_asks_and_takes_the_token(self, serve):
        stub = serve(guarded)
        probe(Endpoint.of(stub.url), Token("", SECRET))
        assert stub.heard == [None, f"Bearer {SECRET}"]

    def test_a_wrong_token(self, serve):
        assert "refuses the token of the token file: it is that of another cluster" in told(serve(guarded).url, "wrong")

    def test_an_open_cluster_is_refused_before_it_hears_the_token(self, serve):
        stub = serve(lambda header: (200, {}))
        assert "answers anyone, and so runs anyone's code" in told(stub.url)
        assert stub.heard == [None]

    @pytest.mark.parametrize("status", [204, 302, 404, 500, 502])
    def test_what_is_no_dashboard_does_not_hear_the_token(self, serve, status):
        stub = serve(lambda header: (status, {"Location": "/other"}))
        assert f"what does says {status}" in told(stub.url)
        assert stub.heard == [None]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirection_does_not_carry_the_token_away(self, serve, status):
        thief = serve(lambda header: (200, {}))
        away = {"Location": f"{thief.url.replace('127.0.0.1', 'localhost')}/api/version"}
        stub = serve(lambda header: (401, {}) if header is None else (status, away))
        assert f"answers {status} to the token" in told(stub.url)
        assert thief.heard == []

    def test_a_proxy_that_takes_the_token_off(self, serve):
        assert "saw no token, though one was sent" in told(serve(lambda header: (401, {})).url)

    def test_a_proxy_of_the_environment_hears_nothing(self, serve, monkeypatch):
        proxy, stub = serve(lambda header: (200, {})), serve(guarded)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        probe(Endpoint.of(stub.url), Token("", SECRET))
        assert proxy.heard == []

    def test_nothing_listens(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            assert "nothing does" in told(f"http://127.0.0.1:{taken.getsockname()[1]}")

    def test_a_certificate_that_is_not_trusted(self, monkeypatch):
        def refuse(*given: object, **named: object) -> None:
            raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))

        monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
        said = told("https://head.example.org")
        assert "must be one that this machine trusts" in said
        assert "SSL_CERT_FILE and REQUESTS_CA_BUNDLE" in said

    def test_what_listens_is_silent(self, monkeypatch):
        monkeypatch.setattr(access, "SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert "nothing does (timed out)" in told(f"http://127.0.0.1:{server.getsockname()[1]}")

    def test_what_listens_speaks_another_language(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            assert "speaks no HTTP" in told(f"http://127.0.0.1:{server.getsockname()[1]}")
            thread.join()


@contextmanager
def websocket(tail: Callable[[web.Request], Awaitable[web.WebSocketResponse]]) -> Iterator[str]:
    """The URL of a dashboard that tells of any job's log what `tail` does."""
    started, ended, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    port: list[int] = []

    async def serve() -> None:
        application = web.Application()
        application.router.add_get("/api/jobs/{job}/logs/tail", tail)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        started.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(60)
    try:
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


class TestClient:
    """Ray's client of jobs, which by itself follows redirections and asks proxies and ~/.netrc."""

    @pytest.fixture
    def client(self, home, serve, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(keep(home / "token")))
        stub = serve(guarded)
        cluster = Cluster.open(stub.url)
        stub.heard.clear()
        return cluster, stub

    def refused(self, cluster: Cluster) -> str:
        with pytest.raises((AccessDenied, JobError)) as caught:
            cluster.jobs()
        assert SECRET not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_follows_no_redirection(self, client, serve, status):
        cluster, stub = client
        thief = serve(lambda header: (200, {}))
        stub.answer = lambda header: (status, {"Location": f"{thief.url}/api/jobs/"})
        assert f"status code {status}" in self.refused(cluster)
        assert thief.heard == []

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_nor_does_a_log_that_is_followed(self, client, serve, status):
        cluster, stub = client
        thief = serve(lambda header: (200, {}))
        stub.answer = lambda header: (status, {"Location": f"{thief.url}/api/jobs/x/logs/tail"})
        with pytest.raises(AccessDenied, match="TooManyRedirects"):
            list(cluster.follow("x"))
        assert thief.heard == []

    def test_a_log_in_which_nothing_happens_is_followed_on(self, monkeypatch):
        """Ray's dashboard answers no ping while it has nothing to tell."""
        monkeypatch.setattr(jobs, "SECONDS", 0.1)

        async def tail(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(autoping=False)
            await socket.prepare(request)
            await socket.send_str("epoch 1\n")
            await asyncio.sleep(1.0)
            await socket.send_str("epoch 2\n")
            await socket.close()
            return socket

        with websocket(tail) as url:
            cluster = Cluster(Endpoint.of(url), Token("the token file", SECRET), None)
            assert "".join(cluster.follow("x")) == "epoch 1\nepoch 2\n"

    def test_an_answer_that_repeats_the_token_is_not_told_as_it_is(self, client):
        cluster, stub = client
        stub.answer, stub.content = (lambda header: (500, {})), f"Authorization: Bearer {SECRET}".encode()
        assert "Authorization: Bearer [token]" in self.refused(cluster)

    def test_asks_no_proxy_and_no_netrc(self, client, serve, home, monkeypatch):
        cluster, stub = client
        proxy = serve(lambda header: (200, {}))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        keep(home / ".netrc", "machine 127.0.0.1 login me password other\n")
        stub.answer = lambda header: (500, {})
        self.refused(cluster)
        assert proxy.heard == []
        assert stub.heard == [f"Bearer {SECRET}"]

    @pytest.mark.parametrize(("status", "told"), [(401, "saw no token"), (403, "refuses the token of")])
    def test_a_refusal_is_a_sentence(self, client, status, told):
        cluster, stub = client
        stub.answer = lambda header: (status, {})
        assert told in self.refused(cluster)
