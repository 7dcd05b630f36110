"""The lines of a journal. Each kind stores only what is new; what can be derived from earlier events is not repeated.

`value` is the one user value an event may carry, as JSON bytes; the store keeps it apart from the body, so that a
large one can be stored once and referred to. Adding a field needs a default; changing a meaning needs a new VERSION.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from agentflow.domain.failure import Failure


@dataclass(frozen=True, slots=True)
class ExecutionStarted:
    """`value`: the input. `code_hash`: the application code it is pinned to. `mount_roots`: folders its tools may mount, None for any."""

    KIND: ClassVar[str] = "execution.started"
    tenant_id: str
    workflow: str
    version: str
    code_hash: str
    principal: str
    value: bytes
    mount_roots: tuple[str, ...] | None = ()
    session_agent: str | None = None
    """Set for the built-in one-step workflow of a message to a session: the agent's import path."""
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class StepExpanded:
    """A map step's list was evaluated: it becomes `count` items `name[0]` … `name[count - 1]`."""

    KIND: ClassVar[str] = "step.expanded"
    step: str
    count: int


@dataclass(frozen=True, slots=True)
class StepScheduled:
    """May have begun: it is dispatched after this is committed."""

    KIND: ClassVar[str] = "step.scheduled"
    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """`value`: the output."""

    KIND: ClassVar[str] = "step.completed"
    step: str
    attempt: int
    started_at: datetime
    value: bytes


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt ended in error. `retry_at` None means for good."""

    KIND: ClassVar[str] = "step.failed"
    step: str
    attempt: int
    failure: Failure
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StepCrashed:
    """The process that held the step died; it is dispatched again, and the attempt does not count."""

    KIND: ClassVar[str] = "step.crashed"
    step: str
    attempt: int
    crashes: int


@dataclass(frozen=True, slots=True)
class StepDelayed:
    """No actor could be placed for it in time; `message` says what is missing. It stays scheduled."""

    KIND: ClassVar[str] = "step.delayed"
    step: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """Its `when` was false."""

    KIND: ClassVar[str] = "step.skipped"
    step: str


@dataclass(frozen=True, slots=True)
class EffectRecorded:
    """A success or final error of an effect; a recorded effect never runs again.

    `path`: its place in the step (`0`, `1`, … ; in a gather branch `3.0.1`). `arguments_hash`: hex of the canonical arguments.
    `value`: the result, or `null` when `failure` is set.
    """

    KIND: ClassVar[str] = "effect.recorded"
    step: str
    path: str
    effect: str
    name: str
    arguments_hash: str
    value: bytes
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ExecutionCompleted:
    """`value`: the result."""

    KIND: ClassVar[str] = "execution.completed"
    value: bytes


@dataclass(frozen=True, slots=True)
class ExecutionFailed:
    """`step` is the step that failed it, if one did."""

    KIND: ClassVar[str] = "execution.failed"
    failure: Failure
    step: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutionCancelled:
    KIND: ClassVar[str] = "execution.cancelled"
    principal: str
    reason: str = ""


Event = (
    ExecutionStarted
    | StepExpanded
    | StepScheduled
    | StepCompleted
    | StepFailed
    | StepCrashed
    | StepDelayed
    | StepSkipped
    | EffectRecorded
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
)

EVENT_KINDS: dict[str, type[Any]] = {kind.KIND: kind for kind in Event.__args__}
ENDING: tuple[type[Any], ...] = (ExecutionCompleted, ExecutionFailed, ExecutionCancelled)


@dataclass(frozen=True, slots=True)
class Line:
    """One journal line: the event, its place (1, 2, 3 … within the execution) and when it was decided."""

    seq: int
    at: datetime
    event: Event
