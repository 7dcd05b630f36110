"""A store and a supervisor in memory that keep the ports' contracts, and the application on top of them, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from agentflow.codec import encode_value
from agentflow.domain.command import Cancel, Change, Changes, Command, Reply, Start, SupervisorStatus, WorkerStatus
from agentflow.domain.event import (
    Event,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionStarted,
    Line,
)
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.domain.failure import Failure
from agentflow.domain.workflow import Workflow
from agentflow.engine.feed import Feed
from agentflow.errors import AgentFlowError, Conflict, StoreUnavailable
from agentflow.ports import CatalogueEntry, IdempotencyClaim, Principal, SessionState, StoredWorkflow
from agentflow.serve.app import build_app
from agentflow.serve.services import ApiValues, Services

ADMIN_KEY, VIEWER_KEY, OPERATOR_KEY, OTHER_KEY = "admin-key", "viewer-key", "operator-key", "other-tenant-key"
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

YAML = """\
apiVersion: agentflow/v1
name: greet
version: "1"
description: Says hello.
input:
  type: object
  required: [name]
  properties:
    name: {type: string}
    folder: {type: string, format: folder}
agents:
  - name: greeter
    uses: "greetings:Greeter"
steps:
  - name: hello
    agent: greeter
    input: {name: "${ input.name }"}
