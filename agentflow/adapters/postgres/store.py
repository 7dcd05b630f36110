"""Everything else that PostgreSQL keeps, and one object that holds it all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from agentflow.adapters.postgres.connection import Pool, statement
from agentflow.adapters.postgres.journal import PostgresJournal
from agentflow.adapters.postgres.migrate import make_partitions
from agentflow.adapters.postgres.reads import PostgresExecutionReads
from agentflow.clock import utc_now
from agentflow.codec import decode_value, encode_value
from agentflow.domain.workflow import Workflow
from agentflow.errors import Conflict
from agentflow.ports import CatalogueEntry, IdempotencyClaim, Principal, SessionState, StoredWorkflow


class PostgresStore:
    """Opens nothing by itself: connections come when they are needed, so it can be made while PostgreSQL is away."""

    def __init__(self, url: str) -> None:
        self._pool = Pool(url)
        self.journal = PostgresJournal(url, self._pool)
        self.executions = PostgresExecutionReads(self._pool)
        self.workflows = PostgresWorkflowStore(self._pool)
        self.catalogue = PostgresCatalogue(self._pool)
        self.idempotency = PostgresIdempotencyStore(self._pool)
        self.sessions = PostgresSessionReads(self._pool)
        self.api_keys = PostgresApiKeys(self._pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self.journal.close()
        await self._pool.close()

    async def make_partitions(self) -> None:
        """Partitions for the months to come. Raises StoreUnavailable."""
        async with self._pool.acquire() as connection:
            await make_partitions(connection, utc_now())

    async def ping(self) -> None:
        """Raises StoreUnavailable."""
        async with self._pool.acquire() as connection:
            await connection.fetchval("SELECT 1")


class PostgresWorkflowStore:
    """See `ports.WorkflowStore`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(self, tenant_id: str, workflow: Workflow, principal: str) -> bool:
        digest = hashlib.sha256(workflow.source.encode("utf-8")).digest()
        names = (tenant_id, workflow.name, workflow.version)
        if await self._pool.fetchrow("workflow_put", *names, workflow.source, digest, principal) is not None:
            return True
        row = await self._pool.fetchrow("workflow_hash", *names)
        if bytes(row["source_hash"]) != digest:
            raise Conflict(
                f"workflow {workflow.name} version {workflow.version} exists with another content; a version never changes",
                workflow=workflow.name,
                version=workflow.version,
            )
        return False

    async def get(self, tenant_id: str, name: str, version: str | None = None) -> StoredWorkflow | None:
        row = await self._pool.fetchrow("workflow_get", tenant_id, name, version)
        return None if row is None else StoredWorkflow(*row)

    async def list(self, tenant_id: str, *, after: str = "", limit: int = 50) -> Sequence[StoredWorkflow]:
        return [StoredWorkflow(*row) for row in await self._pool.fetch("workflow_list", tenant_id, after, limit)]

    async def versions(self, tenant_id: str, name: str) -> Sequence[StoredWorkflow]:
        return [StoredWorkflow(*row) for row in await self._pool.fetch("workflow_versions", tenant_id, name)]


class PostgresCatalogue:
    """See `ports.Catalogue`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def replace(self, tenant_id: str, entries: Sequence[CatalogueEntry]) -> None:
        columns: list[list[Any]] = [[], [], [], []]
        for entry in entries:
            body = {
                "description": entry.description,
                "input_schema": entry.input_schema and dict(entry.input_schema),
                "code_hash": entry.code_hash,
                "profile": entry.profile and dict(entry.profile),
            }
            for column, value in zip(columns, (entry.kind, entry.name, entry.uses, encode_value(body)), strict=True):
                column.append(value)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(statement("catalogue_clear"), tenant_id)
            await connection.execute(statement("catalogue_add"), tenant_id, *columns)

    async def list(self, tenant_id: str, kind: str) -> Sequence[CatalogueEntry]:
        found = []
        for row in await self._pool.fetch("catalogue_list", tenant_id, kind):
            body = decode_value(row["body"])
            about = (body["description"], body["input_schema"], body["code_hash"], body["profile"])
            found.append(CatalogueEntry(row["kind"], row["name"], row["uses"], *about))
        return found


class PostgresIdempotencyStore:
    """See `ports.IdempotencyStore`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, tenant_id: str, operation: str, key: str, body_hash: str, execution_id: str) -> IdempotencyClaim:
        row = None
        while row is None:
            # Losing against an insert that committed after our snapshot shows no row at all; the next look sees it.
            row = await self._pool.fetchrow("claim", tenant_id, operation, key, body_hash, execution_id)
        return IdempotencyClaim(str(row["execution_id"]), row["body_hash"], row["fresh"])


class PostgresSessionReads:
    """See `ports.SessionReads`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load_session(self, tenant_id: str, agent: str, session_id: str) -> SessionState:
        row = await self._pool.fetchrow("session_load", tenant_id, agent, session_id)
        return SessionState(0, b"{}") if row is None else SessionState(row["version"], row["state"])


class PostgresApiKeys:
    """See `ports.ApiKeys`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, key: str) -> Principal | None:
        row = await self._pool.fetchrow("key_find", _key_hash(key))
        return None if row is None else Principal(row["principal"], row["tenant_id"], row["role"], row["any_mount"])

    async def add(self, key: str, principal: Principal) -> None:
        await self._pool.fetch("key_add", _key_hash(key), principal.tenant_id, principal.name, principal.role, principal.any_mount)


def _key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
