"""The ports of the store over dicts. Bodies are encoded and decoded as in PostgreSQL, so nothing is shared by accident."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from agentflow.clock import utc_now
from agentflow.domain.event import ExecutionCompleted, ExecutionFailed, ExecutionStarted, Line
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.domain.workflow import Workflow
from agentflow.engine.journal_codec import decode_event, encode_event
from agentflow.errors import Conflict, Fenced, StoreUnavailable
from agentflow.ids import SHARD_COUNT, shard_of
from agentflow.ports import (
    Append,
    CatalogueEntry,
    ExecutionRow,
    IdempotencyClaim,
    Principal,
    Rejected,
    SessionState,
    StoredWorkflow,
    Wake,
)

FENCED = "another supervisor has taken a shard of this one; it must end"
_Stored = tuple[int, datetime, str, bytes, bytes | None]


class InMemoryStore:
    """One object for all ports; `journal`, `executions` … are itself. Set `reachable` to False to play an outage."""

    def __init__(self) -> None:
        self.reachable = True
        self._tokens = dict.fromkeys(range(SHARD_COUNT), 0)
        self._holders: dict[int, str] = {}
        self._lines: dict[str, list[_Stored]] = {}
        self._tenants: dict[str, str] = {}
        self._rows: dict[str, ExecutionRow] = {}
        self._sessions: dict[tuple[str, str, str], SessionState] = {}
        self._claims: dict[tuple[str, str, str], IdempotencyClaim] = {}
        self._keys: dict[bytes, Principal] = {}
        self.journal = self.executions = self
        self.sessions = self.idempotency = self.api_keys = self
        self.workflows = _Workflows(self)
        self.catalogue = _Catalogue(self)

    async def close(self) -> None:
        """Nothing to close."""

    async def ping(self) -> None:
        self.check()

    def check(self) -> None:
        if not self.reachable:
            raise StoreUnavailable("the in-memory store plays an outage")

    # ------------------------------------------------------------------ journal

    async def take_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        self.check()
        for shard in shards:
            self._tokens[shard] += 1
            self._holders[shard] = holder
        return {shard: self._tokens[shard] for shard in shards}

    async def keep_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        self.check()
        if any(self._holders.get(shard) != holder for shard in shards):
            raise Fenced(FENCED)
        for shard in shards:
            self._tokens[shard] += 1
        return {shard: self._tokens[shard] for shard in shards}

    async def append(self, tokens: Mapping[int, int], batch: Sequence[Append]) -> Sequence[Rejected]:
        self.check()
        if any(tokens[shard_of(append.execution_id)] != self._tokens[shard_of(append.execution_id)] for append in batch):
            raise Fenced(FENCED)
        rejected: list[Rejected] = []
        fallen: set[str] = set()
        for index, append in enumerate(batch):
            if append.execution_id in fallen:
                rejected.append(Rejected(index, "content", "an earlier append of this execution was refused"))
            elif (code := self._refusal(append)) is not None:
                rejected.append(Rejected(index, code))
                fallen.add(append.execution_id)
            else:
                self._write(append)
        return rejected

    def _refusal(self, append: Append) -> str | None:
        if len(self._lines.get(append.execution_id, ())) >= append.first_seq:
            return "exists"
        if (session := append.session) is not None:
            known = self._sessions.get((append.tenant_id, session.agent, session.session_id))
            if known is not None and known.version != session.version - 1:
                return "session_moved"
        return None

    def _write(self, append: Append) -> None:
        lines = self._lines.setdefault(append.execution_id, [])
        self._tenants[append.execution_id] = append.tenant_id
        for seq, event in enumerate(append.events, append.first_seq):
            lines.append((seq, append.at, *encode_event(event)))
        if append.row is not None:
            self._rows[append.execution_id] = append.row
        if (session := append.session) is not None:
            self._sessions[(append.tenant_id, session.agent, session.session_id)] = SessionState(session.version, session.state)

    def _decoded(self, execution_id: str) -> list[Line]:
        return [Line(seq, at, decode_event(kind, body, value)) for seq, at, kind, body, value in self._lines.get(execution_id, ())]

    async def load(self, execution_ids: Sequence[str]) -> Mapping[str, Sequence[Line]]:
        self.check()
        return {execution_id: self._decoded(execution_id) for execution_id in execution_ids if execution_id in self._lines}

    async def running(self, shards: Sequence[int]) -> Sequence[str]:
        self.check()
        found = [(row.started_at, i) for i, row in self._rows.items() if row.status is ExecutionStatus.RUNNING and shard_of(i) in shards]
        return [execution_id for _, execution_id in sorted(found)]

    async def due(self, shards: Sequence[int], until: datetime, limit: int) -> Sequence[Wake]:
        self.check()
        due = [Wake(i, row.wake_at) for i, row in self._rows.items() if row.wake_at and row.wake_at <= until and shard_of(i) in shards]
        return sorted(due, key=lambda wake: wake.wake_at)[:limit]

    async def session_version(self, tenant_id: str, agent: str, session_id: str) -> int:
        return (await self.load_session(tenant_id, agent, session_id)).version

    async def load_session(self, tenant_id: str, agent: str, session_id: str) -> SessionState:
        self.check()
        return self._sessions.get((tenant_id, agent, session_id), SessionState(0, b"{}"))

    # ------------------------------------------------------------------ reads

    async def get(self, tenant_id: str, execution_id: str) -> ExecutionView | None:
        self.check()
        if self._tenants.get(execution_id) != tenant_id:
            return None
        lines, row = self._decoded(execution_id), self._rows[execution_id]
        first, last = lines[0].event, lines[-1].event
        assert isinstance(first, ExecutionStarted)
        return ExecutionView(
            execution_id,
            tenant_id,
            row.workflow,
            row.version,
            row.status,
            row.started_at,
            row.ended_at,
            first.value,
            last.value if isinstance(last, ExecutionCompleted) else None,
            last.failure if isinstance(last, ExecutionFailed) else None,
            last.step if isinstance(last, ExecutionFailed) else None,
            row.session_agent,
            row.session_id,
        )

    async def list(
        self,
        tenant_id: str,
        *,
        workflow: str | None = None,
        status: ExecutionStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[ExecutionView]:
        self.check()
        found: builtins.list[ExecutionView] = []
        for execution_id in sorted(self._rows, reverse=True):
            row = self._rows[execution_id]
            fits = (workflow is None or row.workflow == workflow) and (status is None or row.status is status)
            if fits and self._tenants[execution_id] == tenant_id and (before is None or execution_id < before) and len(found) < limit:
                view = await self.get(tenant_id, execution_id)
                assert view is not None
                found.append(view)
        return found

    async def events(
        self, tenant_id: str, execution_id: str, *, after: int = 0, limit: int = 500, max_bytes: int = 4 << 20
    ) -> Sequence[Line]:
        self.check()
        if self._tenants.get(execution_id) != tenant_id:
            return []
        page: list[Line] = []
        size = 0
        for line in self._decoded(execution_id)[after : after + limit]:
            size += len(getattr(line.event, "value", b""))
            if page and size > max_bytes:
                break
            page.append(line)
        return page

    # ------------------------------------------------------------------ claims and keys

    async def claim(self, tenant_id: str, operation: str, key: str, body_hash: str, execution_id: str) -> IdempotencyClaim:
        self.check()
        known = self._claims.get((tenant_id, operation, key))
        if known is not None:
            return known
        self._claims[(tenant_id, operation, key)] = IdempotencyClaim(execution_id, body_hash, False)
        return IdempotencyClaim(execution_id, body_hash, True)

    async def find(self, key: str) -> Principal | None:
        self.check()
        return self._keys.get(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())

    async def add(self, key: str, principal: Principal) -> None:
        self.check()
        self._keys.setdefault(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(), principal)


class _Workflows:
    def __init__(self, store: InMemoryStore) -> None:
        self._store = store
        self._versions: dict[tuple[str, str], dict[str, StoredWorkflow]] = {}

    async def put(self, tenant_id: str, workflow: Workflow, principal: str) -> bool:
        self._store.check()
        versions = self._versions.setdefault((tenant_id, workflow.name), {})
        known = versions.get(workflow.version)
        if known is not None and known.source != workflow.source:
            raise Conflict(f"workflow {workflow.name} version {workflow.version} exists with another content")
        if known is None:
            versions[workflow.version] = StoredWorkflow(workflow.name, workflow.version, workflow.source, utc_now(), principal)
        return known is None

    async def get(self, tenant_id: str, name: str, version: str | None = None) -> StoredWorkflow | None:
        self._store.check()
        versions = self._versions.get((tenant_id, name), {})
        return versions.get(version) if version is not None else next(reversed(versions.values()), None)

    async def list(self, tenant_id: str, *, after: str = "", limit: int = 50) -> Sequence[StoredWorkflow]:
        self._store.check()
        names = sorted(name for tenant, name in self._versions if tenant == tenant_id and name > after)
        return [next(reversed(self._versions[(tenant_id, name)].values())) for name in names[:limit]]

    async def versions(self, tenant_id: str, name: str) -> Sequence[StoredWorkflow]:
        self._store.check()
        return list(reversed(self._versions.get((tenant_id, name), {}).values()))


class _Catalogue:
    def __init__(self, store: InMemoryStore) -> None:
        self._store = store
        self._entries: dict[str, list[CatalogueEntry]] = {}

    async def replace(self, tenant_id: str, entries: Sequence[CatalogueEntry]) -> None:
        self._store.check()
        self._entries[tenant_id] = list(entries)

    async def list(self, tenant_id: str, kind: str) -> Sequence[CatalogueEntry]:
        self._store.check()
        return sorted(
            (entry for entry in self._entries.get(tenant_id, ()) if entry.kind == kind), key=lambda entry: (entry.name, entry.uses)
        )
