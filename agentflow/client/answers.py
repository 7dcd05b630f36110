"""What an HTTP answer means: a value, one of our errors, or "send it again". Without I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from agentflow.codec import decode_value
from agentflow.errors import AgentFlowError, Unavailable, from_code

PROBLEM = "application/problem+json"
_STANDARD = frozenset({"type", "title", "status", "detail", "code", "instance", "retryable"})

BACK_OFF_S = 0.1
BACK_OFF_LIMIT_S = 3.0


class Repeat(Exception):
    """Not an answer of AgentFlow's, or one that says "later": the same request is to be sent again. `error` is what to raise at the end."""

    def __init__(self, error: AgentFlowError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


def answer_of(status: int, headers: Mapping[str, str], body: bytes) -> Any:
    """The decoded body of a success. Raises our error for a problem document, and Repeat.

    A 5xx without a problem document comes from a proxy whose replica is gone (design 12), and says nothing about the request.
    """
    if 200 <= status < 300:
        if not body:
            return None
        try:
            return decode_value(body)
        except ValueError:
            raise Repeat(Unavailable(f"The answer (HTTP {status}) was cut, or is not AgentFlow's: it is not JSON.")) from None
    error = problem_in(status, headers, body)
    if error is None:
        shown = body[:200].decode("utf-8", "replace").strip()
        unknown = Unavailable(f"The answer (HTTP {status}) is not AgentFlow's: {shown!r}. Is the url right?", http_status=status)
        if status >= 500 or status in (408, 429):
            raise Repeat(unknown, _retry_after_s(headers))
        raise unknown
    if error.retryable and status in (429, 503):
        raise Repeat(error, _retry_after_s(headers))
    raise error


def problem_in(status: int, headers: Mapping[str, str], body: bytes) -> AgentFlowError | None:
    """The error that a problem document stands for; None when there is no such document."""
    if not headers.get("content-type", "").startswith(PROBLEM):
        return None
    try:
        document = decode_value(body)
        code, detail = str(document["code"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        return None
    facts = {name: value for name, value in document.items() if name not in _STANDARD and name.isidentifier()}
    for taken in ("message", "self"):
        facts.pop(taken, None)
    facts["http_status"] = status
    error = from_code(code, detail, **{name: value for name, value in facts.items() if name != "code"})
    error.retryable = bool(document.get("retryable", error.retryable))
    return error


def pause_s(attempt: int, retry_after_s: float | None = None) -> float:
    """How long to pause before sending again; attempt counts from 1. Jittered, so that clients of one dead replica do not come at once."""
    grown = min(BACK_OFF_LIMIT_S, BACK_OFF_S * 2.0 ** (attempt - 1))
    spread = grown * (0.5 + random.random() / 2)
    return spread if retry_after_s is None else max(spread, min(retry_after_s, 10.0))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
