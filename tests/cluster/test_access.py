"""Access to a cluster: addresses, tokens, and servers on the loopback interface that behave well or badly."""

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
from cluster.access import AccessDenied, DenialReason, Endpoint, Token, find_token, probe
from cluster.jobs import Cluster, JobError

SECRET = "5ec2e7" * 8
MALFORMED_TOKENS = [f"{SECRET} {SECRET}", f"{SECRET}\r\nX-Evil: 1", f"tök{SECRET}", f"{SECRET}\0"]


@contextmanager
def denies(reason: DenialReason) -> Iterator[list[str]]:
    """Context manager. The block must raise AccessDenied with `reason`; yields a list that then holds the message."""
    messages: list[str] = []
    with pytest.raises(AccessDenied) as caught:
        yield messages
    assert caught.value.reason == reason, str(caught.value)
    assert SECRET not in str(caught.value)
    messages.append(str(caught.value))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_secret(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


class TestToken:
    def test_the_named_file_takes_precedence(self, home):
        write_secret(home / ".ray" / "auth_token", "other")
        named = write_secret(home / "token", SECRET + "\n")
        token = find_token({"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "third"})
        assert (token.source, token.secret) == (str(named), SECRET)

    def test_the_file_in_the_home_folder_is_next(self, home):
        write_secret(home / ".ray" / "auth_token")
        assert find_token({"RAY_AUTH_TOKEN": "third"}).secret == SECRET

    def test_the_environment_variable_is_last(self, home):
        assert find_token({"RAY_AUTH_TOKEN": f" {SECRET} "}) == Token("RAY_AUTH_TOKEN", SECRET)

    @pytest.mark.parametrize("environment", [{}, {"RAY_AUTH_TOKEN": " "}])
    def test_without_a_token_the_message_names_the_places_searched(self, home, environment):
        with denies(DenialReason.NO_TOKEN) as messages:
            find_token(environment)
        assert "RAY_AUTH_TOKEN_PATH" in messages[0]
        assert str(home / ".ray" / "auth_token") in messages[0]

    def test_no_other_token_replaces_a_missing_named_file(self, home):
        write_secret(home / ".ray" / "auth_token")
        with denies(DenialReason.UNREADABLE_TOKEN):
            find_token({"RAY_AUTH_TOKEN_PATH": str(home / "nothing")})

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o610])
    def test_a_file_readable_by_others_is_refused(self, home, mode):
        with denies(DenialReason.EXPOSED_TOKEN) as messages:
            find_token({"RAY_AUTH_TOKEN_PATH": str(write_secret(home / "token", mode=mode))})
        assert f"{mode:o}" in messages[0]

    @pytest.mark.parametrize("text", ["", "\n", *MALFORMED_TOKENS])
    def test_a_malformed_token_in_a_file_is_refused_and_not_shown(self, home, text):
        with denies(DenialReason.MALFORMED_TOKEN):
            find_token({"RAY_AUTH_TOKEN_PATH": str(write_secret(home / "token", text))})

    @pytest.mark.parametrize("text", MALFORMED_TOKENS)
    def test_a_malformed_token_in_the_environment_is_refused_and_not_shown(self, home, text):
        with denies(DenialReason.MALFORMED_TOKEN):
            find_token({"RAY_AUTH_TOKEN": text})

    def test_a_binary_file_is_refused(self, home):
        (home / "token").write_bytes(b"\xff\xfe")
        with denies(DenialReason.UNREADABLE_TOKEN):
            find_token({"RAY_AUTH_TOKEN_PATH": str(home / "token")})

    def test_no_representation_shows_the_secret(self):
        token = Token("a file", SECRET)
        assert SECRET not in f"{token} {token!r} {[token]}"
        assert token.headers == {"Authorization": f"Bearer {SECRET}"}

    @pytest.mark.parametrize("cut", [1, 2, 5, len(SECRET), 1000])
    def test_is_masked_where_it_is_split_across_pieces_of_a_log(self, cut):
        token, text = Token("a file", SECRET), f"x{SECRET[:3]} {SECRET}{SECRET} y{SECRET[:-1]}z{SECRET[:4]}"
        pieces = [text[start : start + cut] for start in range(0, len(text), cut)]
        masked = list(token.masked(pieces))
        assert "".join(masked) == token.mask(text) == f"x{SECRET[:3]} [token][token] y{SECRET[:-1]}z{SECRET[:4]}"
        assert all(masked)

    def test_text_that_cannot_begin_the_secret_is_yielded_at_once(self):
        pieces = Token("a file", "secret").masked(iter(["epoch 1\n", "epoch 2 se", "t\n"]))
        assert [*pieces] == ["epoch 1\n", "epoch 2 ", "set\n"]

    def test_the_home_of_an_unknown_user_is_a_missing_file(self):
        with denies(DenialReason.UNREADABLE_TOKEN):
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
    def test_valid_addresses(self, address, url):
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
    def test_invalid_addresses(self, address):
        with denies(DenialReason.BAD_ADDRESS) as messages:
            Endpoint.of(address)
        assert messages[0].isprintable()

    @pytest.mark.parametrize("address", ["https://user:hunter2@h", "https://hunter2@h", "https://:hunter2@h"])
    def test_a_password_in_the_address_is_refused_and_not_shown(self, address):
        with denies(DenialReason.PASSWORD_IN_ADDRESS) as messages:
            Endpoint.of(address)
        assert "hunter2" not in messages[0]

    @pytest.mark.parametrize(
        "host",
        ["10.0.0.1", "head", "192.168.1.1", "0.0.0.0", "localhost.example.org", "127.0.0.1.example.org", "[::2]"],
    )
    def test_plain_http_to_another_machine_needs_permission(self, host):
        with denies(DenialReason.INSECURE) as messages:
            Endpoint.of(f"http://{host}:8265")
        assert all(remedy in messages[0] for remedy in ("ssh -N -L", "https://", "--insecure"))
        assert Endpoint.of(f"http://{host}:8265", insecure=True).url == f"http://{host}:8265"
        assert Endpoint.of(f"https://{host}:8265").url == f"https://{host}:8265"


def guarded(header: str | None) -> tuple[int, dict[str, str]]:
    """Answer as Ray does: 401 without a token, 403 with a wrong one."""
    return (401 if header is None else 200 if header == f"Bearer {SECRET}" else 403), {}


def probe_is_denied(reason: DenialReason, url: str, secret: str = SECRET) -> str:
    """Check that a probe of `url` is denied for `reason`; return the message."""
    with denies(reason) as messages:
        probe(Endpoint.of(url), Token("the token file", secret))
    assert secret not in messages[0]
    assert messages[0].endswith(".")
    return messages[0]


class TestProbe:
    def test_a_cluster_that_requires_and_accepts_the_token(self, serve):
        stub = serve(guarded)
        probe(Endpoint.of(stub.url), Token("", SECRET))
        assert stub.received == [None, f"Bearer {SECRET}"]

    def test_a_wrong_token(self, serve):
        message = probe_is_denied(DenialReason.WRONG_TOKEN, serve(guarded).url, "0123456789")
        assert "the token file" in message

    def test_a_cluster_without_authentication_is_refused_before_the_token_is_sent(self, serve):
        stub = serve(lambda header: (200, {}))
        probe_is_denied(DenialReason.NO_AUTHENTICATION, stub.url)
        assert stub.received == [None]

    @pytest.mark.parametrize("status", [204, 302, 404, 500, 502])
    def test_a_server_that_is_not_a_dashboard_does_not_receive_the_token(self, serve, status):
        stub = serve(lambda header: (status, {"Location": "/other"}))
        assert str(status) in probe_is_denied(DenialReason.NOT_A_DASHBOARD, stub.url)
        assert stub.received == [None]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_the_token_is_not_sent_along_a_redirect(self, serve, status):
        thief = serve(lambda header: (200, {}))
        away = {"Location": f"{thief.url.replace('127.0.0.1', 'localhost')}/api/version"}
        stub = serve(lambda header: (401, {}) if header is None else (status, away))
        assert str(status) in probe_is_denied(DenialReason.UNEXPECTED_STATUS, stub.url)
        assert thief.received == []

    def test_a_proxy_that_removes_the_token(self, serve):
        probe_is_denied(DenialReason.TOKEN_NOT_RECEIVED, serve(lambda header: (401, {})).url)

    def test_a_proxy_of_the_environment_receives_nothing(self, serve, monkeypatch):
        proxy, stub = serve(lambda header: (200, {})), serve(guarded)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        probe(Endpoint.of(stub.url), Token("", SECRET))
        assert proxy.received == []

    def test_a_closed_port(self):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            probe_is_denied(DenialReason.NO_ANSWER, f"http://127.0.0.1:{bound.getsockname()[1]}")

    def test_an_untrusted_certificate(self, monkeypatch):
        def refuse(*arguments: object, **options: object) -> None:
            raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed certificate"))

        monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
        message = probe_is_denied(DenialReason.UNTRUSTED_CERTIFICATE, "https://head.example.org")
        assert all(variable in message for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))

    def test_a_server_that_does_not_answer(self, monkeypatch):
        monkeypatch.setattr(access, "SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as server:
            probe_is_denied(DenialReason.NO_ANSWER, f"http://127.0.0.1:{server.getsockname()[1]}")

    def test_a_server_of_another_protocol(self):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            probe_is_denied(DenialReason.NOT_A_DASHBOARD, f"http://127.0.0.1:{server.getsockname()[1]}")
            thread.join()


@contextmanager
def websocket(tail: Callable[[web.Request], Awaitable[web.WebSocketResponse]]) -> Iterator[str]:
    """Context manager. Yields the URL of a dashboard that streams the log of every job by `tail`."""
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
    """The client of jobs. Without our changes, Ray's client follows redirects and uses proxies and ~/.netrc."""

    @pytest.fixture
    def client(self, home, serve, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(write_secret(home / "token")))
        stub = serve(guarded)
        cluster = Cluster.open(stub.url)
        stub.received.clear()
        return cluster, stub

    def refusal(self, cluster: Cluster) -> AccessDenied | JobError:
        """Return the exception that listing the jobs raises."""
        with pytest.raises((AccessDenied, JobError)) as caught:
            cluster.jobs()
        assert SECRET not in str(caught.value)
        return caught.value

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_does_not_follow_redirects(self, client, serve, status):
        cluster, stub = client
        thief = serve(lambda header: (200, {}))
        stub.answer = lambda header: (status, {"Location": f"{thief.url}/api/jobs/"})
        assert str(status) in str(self.refusal(cluster))
        assert thief.received == []

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_does_not_follow_redirects_of_a_log(self, client, serve, status):
        cluster, stub = client
        thief = serve(lambda header: (200, {}))
        stub.answer = lambda header: (status, {"Location": f"{thief.url}/api/jobs/x/logs/tail"})
        with denies(DenialReason.NO_ANSWER):
            list(cluster.follow("x"))
        assert thief.received == []

    def test_following_continues_while_the_job_prints_nothing(self, monkeypatch):
        """Ray's dashboard does not answer a ping while it has no output to send."""
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

    def test_the_token_is_masked_in_the_error_of_a_server_that_repeats_it(self, client):
        cluster, stub = client
        stub.answer, stub.content = (lambda header: (500, {})), f"Authorization: Bearer {SECRET}".encode()
        assert "Authorization: Bearer [token]" in str(self.refusal(cluster))

    def test_uses_no_proxy_and_no_netrc(self, client, serve, home, monkeypatch):
        cluster, stub = client
        proxy = serve(lambda header: (200, {}))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        write_secret(home / ".netrc", "machine 127.0.0.1 login me password other\n")
        stub.answer = lambda header: (500, {})
        self.refusal(cluster)
        assert proxy.received == []
        assert stub.received == [f"Bearer {SECRET}"]

    @pytest.mark.parametrize(
        ("status", "reason"), [(401, DenialReason.TOKEN_NOT_RECEIVED), (403, DenialReason.WRONG_TOKEN)]
    )
    def test_the_status_of_a_refusal_is_explained(self, client, status, reason):
        cluster, stub = client
        stub.answer = lambda header: (status, {})
        with denies(reason):
            cluster.jobs()