"""


class MemoryStore:
    """All read and store ports of one database, of several tenants."""

    def __init__(self) -> None:
        self.down = False
        self.lines: dict[str, list[Line]] = {}
        self.views: dict[str, ExecutionView] = {}
        self.definitions: dict[tuple[str, str], list[StoredWorkflow]] = {}
        self.entries: dict[tuple[str, str], list[CatalogueEntry]] = {}
        self.claims: dict[tuple[str, str, str], tuple[str, str]] = {}
        self.states: dict[tuple[str, str, str], SessionState] = {}
        self.keys: dict[str, Principal] = {}
        self.key_look_ups = 0

    def up(self) -> None:
        if self.down:
            raise StoreUnavailable("PostgreSQL cannot be reached (a test says so)")

    # executions
    async def get(self, tenant_id: str, execution_id: str) -> ExecutionView | None:
        self.up()
        view = self.views.get(execution_id)
        return view if view is not None and view.tenant_id == tenant_id else None

    async def list(
        self,
        tenant_id: str,
        *,
        workflow: str | None = None,
        status: ExecutionStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[ExecutionView]:
        self.up()
        found = [
            replace(view, input=None, result=None)
            for view in sorted(self.views.values(), key=lambda view: view.execution_id, reverse=True)
            if view.tenant_id == tenant_id
            and workflow in (None, view.workflow)
            and status in (None, view.status)
            and (before is None or view.execution_id < before)
        ]
        return found[:limit]

    async def events(
        self, tenant_id: str, execution_id: str, *, after: int = 0, limit: int = 500, max_bytes: int = 4 << 20
    ) -> Sequence[Line]:
        if await self.get(tenant_id, execution_id) is None:
            return []
        page: list[Line] = []
        size = 0
        for line in self.lines[execution_id]:
            if line.seq <= after:
                continue
            size += len(getattr(line.event, "value", b""))
            if page and (len(page) >= limit or size > max_bytes):
                break
            page.append(line)
        return page

    # idempotency, keys, sessions
    async def claim(self, tenant_id: str, operation: str, key: str, body_hash: str, execution_id: str) -> IdempotencyClaim:
        self.up()
        fresh = (tenant_id, operation, key) not in self.claims
        held = self.claims.setdefault((tenant_id, operation, key), (execution_id, body_hash))
        return IdempotencyClaim(held[0], held[1], fresh)

    async def find(self, key: str) -> Principal | None:
        self.up()
        self.key_look_ups += 1
        return self.keys.get(key)

    async def add(self, key: str, principal: Principal) -> None:
        self.keys[key] = principal

    async def load_session(self, tenant_id: str, agent: str, session_id: str) -> SessionState:
        self.up()
        return self.states.get((tenant_id, agent, session_id), SessionState(0, b"{}"))


class MemoryWorkflows:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def put(self, tenant_id: str, workflow: Workflow, principal: str) -> bool:
        self.store.up()
        versions = self.store.definitions.setdefault((tenant_id, workflow.name), [])
        for stored in versions:
            if stored.version == workflow.version:
                if stored.source != workflow.source:
                    raise Conflict(f"{workflow.name} {workflow.version} exists with another source; raise the version.")
                return False
        at = START + timedelta(seconds=len(versions))
        versions.insert(0, StoredWorkflow(workflow.name, workflow.version, workflow.source, at, principal))
        return True

    async def get(self, tenant_id: str, name: str, version: str | None = None) -> StoredWorkflow | None:
        return next((item for item in await self.versions(tenant_id, name) if version in (None, item.version)), None)

    async def list(self, tenant_id: str, *, after: str = "", limit: int = 50) -> Sequence[StoredWorkflow]:
        self.store.up()
        names = sorted(name for tenant, name in self.store.definitions if tenant == tenant_id and name > after)
        return [self.store.definitions[tenant_id, name][0] for name in names[:limit]]

    async def versions(self, tenant_id: str, name: str) -> Sequence[StoredWorkflow]:
        self.store.up()
        return self.store.definitions.get((tenant_id, name), [])


class MemoryCatalogue:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def replace(self, tenant_id: str, entries: Sequence[CatalogueEntry]) -> None:
        for kind in ("agent", "tool"):
            self.store.entries[tenant_id, kind] = [entry for entry in entries if entry.kind == kind]

    async def list(self, tenant_id: str, kind: str) -> Sequence[CatalogueEntry]:
        self.store.up()
        return self.store.entries.get((tenant_id, kind), [])


class MemorySupervisor:
    """Commits starts and cancels into the store and feeds the changes. `when_started` plays the agents."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.feed = Feed("memory")
        self.commands: list[Command] = []
        self.calls: list[int] = []
        self.state = "running"
        self.workers: tuple[WorkerStatus, ...] = ()
        self.metrics_text = b"# TYPE agentflow_steps_total counter\nagentflow_steps_total 3\n"
        self.failures: list[BaseException] = []
        """Raised by the next calls of submit, one each; a commit may have happened before (see `commit_first`)."""
        self.commit_first = False
        self.held: asyncio.Event | None = None
        self.refuse: Reply | None = None
        self.silent = False
        """The feed says nothing: a waiter has only its own re-check."""
        self.when_started: Callable[[Start], None] | None = None

    async def submit(self, commands: Sequence[Command]) -> Sequence[Reply]:
        self.calls.append(len(commands))
        if self.held is not None:
            await self.held.wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None and not self.commit_first:
            raise failure
        replies = [self._one(command) for command in commands]
        if failure is not None:
            raise failure
        return replies

    def _one(self, command: Command) -> Reply:
        self.commands.append(command)
        if self.refuse is not None:
            return replace(self.refuse, execution_id=command.execution_id)
        existing = self.store.views.get(command.execution_id)
        if isinstance(command, Cancel):
            assert existing is not None
            if existing.status.ended:
                return Reply(command.execution_id, existing.status.value, error_code="conflict", message="has ended")
            self.add(command.execution_id, ExecutionCancelled(command.principal, command.reason))
            return Reply(command.execution_id, "cancelled")
        if existing is not None:
            return Reply(command.execution_id, existing.status.value, existed=True)
        self.store.lines[command.execution_id] = []
        self.store.views[command.execution_id] = ExecutionView(
            command.execution_id,
            command.tenant_id,
            command.workflow,
            command.version,
            ExecutionStatus.RUNNING,
            START,
            input=command.input,
            session_agent=command.session_agent,
            session_id=command.session_id,
        )
        self.add(
            command.execution_id,
            ExecutionStarted(command.tenant_id, command.workflow, command.version, command.code_hash, command.principal, command.input),
        )
        if self.when_started is not None:
            self.when_started(command)
        return Reply(command.execution_id, self.store.views[command.execution_id].status.value)

    def add(self, execution_id: str, *events: Event) -> None:
        """Commit events of a running execution."""
        lines = self.store.lines[execution_id]
        for event in events:
            lines.append(Line(len(lines) + 1, START + timedelta(milliseconds=len(lines)), event))
            view = self.store.views[execution_id]
            match event:
                case ExecutionCompleted(value):
                    view = replace(view, status=ExecutionStatus.COMPLETED, result=value, ended_at=lines[-1].at)
                case ExecutionFailed(failure, step):
                    view = replace(view, status=ExecutionStatus.FAILED, failure=failure, failed_step=step, ended_at=lines[-1].at)
                case ExecutionCancelled():
                    view = replace(view, status=ExecutionStatus.CANCELLED, ended_at=lines[-1].at)
            self.store.views[execution_id] = view
        if not self.silent:
            self.feed.add(Change(execution_id, len(lines), self.store.views[execution_id].status.value))

    def complete(self, execution_id: str, value: Any = None) -> None:
        self.add(execution_id, ExecutionCompleted(encode_value(value)))

    def fail(self, execution_id: str, code: str = "boom", message: str = "it broke", step: str | None = "hello") -> None:
        self.add(execution_id, ExecutionFailed(Failure(code, message), step))

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        return await self.feed.read(cursor, wait_s=wait_s)

    async def status(self) -> SupervisorStatus:
        if self.state == "dead":
            raise AgentFlowError("dead")
        return SupervisorStatus("supervisor-0", self.state, tuple(range(16)), 0, 0, self.workers)

    async def metrics(self) -> bytes:
        return self.metrics_text


