"""Who may talk to a cluster, and how: the address, the token, and what is refused before a word of it is sent.

A Ray cluster runs any code for whoever reaches its dashboard. So a token is always asked for, it travels over plain
HTTP within this machine alone, and a cluster that answers without one is not used.
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
from http import HTTPStatus
from pathlib import Path

from lagvae_core.errors import LagvaeError

__all__ = ["AccessDenied", "Endpoint", "Token", "find_token", "probe"]

SECONDS = 10.0
"""How long a cluster may take to answer one request."""

TUNNEL = "Open a tunnel, `ssh -N -L 8265:127.0.0.1:8265 HOST`, and use http://127.0.0.1:8265"


class AccessDenied(LagvaeError):
    """The cluster cannot or must not be talked to; the message says what to do."""


@dataclass(frozen=True)
class Token:
    """A secret that never shows: neither printed nor in any traceback. `source` says where it was found."""

    source: str
    secret: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def mask(self, text: str) -> str:
        """`text` with [token] in the place of the secret, which whoever has it may print."""
        return text.replace(self.secret, "[token]")

    def masked(self, pieces: Iterable[str]) -> Iterator[str]:
        """The same of a text in pieces, across two of which the secret may lie."""
        kept = ""
        for piece in pieces:
            kept = self.mask(kept + piece)
            lengths = range(min(len(kept), len(self.secret) - 1), 0, -1)
            begun = next((length for length in lengths if self.secret.startswith(kept[-length:])), 0)
            told, kept = kept[: len(kept) - begun], kept[len(kept) - begun :]
            if told:
                yield told
        if kept:
            yield kept


def find_token(environment: Mapping[str, str] = os.environ) -> Token:
    """The cluster's token: the file of RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token, else RAY_AUTH_TOKEN.

    Files go first, since an environment is seen by every child process.

    Raises:
        AccessDenied: there is none, it is empty, or others may read its file.
    """
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(os.path.expanduser(named)) if named else Path.home() / ".ray" / "auth_token"
    if named or path.exists():
        return Token(str(path), _secret_of(path))
    if environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token("RAY_AUTH_TOKEN", _one_word(environment["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN"))
    raise AccessDenied(
        f"A token is needed to talk to a cluster, but there is none in RAY_AUTH_TOKEN_PATH or {path}. Copy the "
        "cluster's there and make it yours alone with chmod 600."
    )


def _secret_of(path: Path) -> str:
    try:
        mode, secret = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise AccessDenied(
            f"The token file {path} must be readable, but {reason}. Check RAY_AUTH_TOKEN_PATH."
        ) from None
    if mode & 0o077:
        raise AccessDenied(
            f"The token file {path} must be readable by you alone, but its mode is {mode & 0o777:o}. Run chmod 600 "
            f"{path}, and think of the token as known to others."
        )
    return _one_word(secret, f"the token file {path}")


def _one_word(text: str, source: str) -> str:
    # Anything else is no HTTP header, and the library that refuses it would print it.
    secret = text.strip()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise AccessDenied(
            f"{source[0].upper()}{source[1:]} must hold one word of ASCII, but does not. Copy the token again."
        )
    return secret


@dataclass(frozen=True)
class Endpoint:
    """The address of a cluster's dashboard, scheme and port included, without a trailing slash."""

    url: str

    @classmethod
    def of(cls, address: str, *, insecure: bool = False) -> Endpoint:
        """`address` as http://HOST:PORT or https://HOST[:PORT].

        Raises:
            AccessDenied: it is none, carries a secret, or would send the token in the clear to another machine and
                `insecure` does not allow that.
        """
        message = "--address must be http://HOST:PORT or https://HOST of the cluster's dashboard"
        try:
            parts = urllib.parse.urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise AccessDenied(
                f"{message}, but {address!r} is not ({error}). For example http://127.0.0.1:8265"
            ) from None
        bare = not (parts.query or parts.fragment or parts.path.strip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname or not bare or not address.isprintable():
            raise AccessDenied(f"{message}, but is {address!r}. For example http://127.0.0.1:8265")
        if parts.username is not None or parts.password is not None:
            raise AccessDenied(f"{message}, without a user or password in it. The token says who you are.")
        if parts.scheme == "http" and not is_loopback(parts.hostname) and not insecure:
            raise AccessDenied(
                f"A token must not travel in the clear, but {parts.hostname} is another machine and the address is "
                f"plain HTTP. {TUNNEL}, or use https://, or add --insecure on a network that nobody else is on."
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{parts.scheme}://{host}" + (f":{port}" if port is not None else ""))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def probe(endpoint: Endpoint, token: Token) -> None:
    """Ask the cluster twice for its version, without the token and with it.

    Raises:
        AccessDenied: nothing answers, it answers without the token, or not with it.
    """
    if (status := _status(endpoint, {})) == HTTPStatus.OK:
        raise AccessDenied(
            f"A cluster must ask for a token, but the one at {endpoint.url} answers anyone, and so runs anyone's code. "
            "Start it with RAY_AUTH_MODE=token in its environment."
        )
    if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise AccessDenied(
            f"A Ray dashboard must answer at {endpoint.url}, but what does says {status}. Check --address."
        )
    if (status := _status(endpoint, token.headers)) != HTTPStatus.OK:
        raise AccessDenied(denied(endpoint.url, status, token.source))


def denied(url: str, status: int, source: str) -> str:
    """What a refusal of the cluster means, in a sentence."""
    if status == HTTPStatus.FORBIDDEN:
        return f"The cluster at {url} refuses the token of {source}: it is that of another cluster. Copy this one's."
    if status == HTTPStatus.UNAUTHORIZED:
        return f"The cluster at {url} saw no token, though one was sent. Is a proxy in between taking it off?"
    return f"The cluster at {url} answers {status} to the token of {source}. Look at its dashboard's log."


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token must not follow where a stranger points."""

    def redirect_request(self, *given: object, **named: object) -> None:
        return None


def _status(endpoint: Endpoint, headers: dict[str, str]) -> int:
    # No proxy of the environment: the token is for the cluster alone.
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{endpoint.url}/api/version", headers=headers)
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except http.client.HTTPException:
        raise AccessDenied(
            f"A Ray dashboard must answer at {endpoint.url}, but what does speaks no HTTP. Check --address."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            raise AccessDenied(
                f"The certificate of {endpoint.url} must be one that this machine trusts, but is not ({reason}). Name "
                "the file of its authority in SSL_CERT_FILE and REQUESTS_CA_BUNDLE."
            ) from None
        raise AccessDenied(
            f"A cluster must answer at {endpoint.url}, but nothing does ({reason}). Is the tunnel open?"
        ) from None
