"""What clients read of executions: rows, and pages of their journals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentflow.adapters.postgres.connection import Pool
from agentflow.adapters.postgres.journal import line_of
from agentflow.domain.event import ExecutionFailed, Line
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.engine.journal_codec import decode_event


class PostgresExecutionReads:
    """See `ports.ExecutionReads`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, tenant_id: str, execution_id: str) -> ExecutionView | None:
        row = await self._pool.fetchrow("execution_get", tenant_id, execution_id)
        return None if row is None else _view(row, full=True)

    async def list(
        self,
        tenant_id: str,
        *,
        workflow: str | None = None,
        status: ExecutionStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[ExecutionView]:
        rows = await self._pool.fetch("execution_list", tenant_id, workflow, None if status is None else status.value, before, limit)
        return [_view(row, full=False) for row in rows]

    async def events(
        self, tenant_id: str, execution_id: str, *, after: int = 0, limit: int = 500, max_bytes: int = 4 << 20
    ) -> Sequence[Line]:
        return [line_of(row) for row in await self._pool.fetch("events", tenant_id, execution_id, after, limit, max_bytes)]


def _view(row: Any, *, full: bool) -> ExecutionView:
    status = ExecutionStatus(row["status"])
    failure = failed_step = None
    if status is ExecutionStatus.FAILED and row["last_body"] is not None:
        ending = decode_event(row["last_kind"], row["last_body"], None)
        if isinstance(ending, ExecutionFailed):
            failure, failed_step = ending.failure, ending.step
    return ExecutionView(
        str(row["execution_id"]),
        row["tenant_id"],
        row["workflow"],
        row["version"],
        status,
        row["started_at"],
        row["ended_at"],
        row["input"] if full else None,
        row["result"] if full and status is ExecutionStatus.COMPLETED else None,
        failure,
        failed_step,
        row["session_agent"],
        row["session_id"],
    )
