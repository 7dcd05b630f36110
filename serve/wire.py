"""The shapes on the wire, version 1: their own types, so that what is inside may change without breaking a client.

Requests are validated by them. Answers are written by serve/render.py, from bytes that need no decoding; a test reads
every answer back through these types, so that the OpenAPI document tells the truth.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Asked(BaseModel):
    """A request's body: unknown members are errors, since a misspelt one would be lost silently."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Told(BaseModel):
    """An answer's body: clients must expect new members."""

    model_config = ConfigDict(extra="allow")


class StartExecution(Asked):
    workflow: str = Field(description="Name of a stored workflow.")
    version: str | None = Field(default=None, description="Its version; without it the one stored last.")
    input: Any = Field(default_factory=dict, description="Any JSON value that the workflow's input schema takes.")


class CancelExecution(Asked):
    reason: str = Field(default="", max_length=1_000)


class PutWorkflow(Asked):
    source: str = Field(description="The workflow's YAML text.")


class SendMessage(Asked):
    message: Any = Field(description="Any JSON value; the agent gets it as it is.")
    message_id: str | None = Field(
        default=None, min_length=1, max_length=255, description="A message sent again under the same id is handled once."
    )


class FailureShape(Told):
    code: str
    message: str
    retryable: bool = True
    step: str | None = Field(default=None, description="The step that failed the execution, if one did.")


class SessionRefShape(Told):
    agent: str = Field(description="Import path of the agent.")
    id: str


class Execution(Told):
    id: str
    workflow: str
    version: str
    status: str = Field(description="running, waiting, completed, failed or cancelled.")
    started_at: datetime
    ended_at: datetime | None = None
    error: FailureShape | None = None
    session: SessionRefShape | None = Field(default=None, description="Set when the execution is a message to a session.")
    input: JsonValue = Field(default=None, description="Not in lists.")
    result: JsonValue = Field(default=None, description="Only of a completed execution; not in lists.")


class ExecutionAccepted(Told):
    id: str
    workflow: str
    version: str
    status: str
    existed: bool = Field(description="True when this Idempotency-Key had started it before.")


class ExecutionPage(Told):
    executions: list[Execution]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last.")


class EventLine(Told):
    seq: int = Field(description="1, 2, 3 … within the execution.")
    at: datetime
    kind: str
    body: dict[str, Any] = Field(description="The event's own fields; they depend on `kind`.")
    value: JsonValue = Field(default=None, description="The one user value that an event may carry.")


class EventPage(Told):
    events: list[EventLine]
    next_after: int = Field(description="Send it as `after` for what follows.")
    ended: bool = Field(description="True when the last event here ends the execution: nothing will follow.")


class WorkflowSummary(Told):
    name: str
    version: str
    created_at: datetime
    principal: str = Field(description="Who stored it.")


class WorkflowDetail(WorkflowSummary):
    source: str
    description: str = ""
    input_schema: dict[str, Any] | None = None


class WorkflowPage(Told):
    workflows: list[WorkflowSummary]
    next_cursor: str | None


class WorkflowVersions(Told):
    name: str
    versions: list[WorkflowSummary] = Field(description="Newest first.")


class ActorShape(Told):
    name: str
    kind: str
    uses: str
    state: str
    in_flight: int
    queued: int
    crashes: int
    started_at: datetime
    reason: str = ""


class AgentShape(Told):
    name: str
    uses: str
    description: str
    code_hash: str
    input_schema: dict[str, Any] | None = None
    actors: list[ActorShape] = Field(description="The actors that host it now.")


class AgentPage(Told):
    agents: list[AgentShape]
    other_actors: list[ActorShape] = Field(description="Idle ones, and those of agents that are not in the application folder.")
    live: bool = Field(description="False when the supervisor cannot be reached now: then no actors are shown.")
    reason: str = ""


class ToolShape(Told):
    name: str
    uses: str
    description: str
    code_hash: str
    input_schema: dict[str, Any] | None = None
    profile: dict[str, Any] | None = Field(default=None, description="Where it runs and what it may use.")


class ToolPage(Told):
    tools: list[ToolShape]


class MessageReply(Told):
    execution_id: str
    status: str
    reply: JsonValue = Field(default=None, description="What the agent answered, when completed.")
    error: FailureShape | None = None


class SessionShape(Told):
    agent: str
    id: str
    version: int = Field(description="How many messages have changed it; 0 for a session that is new.")
    state: JsonValue


class Health(Told):
    status: str


class Problem(Told):
    """RFC 9457. Facts of the error stand beside these members."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; docs/api.md lists them.")
    instance: str
    retryable: bool = Field(description="The same request may succeed later.")
    request_id: str | None = None


ASKED: tuple[type[Asked], ...] = (StartExecution, CancelExecution, PutWorkflow, SendMessage)
