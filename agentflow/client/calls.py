"""Every request of the API as a value, without I/O: the sync and the async client send the same ones."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from agentflow.client.views import (
    AgentEntry,
    ExecutionSnapshot,
    ToolEntry,
    WorkflowEntry,
    agent_of,
    snapshot_of,
    tool_of,
    workflow_of,
)
from agentflow.client.workflow import Workflow
from agentflow.codec import encode_value
from agentflow.domain.workflow import Workflow as Definition
from agentflow.errors import InvalidRequest

Answer = TypeVar("Answer")

Source = Workflow | Definition | str | os.PathLike[str]
"""A Workflow, the path of a YAML file, or its text; where one is run, a `str` may also be the name of a stored one."""

JSON = "application/json"
YAML = "application/yaml"


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request and how its answer is read. `wait_s`: how long the server may take on purpose."""

    method: str
    path: str
    read: Callable[[Any], Answer]
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON
    idempotency_key: str | None = None
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Page(Generic[Answer]):
    items: list[Answer]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Said:
    """What became of a message. `status` running: the reply will be the execution's result."""

    execution_id: str
    status: str
    reply: Any = None
    error: Mapping[str, Any] | None = None


def start_execution(workflow: str, *, version: str | None, input: Any, key: str | None) -> Call[str]:
    """Answers the execution's id."""
    asked: dict[str, Any] = {"workflow": workflow, "input": {} if input is None else input}
    if version is not None:
        asked["version"] = version
    return Call("POST", "/v1/executions", lambda answer: str(answer["id"]), body=_body(asked), idempotency_key=key or uuid.uuid4().hex)


def get_execution(execution_id: str, *, wait_s: float = 0.0) -> Call[ExecutionSnapshot]:
    query = {"wait": f"{wait_s:.3f}"} if wait_s > 0 else {}
    return Call("GET", f"/v1/executions/{_segment(execution_id)}", snapshot_of, query=query, wait_s=wait_s)


def list_executions(*, workflow: str | None, status: str | None, cursor: str | None, limit: int) -> Call[Page[ExecutionSnapshot]]:
    query = _query(workflow=workflow, status=status, cursor=cursor, limit=str(limit))
    return Call("GET", "/v1/executions", _page("executions", snapshot_of), query=query)


def cancel_execution(execution_id: str, *, reason: str) -> Call[ExecutionSnapshot]:
    return Call("POST", f"/v1/executions/{_segment(execution_id)}/cancel", snapshot_of, body=_body({"reason": reason}))


def events_path(execution_id: str) -> str:
    return f"/v1/executions/{_segment(execution_id)}/events"


def put_workflow(workflow: Source) -> Call[WorkflowEntry]:
    """Of a Workflow, a path to a YAML file, or YAML text."""
    read = read_source(workflow)
    return Call("POST", "/v1/workflows", workflow_of, query={"file": read.file[-500:]}, body=_utf8(read.source), content_type=YAML)


def get_workflow(name: str, *, version: str | None) -> Call[WorkflowEntry]:
    return Call("GET", f"/v1/workflows/{_segment(name)}", workflow_of, query=_query(version=version))


def list_workflows(*, cursor: str | None, limit: int) -> Call[Page[WorkflowEntry]]:
    return Call("GET", "/v1/workflows", _page("workflows", workflow_of), query=_query(cursor=cursor, limit=str(limit)))


def workflow_versions(name: str) -> Call[list[WorkflowEntry]]:
    return Call("GET", f"/v1/workflows/{_segment(name)}/versions", lambda answer: [workflow_of(item) for item in answer["versions"]])


def list_agents() -> Call[list[AgentEntry]]:
    return Call("GET", "/v1/agents", lambda answer: [agent_of(item) for item in answer["agents"]])


def list_tools() -> Call[list[ToolEntry]]:
    return Call("GET", "/v1/tools", lambda answer: [tool_of(item) for item in answer["tools"]])


def say(agent: str, session: str, message: Any, *, message_id: str | None, wait_s: float) -> Call[Said]:
    return Call(
        "POST",
        f"/v1/agents/{_segment(agent)}/sessions/{_segment(session)}/messages",
        lambda answer: Said(answer["execution_id"], answer["status"], answer.get("reply"), answer.get("error")),
        query={"wait": f"{wait_s:.3f}"},
        body=_body({"message": message}),
        idempotency_key=message_id or uuid.uuid4().hex,
        wait_s=wait_s,
    )


def get_session(agent: str, session: str) -> Call[dict[str, Any]]:
    return Call("GET", f"/v1/agents/{_segment(agent)}/sessions/{_segment(session)}", dict)


def read_source(workflow: Source) -> Workflow:
    """The text of what `put` was given, and what errors shall call it. Raises InvalidRequest when there is none."""
    if isinstance(workflow, Workflow):
        return workflow
    if isinstance(workflow, Definition):
        if not workflow.source:
            raise InvalidRequest(f"The workflow {workflow.name!r} has no source text; give the YAML itself.")
        return Workflow(workflow.source, f"{workflow.name}.yaml")
    if isinstance(workflow, str) and "\n" in workflow:
        return Workflow(workflow)
    return Workflow.from_file(workflow)


def is_source(workflow: Source) -> bool:
    """Whether `run` was given a definition to store first, and not the name of a stored one."""
    if isinstance(workflow, str):
        return "\n" in workflow or workflow.endswith((".yaml", ".yml"))
    return True


def _body(value: Any) -> bytes:
    try:
        return encode_value(value)
    except TypeError as error:
        raise InvalidRequest(f"This cannot be sent: {error}") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("The workflow's text is not Unicode: it has a lone surrogate.") from None


def _segment(text: str) -> str:
    """Raises InvalidRequest for a name that no path can hold."""
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError:
        quoted = ""
    if quoted in ("", ".", ".."):
        raise InvalidRequest(f"{text!r} cannot be a name or an id.")
    return quoted


def _query(**members: str | None) -> dict[str, str]:
    return {name: value for name, value in members.items() if value is not None}


def _page(member: str, read: Callable[[Any], Answer]) -> Callable[[Any], Page[Answer]]:
    return lambda answer: Page([read(item) for item in answer[member]], answer["next_cursor"])
