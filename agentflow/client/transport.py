"""Sends calls over httpx, and sends them again when a connection is cut: every call is safe to repeat under its key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx

from agentflow.client.address import ADVICE, Address
from agentflow.client.answers import Repeat, answer_of, pause_s
from agentflow.client.calls import Call
from agentflow.errors import AgentFlowError, ClusterDown, Unavailable

Answer = TypeVar("Answer")

CONNECT_S = 5.0
ANSWER_S = 30.0
"""How long an answer may take that does not wait on purpose."""
RETRY_FOR_S = 60.0
"""How long a call is repeated before its last error is raised: a new replica takes some seconds, on a busy machine many."""
STREAM_OPEN_S = 10.0
"""An event stream says its first word at once; one that does not is opened again."""
STREAM_SILENCE_S = 45.0
"""An event stream that is silent for longer is dead: the server says something every 15 s."""

_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=50)


class Attempts:
    """Counts one call's attempts and says how long to pause, or raises when it is enough. No I/O of its own."""

    def __init__(self, address: Address, *, retry_for_s: float, ever_answered: bool) -> None:
        self._address = address
        self._until = time.monotonic() + retry_for_s
        self._ever_answered = ever_answered
        self._count = 0

    def after(self, error: Exception) -> float:
        """Seconds to pause before the next attempt. Raises our error when there shall be none."""
        self._count += 1
        ours, retry_after_s = self._ours(error)
        # Nobody has ever listened there: waiting would only hide a wrong address.
        hopeless = isinstance(error, httpx.ConnectError) and not self._ever_answered
        pause = pause_s(self._count, retry_after_s)
        if hopeless or (self._count > 1 and time.monotonic() + pause > self._until):
            raise ours from (None if isinstance(error, Repeat) else error)
        return pause

    def _ours(self, error: Exception) -> tuple[AgentFlowError, float | None]:
        if isinstance(error, Repeat):
            return error.error, error.retry_after_s
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return ClusterDown(f"Nothing answers at {self._address.url} ({error}). {ADVICE}", url=self._address.url), None
        kind = type(error).__name__
        return Unavailable(f"The connection to {self._address.url} was cut or too slow ({kind}: {error}).", url=self._address.url), None


def headers_of(address: Address, call: Call[Any] | None = None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "agentflow-python/1"}
    if address.key:
        headers["Authorization"] = f"Bearer {address.key}"
    if call is not None:
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        if call.idempotency_key is not None:
            headers["Idempotency-Key"] = call.idempotency_key
    return headers


def _request(call: Call[Any], address: Address) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.query) or None,
        "content": call.body,
        "headers": headers_of(address, call),
        "timeout": httpx.Timeout(ANSWER_S + call.wait_s, connect=CONNECT_S),
    }


class SyncTransport:
    """Thread-safe, since httpx.Client is; needs no event loop."""

    def __init__(self, address: Address, *, retry_for_s: float = RETRY_FOR_S, http: httpx.BaseTransport | None = None) -> None:
        self.address = address
        self._retry_for_s = retry_for_s
        self._ever_answered = False
        # trust_env False for a local cluster: a proxy from the environment knows nothing of this machine's loopback.
        self._client = httpx.Client(base_url=address.url, limits=_LIMITS, transport=http, trust_env=not address.local)

    def send(self, call: Call[Answer]) -> Answer:
        """The call's answer. Raises errors of the API by their code, ClusterDown, Unavailable after `retry_for_s`."""
        attempts = self.attempts()
        while True:
            try:
                response = self._client.request(**_request(call, self.address))
                self._ever_answered = True
                return call.read(answer_of(response.status_code, response.headers, response.content))
            except (Repeat, httpx.TransportError) as error:
                time.sleep(attempts.after(error))

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An event stream; the caller reads it with `iter_raw`."""
        timeout = httpx.Timeout(STREAM_OPEN_S, connect=CONNECT_S)
        with self._client.stream("GET", path, headers={**headers_of(self.address), **headers}, timeout=timeout) as response:
            self._ever_answered = True
            _expect_silence(response)
            yield response

    def attempts(self) -> Attempts:
        return Attempts(self.address, retry_for_s=self._retry_for_s, ever_answered=self._ever_answered)

    def close(self) -> None:
        self._client.close()


class AsyncTransport:
    """The same on the running event loop; belongs to that loop."""

    def __init__(self, address: Address, *, retry_for_s: float = RETRY_FOR_S, http: httpx.AsyncBaseTransport | None = None) -> None:
        self.address = address
        self._retry_for_s = retry_for_s
        self._ever_answered = False
        self._client = httpx.AsyncClient(base_url=address.url, limits=_LIMITS, transport=http, trust_env=not address.local)

    async def send(self, call: Call[Answer]) -> Answer:
        """See SyncTransport.send."""
        attempts = self.attempts()
        while True:
            try:
                response = await self._client.request(**_request(call, self.address))
                self._ever_answered = True
                return call.read(answer_of(response.status_code, response.headers, response.content))
            except (Repeat, httpx.TransportError) as error:
                await asyncio.sleep(attempts.after(error))

    @asynccontextmanager
    async def stream(self, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """An event stream; the caller reads it with `aiter_raw`."""
        timeout = httpx.Timeout(STREAM_OPEN_S, connect=CONNECT_S)
        async with self._client.stream("GET", path, headers={**headers_of(self.address), **headers}, timeout=timeout) as response:
            self._ever_answered = True
            _expect_silence(response)
            yield response

    def attempts(self) -> Attempts:
        return Attempts(self.address, retry_for_s=self._retry_for_s, ever_answered=self._ever_answered)

    async def close(self) -> None:
        await self._client.aclose()


def _expect_silence(response: httpx.Response) -> None:
    """From here on the stream may be silent; httpcore reads this member anew when it begins with the body."""
    response.request.extensions["timeout"]["read"] = STREAM_SILENCE_S
