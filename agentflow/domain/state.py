"""What the engine knows of one execution: the fold of its journal, and the few things that are only remembered.

Owned by one supervisor; changed in place by `engine.evolve` alone, so that a long execution costs no copies. Fields under
"remembered" are not in the journal: they start empty after a takeover and are found again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentflow.domain.dispatch import RecordedEffect
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure


@dataclass(slots=True)
class StepState:
    status: StepStatus
    attempt: int = 0
    crashes: int = 0
    scheduled_at: datetime | None = None
    retry_at: datetime | None = None
    output: bytes | None = None
    failure: Failure | None = None
    item_count: int = 0
    items_done: int = 0
    effects: list[RecordedEffect] = field(default_factory=list)

    # remembered
    dispatch_id: str = ""
    """The one sending whose results are taken; empty until it is dispatched by this supervisor."""
    deadline: datetime | None = None
    """When the supervisor ends the attempt of an agent that hangs; None until the dispatch has gone to it."""


@dataclass(slots=True)
class ExecutionState:
    execution_id: str
    tenant_id: str = ""
    workflow: str = ""
    version: str = ""
    code_hash: str = ""
    principal: str = ""
    input: bytes = b"null"
    mount_roots: tuple[str, ...] | None = ()
    session_agent: str | None = None
    session_id: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    status: ExecutionStatus = ExecutionStatus.RUNNING
    seq: int = 0
    steps: dict[str, StepState] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    in_flight: int = 0
    """Steps that are scheduled."""
    retrying: int = 0
    result: bytes | None = None
    failure: Failure | None = None
    failed_step: str | None = None

    # remembered
    planner_memory: Any = None
    backlog: deque[Any] = field(default_factory=deque)
    """Steps that the planner has released, or whose retry is due, and that the concurrency limit holds back (ports.PlanStep)."""
    timers: list[tuple[datetime, str, int]] = field(default_factory=list)
    """Heap of (when, step key or "" for the execution, attempt): retries and deadlines. Entries that no longer apply are skipped."""
    written_status: ExecutionStatus | None = None
    """The status in the projection."""


def item_key(name: str, item: int | None) -> str:
    """`analyse` or `analyse[3]`."""
    return name if item is None else f"{name}[{item}]"


def split_key(key: str) -> tuple[str, int | None]:
    """The definition's name, and the item's index if the key is a map item's."""
    if key.endswith("]"):
        name, _, index = key[:-1].rpartition("[")
        return name, int(index)
    return key, None


def recorded(effects: Iterable[RecordedEffect]) -> dict[str, RecordedEffect]:
    """Effects by path."""
    return {effect.path: effect for effect in effects}
