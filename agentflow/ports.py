"""Every seam of the system as one small Protocol; the map of AgentFlow.

Adapters implement them, the engine and the actors are given them. Each contract stands in the docstring, and a contract
suite in tests/contract runs on every adapter. All methods may be called concurrently unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from agentflow.domain.command import Changes, Command, Reply, SupervisorStatus
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, StepDone, StepError
from agentflow.domain.event import Event, Line
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.domain.sandbox import Outcome, SandboxCall, SandboxCapabilities
from agentflow.domain.state import ExecutionState, item_key
from agentflow.domain.workflow import Workflow

# ---------------------------------------------------------------------------------------------------- journal


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """The projection of one execution, written in the append's transaction when its status changes."""

    workflow: str
    version: str
    status: ExecutionStatus
    started_at: datetime
    ended_at: datetime | None
    code_hash: str
    session_agent: str | None = None
    session_id: str | None = None
    wake_at: datetime | None = None
    """When a waiting execution wants to be loaded again; becomes its timer row."""


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """New state of a session: from `version - 1` to `version`. A row that is not at `version - 1` refuses the append."""

    agent: str
    session_id: str
    version: int
    state: bytes


@dataclass(slots=True)
class Append:
    """Events of one execution that are decided together and become visible together, or not at all."""

    execution_id: str
    tenant_id: str
    first_seq: int
    at: datetime
    events: Sequence[Event]
    row: ExecutionRow | None = None
    session: SessionWrite | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An append that was not written, although others of its batch were. `code`: exists (its first seq is taken),
    session_moved, content (PostgreSQL refused its data; `message` has what it said)."""

    index: int
    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wake:
    """A waiting execution whose timer is due."""

    execution_id: str
    wake_at: datetime


class Journal(Protocol):
    """The ordered events of all executions: the only truth. One supervisor writes a shard at a time."""

    async def take_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        """Become the holder: raises each shard's fencing token by one and returns the new ones. Any earlier holder's appends
        fail from then on. `holder` names one life of a supervisor, no other. Raises StoreUnavailable."""

    async def keep_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        """The new tokens of shards that this holder still holds. When it returns, the fate of all its earlier appends is settled:
        what is not there now never will be. Called after CommitUnknown, before anything is read back: a statement whose connection
        was lost may still run in the server. Raises Fenced (another has taken one), StoreUnavailable."""

    async def append(self, tokens: Mapping[int, int], batch: Sequence[Append]) -> Sequence[Rejected]:
        """Write a batch in one transaction; returns what was left out (empty: all is durable).

        Raises Fenced (a token is stale; nothing was written), StoreUnavailable (nothing was written), CommitUnknown (the
        connection was lost under way: read back, never repeat blindly). Calls must not overlap.
        """

    async def load(self, execution_ids: Sequence[str]) -> Mapping[str, Sequence[Line]]:
        """All lines of each, in order; an id that is not there is missing from the answer. Raises StoreUnavailable."""

    async def running(self, shards: Sequence[int]) -> Sequence[str]:
        """Ids of the executions with status running in these shards, in the order they started. Raises StoreUnavailable."""

    async def due(self, shards: Sequence[int], until: datetime, limit: int) -> Sequence[Wake]:
        """Waiting executions whose timer fires up to `until`, soonest first. Raises StoreUnavailable."""

    async def session_version(self, tenant_id: str, agent: str, session_id: str) -> int:
        """The session's version; 0 when it is new. Raises StoreUnavailable."""


