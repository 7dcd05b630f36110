"""Whether this replica can serve: the store answers and the supervisor runs. Asked at most once a second, by whoever asks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from agentflow.errors import AgentFlowError
from agentflow.ports import SupervisorLink, WorkflowStore

TIMEOUT_S = 3.0
BELIEVE_S = 1.0
NOBODY = "-"
"""A tenant that cannot exist; reading its workflows proves that the store answers and shows nobody's rows."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there yet. `reason` is for anybody's eyes: no addresses."""

    part: str
    reason: str


class Readiness:
    """Unauthenticated callers reach this, so it caches, and asks once for all who ask meanwhile."""

    def __init__(self, store: WorkflowStore, link: SupervisorLink) -> None:
        self._store = store
        self._link = link
        self._known: tuple[float, tuple[Missing, ...]] = (0.0, ())
        self._lock = asyncio.Lock()

    async def missing(self) -> tuple[Missing, ...]:
        """What is missing; empty means ready."""
        async with self._lock:
            if time.monotonic() < self._known[0]:
                return self._known[1]
            store, supervisor = await asyncio.gather(self._store_missing(), self._supervisor_missing())
            found = tuple(part for part in (store, supervisor) if part is not None)
            self._known = (time.monotonic() + BELIEVE_S, found)
            return found

    async def _store_missing(self) -> Missing | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._store.list(NOBODY, limit=1)
        except (AgentFlowError, TimeoutError):
            return Missing("store", "PostgreSQL cannot be reached; agentflow doctor says why.")
        return None

    async def _supervisor_missing(self) -> Missing | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await self._link.status()
        except (AgentFlowError, TimeoutError):
            return Missing("supervisor", "The supervisor does not answer; it is being restarted, or agentflow is not up.")
        if status.state != "running":
            return Missing("supervisor", f"The supervisor is {status.state.replace('_', ' ')}.")
        return None
