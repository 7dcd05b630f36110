"""Errors as RFC 9457 problem documents: one shape for everything that can go wrong over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from agentflow.codec import encode_value
from agentflow.errors import AgentFlowError, Busy, Unauthenticated

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:agentflow:problem:"
RESERVED = frozenset({"type", "title", "status", "detail", "code", "instance", "retryable", "request_id"})
"""Members of the document that a fact may not take; a fact of such a name is shown as `fact_<name>`."""

_HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 415: "unsupported_media_type"}


def problem(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    retryable: bool = False,
    facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response for one problem. `scope` gives the instance (the path asked for) and the request id."""
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": scope.get("path", ""),
        "retryable": retryable,
    }
    request_id = scope.get("agentflow.request_id")
    if request_id:
        document["request_id"] = request_id
    for name, value in (facts or {}).items():
        document[name if name not in RESERVED else f"fact_{name}"] = value
    return Response(_encode(document), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def problem_of(scope: Scope, error: AgentFlowError) -> Response:
    """The response for one of our own errors."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="agentflow"'
    if isinstance(error, Busy) or error.http_status == 503:
        headers["Retry-After"] = str(max(1, round(float(error.facts.get("retry_after_s", 1)))))
    if error.http_status >= 500 and not error.retryable and error.code != "not_yet":
        logger.error("a request failed with %s", error.code, exc_info=error, extra={"code": error.code})
    return problem(
        scope,
        status=error.http_status,
        code=error.code,
        detail=error.message,
        retryable=error.retryable,
        facts=error.facts,
        headers=headers,
    )


def unexpected(scope: Scope) -> Response:
    """The response for a bug: it says where to look, and nothing of what is inside."""
    detail = "AgentFlow made a mistake. The traceback is in the log of the Serve replica, under this request_id."
    return problem(scope, status=500, code="internal", detail=detail)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document. What no handler takes is caught by the Boundary middleware."""

    async def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, AgentFlowError)
        return problem_of(request.scope, error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = f"There is nothing at {request.url.path}; /docs lists what there is." if error.status_code == 404 else str(error.detail)
        if error.status_code == 405:
            detail = f"{request.method} is not possible here; the Allow header says what is."
        code = _HTTP_CODES.get(error.status_code, "http_error")
        return problem(request.scope, status=error.status_code, code=code, detail=detail, headers=error.headers)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = located(error.errors())
        detail = "; ".join(f"{item['path']}: {item['message']}" for item in errors)
        return problem(request.scope, status=400, code="invalid_request", detail=detail, facts={"errors": errors})

    app.add_exception_handler(AgentFlowError, on_ours)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)


def located(errors: Any) -> list[dict[str, str]]:
    """Pydantic's errors as {path, message}; what the client sent is not repeated."""
    return [{"path": "/" + "/".join(str(part) for part in item["loc"]), "message": str(item["msg"])} for item in errors]


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return encode_value(document)
    except TypeError:
        return encode_value({name: _plain(value) for name, value in document.items()})


def _plain(value: Any) -> Any:
    """A fact that JSON cannot hold is shown as text rather than turning one error into another."""
    try:
        encode_value(value)
    except TypeError:
        return str(value)
    return value