@dataclass
class World:
    """One application with everything around it in reach of a test."""

    store: MemoryStore
    supervisor: MemorySupervisor
    services: Services
    app: Any = None
    client: httpx.AsyncClient = field(default=None)  # type: ignore[assignment]

    @property
    def api(self) -> Any:
        return self.app.state.api

    async def put_workflow(self, source: str = YAML) -> None:
        answer = await self.client.post("/v1/workflows", content=source, headers=key(ADMIN_KEY))
        assert answer.status_code in (200, 201), answer.text

    async def started(self, input: Any = None) -> str:
        """The id of a new running execution of `greet`."""
        body = {"workflow": "greet", "input": input or {"name": "Ada"}}
        answer = await self.client.post("/v1/executions", json=body, headers=key(ADMIN_KEY))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def key(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def new_world(values: ApiValues) -> World:
    store = MemoryStore()
    store.keys = {
        ADMIN_KEY: Principal("ada", "acme", "admin"),
        VIEWER_KEY: Principal("vic", "acme", "viewer"),
        OPERATOR_KEY: Principal("operator", "acme", "admin", any_mount=True),
        OTHER_KEY: Principal("eve", "other", "admin"),
    }
    store.entries["acme", "agent"] = [CatalogueEntry("agent", "Greeter", "greetings:Greeter", "Greets.", None, "c0de")]
    store.entries["acme", "tool"] = [
        CatalogueEntry("tool", "count", "greetings:count", "Counts.", {"type": "object"}, "c0de", {"isolation": "gvisor"})
    ]
    supervisor = MemorySupervisor(store)

    async def code_hash(tenant_id: str) -> str:
        return f"code-of-{tenant_id}"

    services = Services(
        supervisor=supervisor,  # type: ignore[arg-type]
        executions=store,
        workflows=MemoryWorkflows(store),
        catalogue=MemoryCatalogue(store),
        idempotency=store,
        api_keys=store,
        sessions=store,
        values=values,
        code_hash=code_hash,
    )
    return World(store, supervisor, services)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """The application with its lifespan, reached by httpx without a socket."""
    world.app = build_app(world.services)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.app.router.lifespan_context(world.app))
        transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=True)
        world.client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://api"))
        yield world


@pytest.fixture
async def make_world() -> AsyncIterator[Callable[..., Any]]:
    """`await make_world(wait_limit_s=1)`: an application with these settings."""
    async with AsyncExitStack() as stack:

        async def make(**values: Any) -> World:
            return await stack.enter_async_context(running(new_world(ApiValues(**values))))

        yield make


@pytest.fixture
async def world(make_world: Callable[..., Any]) -> World:
    """An application with default settings and the workflow `greet` in its store."""
    made: World = await make_world(recheck_s=60.0)
    await made.put_workflow()
    return made


@pytest.fixture
def keys() -> Any:
    """Headers of each principal: `keys.admin`, `keys.viewer`, `keys.operator`, `keys.other`."""

    class Keys:
        admin, viewer, operator, other = key(ADMIN_KEY), key(VIEWER_KEY), key(OPERATOR_KEY), key(OTHER_KEY)

    return Keys
