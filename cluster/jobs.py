"""Submitting, listing, following and stopping jobs of a cluster through the Ray Jobs API of its dashboard.

The token is sent only to the cluster, in one header of each request. It is never sent to a proxy or to the target of a
redirect, and it is not passed to the job.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import shlex
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.access import AccessDenied, DenialReason, Endpoint, Token, denied, find_token, probe
from cluster.job_package import JobPackage
from lagvae_core.errors import LagvaeError

__all__ = ["ACTIVE", "Cluster", "Job", "JobError"]

SECONDS = 60.0
"""Timeout of one request, including an upload [s]."""

ACTIVE = ("PENDING", "RUNNING")
"""States of a job that has not ended. The final states are SUCCEEDED, FAILED and STOPPED."""

STOP_SECONDS = 120
"""Time between the request to stop a job and the moment it is killed [s]. The driver needs it to save its runs."""


class JobError(LagvaeError):
    """The cluster did not carry out a request about a job. The message gives the reason."""


@dataclass(frozen=True)
class Job:
    """A job as the cluster describes it. Times are UTC."""

    submission_id: str
    status: str
    message: str
    metadata: Mapping[str, str]
    started_at: datetime.datetime | None
    ended_at: datetime.datetime | None
    exit_code: int | None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @classmethod
    def of(cls, details: Any, token: Token) -> Job:
        """Convert Ray's `details` of a job. Their message may quote the job's log, so the token is masked in it."""
        return cls(
            str(details.submission_id),
            str(getattr(details.status, "value", details.status)),
            token.mask(str(details.message or "")),
            {str(key): str(value) for key, value in (details.metadata or {}).items()},
            _time(details.start_time),
            _time(details.end_time),
            details.driver_exit_code,
        )


def _time(milliseconds: int | None) -> datetime.datetime | None:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC) if milliseconds else None


class Cluster:
    """A connection to a cluster that requires a token and accepts the user's token."""

    def __init__(self, endpoint: Endpoint, token: Token, client: Any) -> None:
        self.endpoint, self._token, self._client = endpoint, token, client

    @classmethod
    def open(cls, address: str, *, insecure: bool = False) -> Cluster:
        """Connect to a cluster.

        Args:
            address: URL of its dashboard, http://HOST:PORT or https://HOST.
            insecure: Allow plain HTTP to another machine, which sends the token unencrypted.

        Raises:
            AccessDenied: There is no token; the address is malformed, or the token would be sent to it unencrypted;
                nothing answers; or the cluster accepts requests without a token, or rejects the user's token.
        """
        endpoint, token = Endpoint.of(address, insecure=insecure), find_token()
        probe(endpoint, token)
        with _translated(endpoint, token), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            return cls(endpoint, token, _client_class()(endpoint.url, headers=token.headers))

    def submit(
        self,
        submission_id: str,
        entrypoint: Sequence[str],
        package: JobPackage,
        metadata: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> bool:
        """Start a job on the head node, without reserving cores or GPUs.

        A job that is stopped receives SIGINT, and is killed if it has not ended after `STOP_SECONDS`.

        Args:
            submission_id: Identifier of the job.
            entrypoint: Command line.
            package: Files of the job.
            metadata: Text stored with the job.
            environment: Environment variables of the job.

        Returns:
            True; or False if a job with this id already exists.
        """
        stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        try:
            with _translated(self.endpoint, self._token):
                self._client.submit_job(
                    # `exec` replaces the shell, which would otherwise receive the interrupt as well.
                    entrypoint=f"exec {shlex.join(entrypoint)}",
                    submission_id=submission_id,
                    runtime_env={
                        "working_dir": str(package.working_dir),
                        "py_modules": [str(folder) for folder in package.packages],
                        "env_vars": {**environment, **stopping},
                    },
                    metadata=dict(metadata),
                    entrypoint_num_cpus=0,
                    entrypoint_num_gpus=0,
                )
        except JobError as error:
            if "already exists" in str(error):
                return False
            raise
        return True

    def jobs(self) -> list[Job]:
        """Return the submitted jobs, oldest first."""
        with _translated(self.endpoint, self._token):
            jobs = [Job.of(details, self._token) for details in self._client.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started_at is not None, job.started_at, job.submission_id))

    def job(self, submission_id: str) -> Job:
        """Return one job."""
        with _translated(self.endpoint, self._token):
            return Job.of(self._client.get_job_info(submission_id), self._token)

    def log(self, submission_id: str) -> str:
        """Return the output of the job so far."""
        with _translated(self.endpoint, self._token):
            return self._token.mask(self._client.get_job_logs(submission_id))

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yield the output of the job in pieces until it ends."""
        yield from self._token.masked(self._pieces(submission_id))

    def _pieces(self, submission_id: str) -> Iterator[str]:
        pieces = _tail(f"{self.endpoint.url}/api/jobs/{submission_id}/logs/tail", self._token)

        async def piece() -> str | None:
            return await anext(pieces, None)

        async def end() -> None:
            await pieces.aclose()
            # aiohttp closes the connection in the next iteration of the event loop, so wait for one iteration.
            await asyncio.sleep(0)

        with asyncio.Runner() as runner, _translated(self.endpoint, self._token):
            try:
                while (text := runner.run(piece())) is not None:
                    yield text
            finally:
                runner.run(end())

    def stop(self, submission_id: str) -> bool:
        """Request that the job stop, without waiting for its end. Return False if the job had already ended."""
        with _translated(self.endpoint, self._token):
            return bool(self._client.stop_job(submission_id))

    def wait(self, submission_id: str, seconds: float, pause: float = 0.3) -> Job:
        """Wait at most `seconds` until the job has ended, and return its current state."""
        deadline = time.monotonic() + seconds
        while (job := self.job(submission_id)).active and time.monotonic() < deadline:
            time.sleep(pause)
        return job


async def _tail(url: str, token: Token) -> AsyncGenerator[str, None]:
    """Yield the text messages of a websocket.

    Ray's own client is not used, because it would follow a redirect and send the token to its target. No pings are
    sent, because Ray's dashboard does not answer a ping while the job prints nothing.
    """
    import aiohttp

    async def refuse(session: object, context: object, answer: aiohttp.TraceRequestRedirectParams) -> None:
        raise aiohttp.TooManyRedirects(answer.response.request_info, (answer.response,))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    async with (
        aiohttp.ClientSession(headers=token.headers, trace_configs=[tracing]) as session,
        session.ws_connect(url) as socket,
    ):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                yield message.data
        if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
            raise aiohttp.ServerDisconnectedError


def _client_class() -> type[Any]:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules", "ray._private.runtime_env"):
        for logger in [n for n in logging.root.manager.loggerDict if n.startswith(name)]:
            logging.getLogger(logger).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            # By default, the library `requests` follows redirects, uses the proxies configured in the environment, and
            # replaces the token by credentials from ~/.netrc.
            direct = {"proxies": {"http": None, "https": None, "all": None}, "auth": lambda request: request}
            return super()._do_request(method, endpoint, allow_redirects=False, timeout=SECONDS, **direct, **options)

    return Client


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Context manager. Removes environment variables for the duration of the block.

    It is used for variables that would take precedence over an explicit address.
    """
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)


@contextmanager
def _translated(endpoint: Endpoint, token: Token) -> Iterator[None]:
    """Context manager. Converts exceptions of Ray, requests and aiohttp into `AccessDenied` or `JobError`."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        status = 403 if "Authentication failed" in str(error) else 401
        raise denied(endpoint.url, status, token.source) from None
    except aiohttp.WSServerHandshakeError as error:
        raise denied(endpoint.url, error.status, token.source) from None
    except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        reason = type(error).__name__
        message = f"The cluster at {endpoint.url} does not answer ({reason}). Check the tunnel. Jobs keep running."
        raise AccessDenied(DenialReason.NO_ANSWER, message) from None
    except (RuntimeError, ValueError) as error:
        # If the message contains a traceback of the server, its last line gives the reason.
        lines = [line.strip(" .") for line in str(error).splitlines() if line.strip(" .")] or [type(error).__name__]
        raise JobError(token.mask(f"The cluster at {endpoint.url} reports: {lines[-1]}")[:600] + ".") from None
