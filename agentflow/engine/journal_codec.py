"""Events to and from what a store keeps: a kind, a JSON body, and apart from it the user's value."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

import msgspec

from agentflow.domain.event import EVENT_KINDS, Event
from agentflow.domain.failure import Failure

_ENCODE = msgspec.json.Encoder()
_BODY_FIELDS = {cls: tuple(field.name for field in fields(cls) if field.name != "value") for cls in EVENT_KINDS.values()}
_HAS_VALUE = {cls: any(field.name == "value" for field in fields(cls)) for cls in EVENT_KINDS.values()}
_FAILURE_FIELDS = {field.name for field in fields(Failure)}
_REQUIRED = {
    cls: frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING) for cls in EVENT_KINDS.values()
}


class UnknownEvent(ValueError):
    """A journal line of a kind or with a field that this version does not know: a newer version wrote it."""


def encode_event(event: Event) -> tuple[str, bytes, bytes | None]:
    """(kind, body, value). The value is JSON bytes as they came, None for a kind that has none."""
    cls = type(event)
    body = {name: getattr(event, name) for name in _BODY_FIELDS[cls]}
    try:
        encoded = _ENCODE.encode(body)
    except UnicodeEncodeError:
        encoded = json.dumps(msgspec.to_builtins(body), ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return event.KIND, encoded, event.value if _HAS_VALUE[cls] else None  # type: ignore[union-attr]


def decode_event(kind: str, body: bytes, value: bytes | None) -> Event:
    """The event that was encoded. Raises UnknownEvent, ValueError."""
    cls = EVENT_KINDS.get(kind)
    if cls is None:
        raise UnknownEvent(f"a journal line of kind {kind!r}, which this version does not know")
    try:
        content: dict[str, Any] = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError(f"a {kind} line whose body is no object")
    if unknown := content.keys() - set(_BODY_FIELDS[cls]):
        raise UnknownEvent(f"a {kind} line with {sorted(unknown)[0]!r}, which this version does not know")
    failure = content.get("failure")
    if isinstance(failure, dict) and (unknown := failure.keys() - _FAILURE_FIELDS):
        raise UnknownEvent(f"a {kind} line whose failure has {sorted(unknown)[0]!r}, which this version does not know")
    if _HAS_VALUE[cls]:
        content["value"] = value if value is not None else b"null"
    if missing := _REQUIRED[cls] - content.keys():
        raise ValueError(f"a {kind} line without {sorted(missing)[0]!r}")
    event: Event = msgspec.convert(content, cls, builtin_types=(bytes,))
    return event


def body_of(event: Event) -> dict[str, Any]:
    """The event's own fields as JSON-able values, without its user value: what readers are shown."""
    shown: dict[str, Any] = msgspec.to_builtins(
        {name: getattr(event, name) for name in _BODY_FIELDS[type(event)]}, builtin_types=(datetime,)
    )
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in shown.items()}
