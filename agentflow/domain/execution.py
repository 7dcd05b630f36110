"""An execution's and a step's statuses, and the views of them that readers get."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agentflow.domain.failure import Failure


class ExecutionStatus(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    """Nothing is in flight: it waits for a timer (a retry's delay). It holds no actor and no memory but its row."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


class StepStatus(StrEnum):
    SCHEDULED = "scheduled"
    RETRYING = "retrying"
    EXPANDED = "expanded"
    """A map step whose items are under way."""
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def settled(self) -> bool:
        return self in SETTLED


SETTLED = frozenset({StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED})

EXECUTION_TRANSITIONS: dict[ExecutionStatus, frozenset[ExecutionStatus]] = {
    ExecutionStatus.RUNNING: frozenset({ExecutionStatus.WAITING}) | ENDED,
    ExecutionStatus.WAITING: frozenset({ExecutionStatus.RUNNING}) | ENDED,
    ExecutionStatus.COMPLETED: frozenset(),
    ExecutionStatus.FAILED: frozenset(),
    ExecutionStatus.CANCELLED: frozenset(),
}

STEP_TRANSITIONS: dict[StepStatus | None, frozenset[StepStatus]] = {
    None: frozenset({StepStatus.SCHEDULED, StepStatus.EXPANDED, StepStatus.SKIPPED, StepStatus.FAILED}),
    StepStatus.SCHEDULED: frozenset({StepStatus.SCHEDULED, StepStatus.RETRYING, StepStatus.COMPLETED, StepStatus.FAILED}),
    StepStatus.RETRYING: frozenset({StepStatus.SCHEDULED}),
    StepStatus.EXPANDED: frozenset({StepStatus.COMPLETED, StepStatus.FAILED}),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ExecutionView:
    """What `get` and `list` show. `result` (JSON bytes) and `input` are filled by `get` only."""

    execution_id: str
    tenant_id: str
    workflow: str
    version: str
    status: ExecutionStatus
    started_at: datetime
    ended_at: datetime | None = None
    input: bytes | None = None
    result: bytes | None = None
    failure: Failure | None = None
    failed_step: str | None = None
    session_agent: str | None = None
    session_id: str | None = None
