"""What clients ask of a supervisor, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an execution under an id that the caller chose. Sent again with the same id it does nothing twice.

    `version` is resolved (never "latest"). `input` is JSON bytes that were validated. `mount_roots`: folders that its tools
    may mount, None for any (only a principal of this machine's operator gets that). A message to a session sets
    `session_agent` (import path) and `session_id`, and leaves workflow and version to the built-in one.
    """

    execution_id: str
    tenant_id: str
    principal: str
    workflow: str
    version: str
    input: bytes
    code_hash: str
    mount_roots: tuple[str, ...] | None = ()
    session_agent: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    execution_id: str
    tenant_id: str
    principal: str
    reason: str = ""


Command = Start | Cancel


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one command, given after the commit of what it caused. `error_code` empty: accepted.

    `status`: the execution's status after it. `existed`: a Start found its execution there already.
    """

    execution_id: str
    status: str = ""
    existed: bool = False
    error_code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """An execution has committed events up to `seq`."""

    execution_id: str
    seq: int
    status: str


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of a supervisor's feed. `resync`: lines were missed (a restart, a slow reader); look everything up."""

    cursor: str
    changes: tuple[Change, ...]
    resync: bool = False


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One actor, as `agentflow agents` and the dashboard show it. `state`: idle, starting, ready, waiting_for_resources, down."""

    name: str
    kind: str
    tenant_id: str
    uses: str
    code_hash: str
    state: str
    in_flight: int
    queued: int
    started_at: datetime
    crashes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """`state`: connecting (the store cannot be reached yet), taking_over, running."""

    name: str
    state: str
    shards: tuple[int, ...]
    executions_loaded: int
    steps_in_flight: int
    workers: tuple[WorkerStatus, ...]
    reason: str = ""