class ExecutionReads(Protocol):
    """Reads for clients; they see only what is committed, and only of the tenant they name. Raise StoreUnavailable."""

    async def get(self, tenant_id: str, execution_id: str) -> ExecutionView | None: ...

    async def list(
        self,
        tenant_id: str,
        *,
        workflow: str | None = None,
        status: ExecutionStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[ExecutionView]:
        """Newest first. `before` is the last id of the page before."""

    async def events(
        self, tenant_id: str, execution_id: str, *, after: int = 0, limit: int = 500, max_bytes: int = 4 << 20
    ) -> Sequence[Line]:
        """Lines with seq > `after`, in order; at least one if there is one, cut at `limit` lines or `max_bytes` of values."""


# ---------------------------------------------------------------------------------------------------- definitions


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    name: str
    version: str
    source: str
    created_at: datetime
    principal: str


class WorkflowStore(Protocol):
    """Named, versioned definitions; a version never changes. Raise StoreUnavailable."""

    async def put(self, tenant_id: str, workflow: Workflow, principal: str) -> bool:
        """Store a version; False when the very same source is there already. Raises Conflict when that version has another source."""

    async def get(self, tenant_id: str, name: str, version: str | None = None) -> StoredWorkflow | None:
        """That version, or the one stored last."""

    async def list(self, tenant_id: str, *, after: str = "", limit: int = 50) -> Sequence[StoredWorkflow]:
        """The latest version of each, by name; `after` is the last name of the page before."""

    async def versions(self, tenant_id: str, name: str) -> Sequence[StoredWorkflow]:
        """All versions, newest first."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """An agent class or tool function found in the application folder."""

    kind: str
    """`agent` or `tool`."""
    name: str
    uses: str
    description: str
    input_schema: Mapping[str, Any] | None
    code_hash: str
    profile: Mapping[str, Any] | None = None


class Catalogue(Protocol):
    """What the application folder offers, as found at the last scan. Raise StoreUnavailable."""

    async def replace(self, tenant_id: str, entries: Sequence[CatalogueEntry]) -> None: ...

    async def list(self, tenant_id: str, kind: str) -> Sequence[CatalogueEntry]:
        """By name."""


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """What is stored under an Idempotency-Key. `fresh`: this call stored it."""

    execution_id: str
    body_hash: str
    fresh: bool


class IdempotencyStore(Protocol):
    async def claim(self, tenant_id: str, operation: str, key: str, body_hash: str, execution_id: str) -> IdempotencyClaim:
        """Store the claim unless there is one; returns the one that holds. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """`state`: JSON bytes; version 0 and `{}` for a session that is new."""

    version: int
    state: bytes


class SessionReads(Protocol):
    async def load_session(self, tenant_id: str, agent: str, session_id: str) -> SessionState:
        """Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `role`: admin or viewer (reads only). `any_mount`: the operator of this machine may mount any folder."""

    name: str
    tenant_id: str
    role: str
    any_mount: bool = False


class ApiKeys(Protocol):
    """Keys are stored as SHA-256; the key itself is shown once, where it is made."""

    async def find(self, key: str) -> Principal | None:
        """Raises StoreUnavailable."""

    async def add(self, key: str, principal: Principal) -> None:
        """Idempotent. Raises StoreUnavailable."""


# ---------------------------------------------------------------------------------------------------- planning


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A step that may be scheduled now. `name` is the definition's; `item` counts the items of a map step."""

    name: str
    item: int | None = None

    @property
    def key(self) -> str:
        return item_key(self.name, self.item)


@dataclass(frozen=True, slots=True)
class PlanExpand:
    """A map step becomes `count` items."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class PlanSkip:
    name: str


@dataclass(frozen=True, slots=True)
class PlanFail:
    """The execution cannot go on. `step` is where, if it is a step's doing."""

    code: str
    message: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class PlanComplete:
    """`value`: the result, JSON bytes."""

    value: bytes


class PlanWait:
    """Nothing to do until something in flight ends."""


Decision = PlanStep | PlanExpand | PlanSkip | PlanFail | PlanComplete | PlanWait


class Planner(Protocol):
    """Decides what comes next. Pure: no I/O, no clock, no randomness; the same state gives the same answer.

    Incremental: `state.settled` lists the steps that are settled in order, and `state.planner_memory` is the planner's own
    to remember how far it has read (a cache; after a takeover it starts empty). A call costs what is new, not the plan's size.
    """

    def next(self, state: ExecutionState) -> Sequence[Decision]:
        """What may be done now and was not answered before. Called again after every decision but PlanWait has been folded in."""

    def input_of(self, state: ExecutionState, step: PlanStep) -> bytes:
        """The step's input, JSON bytes. Raises ExpressionError (engine.definition) when its template does not evaluate."""

    def session_of(self, state: ExecutionState, step: PlanStep) -> str | None:
        """The session it writes, if any."""


# ---------------------------------------------------------------------------------------------------- workers


class Worker(Protocol):
    """An agent or tool actor as its supervisor sees it. A call that raises Unavailable says nothing about its items."""

    async def deliver(
        self, dispatches: Sequence[Dispatch], acknowledged: Sequence[str]
    ) -> tuple[Sequence[StepDone | StepError], Sequence[str]]:
        """Start these steps; returns what ended at once, and the dispatch ids refused because the mailbox is full.

        `acknowledged`: dispatch ids whose results are committed and may be forgotten. An id that it has already is not started
        twice; if it has ended, its result is given again.
        """

    async def cancel(self, dispatch_ids: Sequence[str]) -> None: ...

    async def holding(self) -> Sequence[Holding]:
        """Every dispatch that it runs, or whose result is not acknowledged yet."""

    async def gone(self) -> str:
        """Returns when the actor is dead for good, with what is known of why; never before."""


@dataclass(frozen=True, slots=True)
class WorkerNeed:
    """What a worker must be to take a step. An agent worker belongs to one of these for life; tool workers serve all tools of a node."""

    kind: str
    """`agent` or `tool`."""
    tenant_id: str = ""
    uses: str = ""
    code_hash: str = ""
    cpu: float = 0.0
    memory_bytes: int = 0


class WorkerPool(Protocol):
    """Makes, finds and ends worker actors. The engine decides when; this knows how (Ray, or one process)."""

    async def acquire(self, name: str, need: WorkerNeed) -> Worker:
        """A worker that was activated for `need`: a warm one, or a new one under `name`. Waits until it answers.

        Raises InvalidRequest (the agent's code cannot be imported: final), Unavailable (it did not start).
        """

    async def survivors(self) -> Mapping[str, tuple[WorkerNeed, Worker]]:
        """Activated workers that an earlier life of this supervisor left, by name. Raises Unavailable."""

    async def release(self, name: str) -> None:
        """End the actor; no error if it is gone."""

    def missing(self, need: WorkerNeed) -> str:
        """Why a worker for `need` has not been placed yet, for people ("needs 4 CPUs, the cluster has 2"); empty if unknown."""


class SupervisorLink(Protocol):
    """The supervisor as agents, tool actors, replicas and drivers see it. Raises Unavailable: send again, everything is idempotent."""

    async def submit(self, commands: Sequence[Command]) -> Sequence[Reply]:
        """Answered after the commit, in the same order."""

    async def report(self, worker: str, results: Sequence[StepDone | StepError], effects: Sequence[EffectReport]) -> Sequence[str]:
        """Ended steps and effects. Returns after the commit, which acknowledges them, the dispatch ids that were superseded."""

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        """What was committed after `cursor` ("" for from now on); waits up to `wait_s` for something."""

    async def status(self) -> SupervisorStatus: ...

    async def metrics(self) -> bytes:
        """Prometheus text format."""


class ToolCaller(Protocol):
    """What an agent's `context.tool` goes through."""

    async def call(
        self,
        *,
        tenant_id: str,
        uses: str,
        arguments: bytes,
        code_hash: str,
        key: str,
        mount_roots: tuple[str, ...] | None,
        timeout_s: float | None,
    ) -> StepDone | StepError:
        """Run the tool once. A lost tool actor is asked again under the same `key`; raises Unavailable when there is none."""


# ---------------------------------------------------------------------------------------------------- sandboxes


class Sandbox(Protocol):
    """One isolated place. It serves one call and is then ended; never used by two calls or two tenants."""

    async def run(self, call: SandboxCall) -> Outcome:
        """Run the call; never raises for what the code does. Cancelling it ends the sandbox."""

    async def close(self) -> None:
        """End it and remove everything it had on the host. Idempotent."""


class SandboxLauncher(Protocol):
    """Starts sandboxes of one kind on this node."""

    async def probe(self) -> SandboxCapabilities:
        """What works here, found by trying, within 10 s. Never raises."""

    async def launch(self, call: SandboxCall | None, *, name: str) -> Sandbox:
        """A booted sandbox. With None a generic one (default profile, no mounts) that can serve any call that has these.

        Raises SandboxRefused when the isolation is not there, Unavailable when this one did not start.
        """

    async def clean_up(self) -> int:
        """End what an earlier, killed process of this node left behind; how many. Call it before the first launch."""


class Clock(Protocol):
    def now(self) -> datetime: ...
