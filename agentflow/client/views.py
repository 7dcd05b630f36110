"""What the client hands out: events, executions, workflows, agents and tools as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ENDED = frozenset({"completed", "failed", "cancelled"})
ENDING_KINDS = frozenset({"execution.completed", "execution.failed", "execution.cancelled"})


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an execution's journal. `body` has the event's own fields, `value` the user's value it carries, if any."""

    seq: int
    kind: str
    at: datetime
    body: Mapping[str, Any]
    value: Any = field(default=None, repr=False)

    @property
    def step(self) -> str | None:
        """The step it is about, if it is about one."""
        step = self.body.get("step")
        return None if step is None else str(step)

    @property
    def ends(self) -> bool:
        return self.kind in ENDING_KINDS


@dataclass(frozen=True, slots=True)
class ExecutionSnapshot:
    """An execution as it was when it was read. `error`: {code, message, step?}, of a failed one. `input` and `result` are not in lists."""

    id: str
    workflow: str
    version: str
    status: str
    started_at: datetime
    ended_at: datetime | None = None
    error: Mapping[str, Any] | None = None
    input: Any = field(default=None, repr=False)
    result: Any = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class WorkflowEntry:
    """One stored version. `source`, `description` and `input_schema` are filled by `get` only."""

    name: str
    version: str
    created_at: datetime
    principal: str
    source: str = field(default="", repr=False)
    description: str = ""
    input_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """An agent of the application folder; `actors` are those that host it now, as the API shows them."""

    name: str
    uses: str
    description: str
    code_hash: str
    actors: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolEntry:
    name: str
    uses: str
    description: str
    code_hash: str
    input_schema: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None


def event_of(document: Mapping[str, Any]) -> Event:
    return Event(document["seq"], document["kind"], time_of(document["at"]), document["body"], document.get("value"))


def snapshot_of(document: Mapping[str, Any]) -> ExecutionSnapshot:
    ended_at = document.get("ended_at")
    return ExecutionSnapshot(
        id=document["id"],
        workflow=document["workflow"],
        version=document["version"],
        status=document["status"],
        started_at=time_of(document["started_at"]),
        ended_at=None if ended_at is None else time_of(ended_at),
        error=document.get("error"),
        input=document.get("input"),
        result=document.get("result"),
    )


def workflow_of(document: Mapping[str, Any]) -> WorkflowEntry:
    return WorkflowEntry(
        name=document["name"],
        version=document["version"],
        created_at=time_of(document["created_at"]),
        principal=document["principal"],
        source=document.get("source", ""),
        description=document.get("description", ""),
        input_schema=document.get("input_schema"),
    )


def agent_of(document: Mapping[str, Any]) -> AgentEntry:
    return AgentEntry(document["name"], document["uses"], document["description"], document["code_hash"], tuple(document.get("actors", ())))


def tool_of(document: Mapping[str, Any]) -> ToolEntry:
    return ToolEntry(
        document["name"],
        document["uses"],
        document["description"],
        document["code_hash"],
        document.get("input_schema"),
        document.get("profile"),
    )


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)
