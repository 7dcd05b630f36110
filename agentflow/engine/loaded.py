"""What a supervisor has in memory of an execution, and of each append of it that is not durable yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from agentflow.domain.execution import ExecutionStatus
from agentflow.domain.state import ExecutionState
from agentflow.engine.decide import Decision, Rules
from agentflow.ports import Append, Rejected


@dataclass(slots=True)
class Loaded:
    """An execution in memory. `dropped`: it was thrown away and is read back; nothing decided on this object counts any more."""

    state: ExecutionState
    rules: Rules
    dropped: bool = False
    commit: asyncio.Future[bool] | None = None
    """The last commit that holds something of it."""
    pending: Pending | None = None
    """The append that went into it."""
    wake: datetime | None = None


@dataclass(slots=True)
class Pending:
    """An append with what may happen once it is durable."""

    append: Append
    loaded: Loaded
    decision: Decision
    status: ExecutionStatus
    inline: tuple[str, ...] = ()
    """Dispatch ids whose results came back inline: their worker is told when they are durable."""
    rejected: Rejected | None = None

    @property
    def dropped(self) -> bool:
        return self.loaded.dropped
