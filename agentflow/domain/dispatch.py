"""What supervisors and workers (agent and tool actors) say to each other. Slotted, msgpack-able, decoded strictly at the border."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agentflow.domain.failure import Failure


@dataclass(frozen=True, slots=True)
class RecordedEffect:
    """An effect that the journal holds, handed to a step that is dispatched again, so that it is not repeated."""

    path: str
    effect: str
    name: str
    arguments_hash: str
    value: bytes
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class SessionRef:
    """The session a step writes, and the version it must start from (0: a new one)."""

    agent: str
    session_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One sending of a step to a worker. `dispatch_id` is fresh each time; records and results carry it back.

    `uses`: import path of the agent class or tool function. `timeout_s`: what is left of the attempt's time, None for no limit.
    `key`: execution/step, the idempotency key of the step, the same for every attempt.
    """

    dispatch_id: str
    tenant_id: str
    execution_id: str
    workflow: str
    step: str
    attempt: int
    kind: str
    """`agent` or `tool`."""
    uses: str
    code_hash: str
    input: bytes
    timeout_s: float | None = None
    session: SessionRef | None = None
    effects: tuple[RecordedEffect, ...] = ()
    mount_roots: tuple[str, ...] | None = ()

    @property
    def key(self) -> str:
        return f"{self.execution_id}/{self.step}"


@dataclass(frozen=True, slots=True)
class StepDone:
    """`session_state`: JSON bytes of the session's new state, None when the step has no session or did not change it.
    `session_version`: of the state that it began with; None without a session."""

    dispatch_id: str
    execution_id: str
    step: str
    started_at: datetime
    value: bytes
    session_state: bytes | None = None
    session_version: int | None = None


@dataclass(frozen=True, slots=True)
class StepError:
    dispatch_id: str
    execution_id: str
    step: str
    started_at: datetime
    failure: Failure
    crashed: bool = False
    """True when the process or sandbox died under it: a crash, not an attempt."""


@dataclass(frozen=True, slots=True)
class EffectReport:
    """An effect has ended; the worker waits until this is committed before its next outward effect."""

    dispatch_id: str
    execution_id: str
    step: str
    effect: RecordedEffect


@dataclass(frozen=True, slots=True)
class Holding:
    """What a worker has of one dispatch, asked by a supervisor that has lost its memory."""

    dispatch_id: str
    execution_id: str
    step: str
    attempt: int
