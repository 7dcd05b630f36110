"""Views of the domain as JSON bytes in the shapes of serve/wire.py; user values are spliced in as they lie in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agentflow.domain.command import WorkerStatus
from agentflow.domain.event import Line
from agentflow.domain.execution import ExecutionView
from agentflow.domain.failure import Failure
from agentflow.ports import CatalogueEntry, StoredWorkflow
from agentflow.serve.body import spliced


def execution_json(view: ExecutionView) -> bytes:
    members: dict[str, Any] = {
        "id": view.execution_id,
        "workflow": view.workflow,
        "version": view.version,
        "status": view.status.value,
        "started_at": time_text(view.started_at),
        "ended_at": time_text(view.ended_at),
        "error": failure_member(view.failure, view.failed_step),
    }
    if view.session_agent is not None:
        members["session"] = {"agent": view.session_agent, "id": view.session_id}
    return spliced(members, {"input": view.input, "result": view.result})


def line_json(line: Line) -> bytes:
    """One event. `body` has its own fields, `value` the user's value."""
    event = line.event
    body = {item.name: _plain(getattr(event, item.name)) for item in dataclasses.fields(event) if item.name != "value"}
    members = {"seq": line.seq, "at": time_text(line.at), "kind": event.KIND, "body": body}
    return spliced(members, {"value": getattr(event, "value", None)})


def failure_member(failure: Failure | None, step: str | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    member: dict[str, Any] = {"code": failure.code, "message": failure.message, "retryable": failure.retryable}
    if step is not None:
        member["step"] = step
    return member


def workflow_member(stored: StoredWorkflow) -> dict[str, Any]:
    return {"name": stored.name, "version": stored.version, "created_at": time_text(stored.created_at), "principal": stored.principal}


def actor_member(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "name": worker.name,
        "kind": worker.kind,
        "uses": worker.uses,
        "state": worker.state,
        "in_flight": worker.in_flight,
        "queued": worker.queued,
        "crashes": worker.crashes,
        "started_at": time_text(worker.started_at),
        "reason": worker.reason,
    }


def catalogue_member(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "uses": entry.uses,
        "description": entry.description,
        "code_hash": entry.code_hash,
        "input_schema": _mapping(entry.input_schema),
    }


def tool_member(entry: CatalogueEntry) -> dict[str, Any]:
    return {**catalogue_member(entry), "profile": _mapping(entry.profile)}


def time_text(at: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the microsecond."""
    return None if at is None else at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _mapping(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _plain(value: Any) -> Any:
    """A field of an event as a JSON value."""
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Failure):
        return failure_member(value, None)
    return list(value) if isinstance(value, tuple) else value
