"""What may stand where a client writes a name: checked before it reaches the store, which would choke on a NUL."""

from __future__ import annotations

import base64
import binascii
import re

from agentflow.errors import InvalidRequest, NotFound
from agentflow.ids import is_execution_id

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,199}\Z")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}\Z")
SESSION_ID_LIMIT_CHARS = 200
IDEMPOTENCY_KEY_LIMIT_CHARS = 255


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a workflow, agent or tool, or an import path."""
    return _NAME.match(text) is not None


def is_version(text: str) -> bool:
    return _VERSION.match(text) is not None


def execution_id(text: str) -> str:
    """`text` if it can be an execution's id. Raises NotFound."""
    if not is_execution_id(text):
        raise no_execution(text)
    return text


def no_execution(text: str) -> NotFound:
    shown = text[:64].encode("ascii", "backslashreplace").decode()
    return NotFound(f"There is no execution {shown!r}; GET /v1/executions lists them.", execution_id=shown)


def session_id(text: str) -> str:
    """`text` if it can be a session's id. Raises InvalidRequest."""
    if not 0 < len(text) <= SESSION_ID_LIMIT_CHARS or not text.isprintable():
        raise InvalidRequest(f"A session id has 1 to {SESSION_ID_LIMIT_CHARS} printable characters.")
    return text


def idempotency_key(text: str | None) -> str | None:
    """The header's value. Raises InvalidRequest."""
    if text is None:
        return None
    if not 0 < len(text) <= IDEMPOTENCY_KEY_LIMIT_CHARS or not text.isascii() or not text.isprintable():
        raise InvalidRequest(f"Idempotency-Key: 1 to {IDEMPOTENCY_KEY_LIMIT_CHARS} printable ASCII characters.")
    return text


def cursor_of(last: str | None) -> str | None:
    """An opaque cursor that stands behind `last`."""
    return None if last is None else base64.urlsafe_b64encode(b"1:" + last.encode()).decode().rstrip("=")


def behind(cursor: str | None) -> str | None:
    """What `cursor_of` was given. Raises InvalidRequest for anything else."""
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        text = ""
    if not text.startswith("1:") or not is_name(text[2:]):
        raise InvalidRequest("cursor: take it from next_cursor of the page before, as it is.")
    return text[2:]
