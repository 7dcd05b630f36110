"""What the HTTP application is given: the ports it reads and writes through, and the values of its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentflow.clock import utc_now
from agentflow.ports import (
    ApiKeys,
    Catalogue,
    Clock,
    ExecutionReads,
    IdempotencyStore,
    SessionReads,
    SupervisorLink,
    WorkflowStore,
)


class UtcClock:
    """The wall clock as the Clock port."""

    now = staticmethod(utc_now)


@dataclass(frozen=True, slots=True)
class ApiValues:
    """The settings of one replica. Each name is also the name in errors that tell a client about a limit."""

    payload_limit_bytes: int = 4 << 20
    mount_roots: tuple[str, ...] = ()
    """Folders that an execution started over HTTP may mount; empty means none."""
    wait_limit_s: float = 60.0
    """The longest `?wait=`; a longer one is cut to it."""
    keep_alive_s: float = 15.0
    """An event stream that has nothing to say sends a comment this often."""
    recheck_s: float = 5.0
    """Who waits for an execution looks it up this often, even if the change feed says nothing."""
    submit_deadline_s: float = 20.0
    """A command is repeated this long while the supervisor cannot be reached."""
    submit_queue_limit: int = 10_000
    """Commands that may wait for the supervisor in one replica; one more is answered 429."""
    stream_limit: int = 1_500
    """Event streams open at once in one replica; one more is answered 429."""
    key_cache_s: float = 5.0
    """An API key that was looked up is believed this long; a revoked one works that long, too."""
    metrics_open: bool = False
    """/metrics without a key, for a Prometheus that cannot send one. The labels name workflows and agents."""
    echo_request_id: bool = True
    """Add X-Request-Id to answers. Off under Ray Serve, which does so itself and would do it twice."""
    replica: str = "0"
    """Label of this replica's own metrics."""


async def no_code_hash(tenant_id: str) -> str:
    """For tests and applications without a folder."""
    return ""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything outside. `code_hash` says what application code of a tenant a new execution is pinned to."""

    supervisor: SupervisorLink
    executions: ExecutionReads
    workflows: WorkflowStore
    catalogue: Catalogue
    idempotency: IdempotencyStore
    api_keys: ApiKeys
    sessions: SessionReads
    values: ApiValues = field(default_factory=ApiValues)
    clock: Clock = field(default_factory=UtcClock)
    code_hash: Callable[[str], Awaitable[str]] = no_code_hash
