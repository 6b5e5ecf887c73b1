"""Access to a cluster: its address, its token, and the checks made before the token is sent.

A Ray cluster runs any code for anyone who can reach its dashboard. Therefore a token is always required, it is sent
over plain HTTP only within this machine (unless `insecure` is set), and a cluster that accepts requests without a token
is not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

from lagvae_core.errors import LagvaeError

__all__ = ["AccessDenied", "DenialReason", "Endpoint", "Token", "denied", "find_token", "probe"]

SECONDS = 10.0
"""Timeout of one request [s]."""

EXAMPLE = "An example is http://127.0.0.1:8265."

TUNNEL = "Open a tunnel with `ssh -N -L 8265:127.0.0.1:8265 HOST` and use http://127.0.0.1:8265"


class DenialReason(StrEnum):
    """The reason why there is no access to a cluster."""

    NO_TOKEN = "no token"
    UNREADABLE_TOKEN = "unreadable token file"
    EXPOSED_TOKEN = "token file readable by other users"
    MALFORMED_TOKEN = "malformed token"
    BAD_ADDRESS = "bad address"
    PASSWORD_IN_ADDRESS = "password in the address"
    INSECURE = "plain HTTP to another machine"
    NO_ANSWER = "no answer"
    UNTRUSTED_CERTIFICATE = "untrusted certificate"
    NOT_A_DASHBOARD = "not a dashboard"
    NO_AUTHENTICATION = "no authentication"
    WRONG_TOKEN = "wrong token"
    TOKEN_NOT_RECEIVED = "token not received"
    UNEXPECTED_STATUS = "unexpected HTTP status"


class AccessDenied(LagvaeError):
    """A cluster is unreachable, is unsafe, or rejects the token.

    Args:
        reason: The reason in a form that programs can compare.
        message: Explanation for users, including a hint.
    """

    def __init__(self, reason: DenialReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Token:
    """A token, which is never printed, not even in a traceback. `source` is the file or variable that contains it."""

    source: str
    secret: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def mask(self, text: str) -> str:
        """Return `text` with the secret replaced by [token]."""
        return text.replace(self.secret, "[token]")

    def masked(self, pieces: Iterable[str]) -> Iterator[str]:
        """Mask the secret in a text that arrives in `pieces`, even if the secret is split across pieces."""
        pending = ""
        for piece in pieces:
            pending = self.mask(pending + piece)
            lengths = range(min(len(pending), len(self.secret) - 1), 0, -1)
            overlap = next((length for length in lengths if self.secret.startswith(pending[-length:])), 0)
            safe, pending = pending[: len(pending) - overlap], pending[len(pending) - overlap :]
            if safe:
                yield safe
        if pending:
            yield pending


def find_token(environment: Mapping[str, str] = os.environ) -> Token:
    """Return the token from the file at RAY_AUTH_TOKEN_PATH, else from ~/.ray/auth_token, else from RAY_AUTH_TOKEN.

    Files take precedence because every child process sees the environment.

    Raises:
        AccessDenied: There is no token, the token is malformed, or other users can read its file.
    """
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(os.path.expanduser(named)) if named else Path.home() / ".ray" / "auth_token"
    if named or path.exists():
        return Token(str(path), _secret_of(path))
    if environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token("RAY_AUTH_TOKEN", _one_word(environment["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN"))
    raise AccessDenied(
        DenialReason.NO_TOKEN,
        f"No token found: RAY_AUTH_TOKEN_PATH is not set and {path} does not exist. Copy the cluster's token to "
        "this file, and run chmod 600 on it so that only you can read it.",
    )


def _secret_of(path: Path) -> str:
    try:
        mode, secret = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        message = f"The token file {path} cannot be read ({reason}). Check its permissions and RAY_AUTH_TOKEN_PATH."
        raise AccessDenied(DenialReason.UNREADABLE_TOKEN, message) from None
    if mode & 0o077:
        raise AccessDenied(
            DenialReason.EXPOSED_TOKEN,
            f"The token file {path} must be readable only by you, but its mode is {mode & 0o777:o}. Run chmod 600 "
            f"{path}, and consider replacing the token, because other users may have read it.",
        )
    return _one_word(secret, f"the token file {path}")


def _one_word(text: str, source: str) -> str:
    # Any other text is not a valid HTTP header, and the error message of the HTTP library would show it.
    secret = text.strip()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise AccessDenied(
            DenialReason.MALFORMED_TOKEN,
            f"{source[0].upper()}{source[1:]} must contain exactly one word of ASCII text. Copy the token again.",
        )
    return secret


@dataclass(frozen=True)
class Endpoint:
    """The URL of a cluster's dashboard, with scheme and port and without a trailing slash."""

    url: str

    @classmethod
    def of(cls, address: str, *, insecure: bool = False) -> Endpoint:
        """Parse `address`, which must be http://HOST:PORT or https://HOST[:PORT].

        Args:
            address: URL of the dashboard.
            insecure: Allow plain HTTP to another machine.

        Raises:
            AccessDenied: `address` is not such a URL or contains a password, or the token would be sent unencrypted to
                another machine although `insecure` is false.
        """
        message = "--address must be the URL of the cluster's dashboard, http://HOST:PORT or https://HOST"
        try:
            parts = urllib.parse.urlsplit(address)
            port = parts.port
        except ValueError as error:
            message = f"{message}, got {address!r} ({error}). {EXAMPLE}"
            raise AccessDenied(DenialReason.BAD_ADDRESS, message) from None
        bare = not (parts.query or parts.fragment or parts.path.strip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname or not bare or not address.isprintable():
            raise AccessDenied(DenialReason.BAD_ADDRESS, f"{message}, got {address!r}. {EXAMPLE}")
        if parts.username is not None or parts.password is not None:
            message += ", without a user name or password. The token identifies you."
            raise AccessDenied(DenialReason.PASSWORD_IN_ADDRESS, message)
        if parts.scheme == "http" and not is_loopback(parts.hostname) and not insecure:
            raise AccessDenied(
                DenialReason.INSECURE,
                f"Plain HTTP would send the token unencrypted to {parts.hostname}. {TUNNEL}, or use https://, or add "
                "--insecure if nobody else has access to the network between the two machines.",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{parts.scheme}://{host}" + (f":{port}" if port is not None else ""))


def is_loopback(host: str) -> bool:
    """Return whether `host` is a name or address of this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def probe(endpoint: Endpoint, token: Token) -> None:
    """Check that the cluster rejects a request without a token and accepts a request with `token`.

    Raises:
        AccessDenied: Nothing answers, or the cluster accepts requests without a token, or it rejects `token`.
    """
    if (status := _status(endpoint, {})) == HTTPStatus.OK:
        raise AccessDenied(
            DenialReason.NO_AUTHENTICATION,
            f"The cluster at {endpoint.url} accepts requests without a token, so anyone can run code on it. Start it "
            "with RAY_AUTH_MODE=token in its environment.",
        )
    if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise AccessDenied(
            DenialReason.NOT_A_DASHBOARD,
            f"The server at {endpoint.url} is not a Ray dashboard (HTTP status {status}). Check --address.",
        )
    if (status := _status(endpoint, token.headers)) != HTTPStatus.OK:
        raise denied(endpoint.url, status, token.source)


def denied(url: str, status: int, source: str) -> AccessDenied:
    """Return an exception that explains the HTTP `status` with which the cluster rejected the token from `source`."""
    if status == HTTPStatus.FORBIDDEN:
        return AccessDenied(
            DenialReason.WRONG_TOKEN,
            f"The cluster at {url} rejects the token from {source}, which may belong to another cluster. Copy the "
            "token of this cluster.",
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return AccessDenied(
            DenialReason.TOKEN_NOT_RECEIVED,
            f"The cluster at {url} did not receive the token that was sent. Check whether a proxy removes headers.",
        )
    return AccessDenied(
        DenialReason.UNEXPECTED_STATUS,
        f"The cluster at {url} returned HTTP status {status} for a request with the token from {source}. See the log "
        "of its dashboard.",
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirects, so that the token is never sent to another server."""

    def redirect_request(self, *arguments: object, **options: object) -> None:
        return None


def _status(endpoint: Endpoint, headers: dict[str, str]) -> int:
    # Ignore the proxies that the environment configures, because only the cluster may receive the token.
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{endpoint.url}/api/version", headers=headers)
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except http.client.HTTPException:
        raise AccessDenied(
            DenialReason.NOT_A_DASHBOARD,
            f"The server at {endpoint.url} does not use HTTP, so it is not a Ray dashboard. Check --address.",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            raise AccessDenied(
                DenialReason.UNTRUSTED_CERTIFICATE,
                f"This machine does not trust the certificate of {endpoint.url} ({reason}). Set SSL_CERT_FILE and "
                "REQUESTS_CA_BUNDLE to the file with the certificate of the authority that issued it.",
            ) from None
        message = f"No cluster answers at {endpoint.url} ({reason}). Check that the tunnel is open."
        raise AccessDenied(DenialReason.NO_ANSWER, message) from None
