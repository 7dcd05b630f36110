"""What both clients do with an execution between two requests: keep the place in its journal, judge its end, make paths absolute."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from agentflow.client.sse import FrameReader
from agentflow.client.views import Event, ExecutionSnapshot, event_of
from agentflow.codec import decode_value
from agentflow.errors import ExecutionFailed, Unavailable

WAIT_S = 25.0
"""One long poll for the end; below what proxies cut, and below the server's wait_limit_s."""


class Place:
    """Where a reader stands in a journal, over any number of connections. Events that come twice are given once."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.ended = False
        self._frames = FrameReader()

    def connected(self) -> dict[str, str]:
        """A new connection begins; returns the headers that resume behind what was read."""
        self._frames = FrameReader()
        return {"Accept": "text/event-stream", "Last-Event-ID": str(self.after)}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        for frame in self._frames.feed(chunk):
            event = event_of(decode_value(frame.data))
            if event.seq <= self.after:
                continue
            self.after = event.seq
            self.ended = event.ends
            yield event

    def cut(self) -> Unavailable:
        """Why a stream that stopped without an ending event is opened again."""
        return Unavailable(f"The event stream was cut behind seq {self.after}; events(after={self.after}) goes on.", after=self.after)


def result_of(snapshot: ExecutionSnapshot) -> Any:
    """The result of an execution that has ended. Raises ExecutionFailed unless it completed."""
    if snapshot.status == "completed":
        return snapshot.result
    error = dict(snapshot.error or {})
    where = f" in step {error['step']}" if error.get("step") else ""
    why = f": {error['message']} [{error['code']}]" if error else ""
    raise ExecutionFailed(
        f"Execution {snapshot.id} of {snapshot.workflow} {snapshot.status}{where}{why}",
        execution_id=snapshot.id,
        status=snapshot.status,
        error=error,
    )


def too_slow(execution_id: str, timeout_s: float) -> TimeoutError:
    return TimeoutError(
        f"Execution {execution_id} has not ended within {timeout_s:g} s; it goes on, and wait() or result() may be called again."
    )


def may_hold_relative_path(value: Any) -> bool:
    """Whether an input has any text that the schema might call a folder and that only means something here."""
    if isinstance(value, str):
        return not os.path.isabs(value)
    if isinstance(value, Mapping):
        return any(may_hold_relative_path(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(may_hold_relative_path(item) for item in value)


def with_absolute_folders(value: Any, schema: Any) -> Any:
    """`value` with each text whose schema says `format: folder` made absolute; the cluster on this machine runs in another directory."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, str):
        return os.path.abspath(os.path.expanduser(value)) if schema.get("format") == "folder" and value else value
    if isinstance(value, Mapping):
        properties = schema.get("properties") or {}
        return {name: with_absolute_folders(item, properties.get(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_absolute_folders(item, schema.get("items")) for item in value]
    return value
