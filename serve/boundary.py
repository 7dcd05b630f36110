"""The outermost layers of the application: request ids, the last catch, metrics, and the limit on bodies."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentflow.errors import PayloadTooLarge
from agentflow.serve.metrics import ReplicaMetrics
from agentflow.serve.problems import problem_of, unexpected

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Boundary:
    """Gives each request an id, counts it, and answers a problem when anything below raises what it should not."""

    def __init__(self, app: ASGIApp, *, metrics: ReplicaMetrics, echo_request_id: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope["agentflow.request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._echo_request_id:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except asyncio.CancelledError:
            status = status or 499
            raise
        except ClientDisconnect:
            status = status or 499
        except Exception:
            logger.exception("a request failed", extra={"request_id": request_id, "method": scope["method"], "path": scope["path"]})
            if not status:
                await unexpected(scope)(scope, receive, send_marked)
            else:
                raise
        finally:
            self._metrics.answered(scope, status, time.perf_counter() - started)


class BodyLimit:
    """Answers 413 for a body over `limit_bytes`: at once when its length is declared, else where it crosses the limit."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._limit_bytes:
            # The connection ends with this answer, so that nobody has to read what was refused.
            response = problem_of(scope, self._too_large(int(declared)))
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        size_bytes = 0

        async def receive_counted() -> Message:
            nonlocal size_bytes
            message = await receive()
            if message["type"] == "http.request":
                size_bytes += len(message.get("body", b""))
                if size_bytes > self._limit_bytes:
                    raise self._too_large(size_bytes)
            return message

        await self._app(scope, receive_counted, send)

    def _too_large(self, size_bytes: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The body has {size_bytes} bytes or more; at most {self._limit_bytes} are taken (setting payload_limit_bytes). "
            "Put large content into a file or store and send its address.",
            size_bytes=size_bytes,
            limit_bytes=self._limit_bytes,
            setting="payload_limit_bytes",
        )


def _request_id(scope: Scope) -> str:
    """The client's X-Request-Id if it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _REQUEST_ID.match(text):
                return text
    return uuid.uuid4().hex
