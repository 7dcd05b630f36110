"""Bodies in and out: JSON is read leniently (any legal escape) and written by splicing values that are bytes already."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from agentflow.codec import decode_value, encode_value
from agentflow.errors import InvalidRequest
from agentflow.serve.problems import located

Shape = TypeVar("Shape", bound=BaseModel)


def spliced(members: Mapping[str, Any], values: Mapping[str, bytes | None]) -> bytes:
    """A JSON object of `members` and, behind them, `values` that are JSON bytes already; a value None is left out."""
    head = encode_value(members)
    tail = [b'"' + name.encode() + b'":' + body for name, body in values.items() if body is not None]
    if not tail:
        return head
    return head[:-1] + (b"," if members else b"") + b",".join(tail) + b"}"


def array(items: list[bytes]) -> bytes:
    """A JSON array of items that are JSON bytes already."""
    return b"[" + b",".join(items) + b"]"


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON bytes as a response that no cache keeps and no browser takes for a page."""
    every = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    return Response(body, status_code=status, headers=every, media_type="application/json")


def value_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A plain value as a response."""
    return json_response(encode_value(value), status=status, headers=headers)


async def read_json(request: Request, shape: type[Shape]) -> Shape:
    """The request's body as `shape`. Raises InvalidRequest with every mismatch located, PayloadTooLarge."""
    raw = await request.body()
    if not raw.strip():
        raise InvalidRequest("The body is empty; send a JSON object.")
    return shaped(parse(raw), shape)


def parse(raw: bytes) -> Any:
    """The JSON value in `raw`. Raises InvalidRequest."""
    try:
        return decode_value(raw)
    except RecursionError:
        raise InvalidRequest("The body is not usable JSON: it is nested too deep.") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {_one_line(error)}.") from None


def shaped(value: Any, shape: type[Shape]) -> Shape:
    """`value` as `shape`. Raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        errors = located(error.errors(include_url=False, include_input=False, include_context=False))
        raise InvalidRequest("; ".join(f"{item['path']}: {item['message']}" for item in errors), errors=errors) from None


def encoded(value: Any, *, name: str) -> bytes:
    """`value` (decoded from a body) as JSON bytes. Raises InvalidRequest for the numbers that JSON does not have."""
    try:
        return encode_value(value)
    except TypeError as error:
        raise InvalidRequest(f"{name}: {_one_line(error)}.") from None


def hash_of(value: Any) -> str:
    """The same for two bodies that say the same, whatever the order of their keys."""
    try:
        canonical = msgspec.json.encode(value, order="sorted")
    except (UnicodeEncodeError, RecursionError, OverflowError, ValueError, TypeError):
        canonical = json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(canonical).hexdigest()


def finite(value: float) -> float:
    """`value` if it is a number one can wait for. Raises InvalidRequest."""
    if not math.isfinite(value):
        raise InvalidRequest("wait: must be a finite number of seconds.")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).encode("ascii", "backslashreplace").decode().split())[:300]
