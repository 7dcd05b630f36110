"""`decide`: what follows from a command. Pure: told the time, no I/O; the events it returns are folded into the state already.

Nothing in a Decision may leave the supervisor before its events are committed (design 3).
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agentflow.domain import event as ev
from agentflow.domain.command import Cancel, Start
from agentflow.domain.dispatch import EffectReport, StepDone, StepError
from agentflow.domain.event import Event, Line
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.domain.state import ExecutionState, StepState, split_key
from agentflow.domain.workflow import Retry, StepDefinition, Workflow
from agentflow.engine.definition.expressions import ExpressionError
from agentflow.engine.evolve import evolve
from agentflow.ports import PlanComplete, PlanExpand, PlanFail, Planner, PlanSkip, PlanStep, SessionWrite

TIMEOUT_GRACE = timedelta(seconds=2)
"""A worker ends an attempt at its timeout itself; this much later the supervisor does, for a worker that hangs."""
SHORT_WAIT = timedelta(seconds=5)
"""An execution that only waits for a timer this near stays loaded and running: two row updates would cost more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one execution; settings of the same names."""

    execution_events: int = 50_000
    step_crashes: int = 3
    output_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Rules:
    """What an execution is decided by: its workflow, that workflow's planner, the limits."""

    workflow: Workflow
    planner: Planner
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Crash:
    """The worker that held the dispatch is gone."""

    step: str
    dispatch_id: str


@dataclass(frozen=True, slots=True)
class Delay:
    """The step could not be placed for a while; `message` says what is missing."""

    step: str
    message: str


@dataclass(frozen=True, slots=True)
class Wake:
    """A timer may be due."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The state has just been read from the journal: say again what is in flight, and go on."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The journal refused an append of this execution for its content."""

    message: str


EngineCommand = Start | Cancel | StepDone | StepError | EffectReport | Crash | Delay | Wake | Resume | Reject


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A step to dispatch once the decision is committed. `uses`, `cpu`, `memory_bytes` name the worker it needs."""

    step: str
    attempt: int
    kind: str
    uses: str
    input: bytes
    cpu: float = 0.0
    memory_bytes: int = 0
    timeout: timedelta | None = None
    session_id: str | None = None


@dataclass(slots=True)
class Decision:
    """`superseded`: the command came from a dispatch that is no longer current, and changed nothing.

    `revoked`: dispatch ids to cancel. `settled`: step keys whose session, if any, is free again. `first_seq` is that of `events[0]`.
    """

    first_seq: int = 0
    events: list[Event] = field(default_factory=list)
    dispatches: list[Outgoing] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    session: SessionWrite | None = None
    superseded: bool = False


def decide(state: ExecutionState, command: EngineCommand, now: datetime, rules: Rules) -> Decision:
    """The consequences of `command` at `now`. Raises JournalCorrupt only for a bug."""
    draft = _Draft(state, now, rules)
    if state.status.ended:
        draft.decision.superseded = isinstance(command, (StepDone, StepError, EffectReport, Crash))
        return draft.decision
    if _HANDLERS[type(command)](draft, command):
        draft.advance()
    return draft.decision


def next_wake(state: ExecutionState) -> datetime | None:
    """When the next timer that still applies is due. Entries that no longer apply are dropped on the way."""
    while state.timers and not _applies(state, *state.timers[0]):
        heapq.heappop(state.timers)
    return state.timers[0][0] if state.timers else None


def status_to_write(state: ExecutionState, now: datetime) -> ExecutionStatus:
    """The projection's status: waiting when nothing is in flight and no timer is near."""
    if state.status.ended or state.in_flight or state.backlog or not state.retrying:
        return state.status
    wake = next_wake(state)
    return ExecutionStatus.WAITING if wake is None or wake - now > SHORT_WAIT else ExecutionStatus.RUNNING


def begin_clock(state: ExecutionState, key: str, timeout: timedelta, now: datetime) -> None:
    """The dispatch of a step goes to its agent now: should that hang, the attempt is ended `TIMEOUT_GRACE` after its own clock.

    Only agents need this second clock (a tool actor runs nobody's code in its loop), and only from here on: what waited for a
    session, an actor or a place in a mailbox was not the attempt's time. Sending the same dispatch again changes nothing.
    """
    step = state.steps[key]
    if step.deadline is None:
        step.deadline = now + timeout + TIMEOUT_GRACE
        heapq.heappush(state.timers, (step.deadline, key, step.attempt))


def _applies(state: ExecutionState, at: datetime, key: str, attempt: int) -> bool:
    """An attempt may have left timers behind that are not its own any more: a crash begins its clock anew, a retry's delay has none."""
    if not key:
        return True
    step = state.steps.get(key)
    if step is None or step.attempt != attempt:
        return False
    return at == (step.deadline if step.status is StepStatus.SCHEDULED else step.retry_at if step.status is StepStatus.RETRYING else None)


class _Draft:
    """A decision being made: records events into both the decision and the state."""

    def __init__(self, state: ExecutionState, now: datetime, rules: Rules) -> None:
        self.state, self.now, self.rules = state, now, rules
        self.decision = Decision(first_seq=state.seq + 1)

    def record(self, event: Event) -> None:
        evolve(self.state, Line(self.state.seq + 1, self.now, event))
        self.decision.events.append(event)

    @property
    def full(self) -> bool:
        """No line more than what it takes to end: a command adds at most two before it looks here."""
        return self.state.seq >= self.rules.limits.execution_events - 2

    def definition(self, key: str) -> StepDefinition:
        return self.rules.workflow.step(split_key(key)[0])

    # ------------------------------------------------------------------ going on

    def advance(self) -> None:
        """Plan and schedule until nothing more can be done now, or the journal is full."""
        state = self.state
        while not state.status.ended:
            if self.full:
                limit = self.rules.limits.execution_events
                self.fail(Failure.of("event_limit", f"the journal of this execution reached its limit of {limit} events", retryable=False))
                return
            moved = self.plan()
            moved = self.schedule() or moved
            if not moved:
                return

    def plan(self) -> bool:
        moved = False
        for step in self.rules.planner.next(self.state):
            if self.full:
                return True
            if isinstance(step, PlanStep):
                self.state.backlog.append(step)
            elif isinstance(step, PlanExpand):
                self.record(ev.StepExpanded(step.name, step.count))
                moved = True
            elif isinstance(step, PlanSkip):
                self.record(ev.StepSkipped(step.name))
                moved = True
            elif isinstance(step, PlanFail):
                self.fail(Failure.of(step.code, step.message, retryable=False), step.step)
                return False
            elif isinstance(step, PlanComplete):
                self.complete(step.value)
                return False
        return moved

    def schedule(self) -> bool:
        """Start what the concurrency limit lets start. True when the journal is full, so that `advance` must end it."""
        state = self.state
        while state.backlog and state.in_flight < self.rules.workflow.config.concurrency:
            if self.full:
                return True
            planned: PlanStep = state.backlog.popleft()
            step = state.steps.get(planned.key)
            if step is not None and step.status is not StepStatus.RETRYING:
                continue
            attempt = 1 if step is None else step.attempt + 1
            try:
                outgoing = self.outgoing(planned.key, attempt)
            except ExpressionError as error:
                self.fail_step(planned.key, attempt, Failure.of("expression_error", str(error), retryable=False))
                return False
            self.record(ev.StepScheduled(planned.key, attempt))
            self.send(outgoing)
        return False

    def outgoing(self, key: str, attempt: int) -> Outgoing:
        """What to dispatch for a step. Raises ExpressionError."""
        name, item = split_key(key)
        planner, definition, plan_step = self.rules.planner, self.definition(key), PlanStep(name, item)
        body = planner.input_of(self.state, plan_step)
        if definition.tool is not None:
            return Outgoing(key, attempt, "tool", definition.tool, body, timeout=definition.timeout)
        assert definition.agent is not None
        binding = self.rules.workflow.agent(definition.agent)
        session = self.state.session_id if self.state.session_agent else planner.session_of(self.state, plan_step)
        need = binding.resources
        return Outgoing(key, attempt, "agent", binding.uses, body, need.cpu, need.memory_bytes, definition.timeout, session)

    def send(self, outgoing: Outgoing) -> None:
        step = self.state.steps[outgoing.step]
        step.dispatch_id, step.deadline = "", None
        self.decision.dispatches.append(outgoing)

    def timer(self, at: datetime, key: str, attempt: int) -> None:
        heapq.heappush(self.state.timers, (at, key, attempt))

    # ------------------------------------------------------------------ ends

    def complete(self, value: bytes) -> None:
        limit = self.rules.limits.output_bytes
        if len(value) > limit:
            text = f"the result of {len(value)} bytes is over the limit of {limit} bytes (output_limit_bytes)"
            self.fail(Failure.of("output_too_large", text, retryable=False))
            return
        self.record(ev.ExecutionCompleted(value))

    def fail(self, failure: Failure, step: str | None = None) -> None:
        self.record(ev.ExecutionFailed(failure, step))
        self.revoke_all()

    def revoke_all(self) -> None:
        for key, step in self.state.steps.items():
            if step.status is StepStatus.SCHEDULED:
                self.decision.settled.append(key)
                if step.dispatch_id:
                    self.decision.revoked.append(step.dispatch_id)
        self.state.backlog.clear()

    def fail_step(self, key: str, attempt: int, failure: Failure) -> None:
        """End an attempt in error: again later if the policy says so, else the step and with it the execution fails."""
        self.decision.settled.append(key)
        retry = self.definition(key).retry
        if attempt < retry.max_attempts and failure.retryable and (not retry.retry_on or failure.code in retry.retry_on):
            at = self.now + delay_before(retry, attempt, f"{self.state.execution_id}/{key}")
            self.record(ev.StepFailed(key, attempt, failure, at))
            self.timer(at, key, attempt)
            return
        self.record(ev.StepFailed(key, attempt, failure))
        self.fail(failure, key)

    def current(self, key: str, dispatch_id: str) -> StepState | None:
        """The step, if that dispatch is its current one."""
        step = self.state.steps.get(key)
        if step is None or step.status is not StepStatus.SCHEDULED or step.dispatch_id != dispatch_id or not dispatch_id:
            self.decision.superseded = True
            return None
        return step


def delay_before(retry: Retry, attempt: int, seed: str) -> timedelta:
    """How long after a failed `attempt` the next may start; the jitter is a function of `seed`, so replays agree."""
    backoff = retry.backoff
    # the exponent is bounded first: multiplier ** 2000 is no float
    seconds = min(backoff.maximum.total_seconds(), backoff.initial.total_seconds() * backoff.multiplier ** min(attempt - 1, 64))
    share = zlib.crc32(f"{seed}/{attempt}".encode("utf-8", "surrogatepass")) / 2**32
    return timedelta(seconds=seconds * (1 - backoff.jitter * share))


def _start(draft: _Draft, command: Start) -> bool:
    if draft.state.seq:
        return False
    draft.record(
        ev.ExecutionStarted(
            command.tenant_id,
            command.workflow,
            command.version,
            command.code_hash,
            command.principal,
            command.input,
            command.mount_roots,
            command.session_agent,
            command.session_id,
        )
    )
    _arm(draft)
    return True


def _arm(draft: _Draft) -> None:
    timeout = draft.rules.workflow.config.timeout
    if timeout is not None and draft.state.started_at is not None:
        draft.timer(draft.state.started_at + timeout, "", 0)


def _cancel(draft: _Draft, command: Cancel) -> bool:
    draft.record(ev.ExecutionCancelled(command.principal, Failure.of("", command.reason).message))
    draft.revoke_all()
    return False


def _done(draft: _Draft, result: StepDone) -> bool:
    step = draft.current(result.step, result.dispatch_id)
    if step is None:
        return False
    limit = draft.rules.limits.output_bytes
    if len(result.value) > limit:
        text = f"the output of {len(result.value)} bytes is over the limit of {limit} bytes (output_limit_bytes)"
        draft.fail_step(result.step, step.attempt, Failure.of("output_too_large", text, retryable=False))
        return not draft.state.status.ended
    draft.record(ev.StepCompleted(result.step, step.attempt, result.started_at, result.value))
    draft.decision.settled.append(result.step)
    return True


def _error(draft: _Draft, result: StepError) -> bool:
    step = draft.current(result.step, result.dispatch_id)
    if step is None:
        return False
    if result.crashed:
        return _crash(draft, Crash(result.step, result.dispatch_id))
    draft.fail_step(result.step, step.attempt, result.failure)
    return True


def _crash(draft: _Draft, command: Crash) -> bool:
    """A death is no attempt; but a step that kills what runs it must not do so for ever."""
    step = draft.current(command.step, command.dispatch_id)
    if step is None:
        return False
    crashes = step.crashes + 1
    draft.record(ev.StepCrashed(command.step, step.attempt, crashes))
    limit = draft.rules.limits.step_crashes
    if crashes >= limit:
        text = f"the process that ran it died {crashes} times (step_crash_limit)"
        draft.decision.settled.append(command.step)
        draft.record(ev.StepFailed(command.step, step.attempt, failure := Failure.of("poison", text, retryable=False)))
        draft.fail(failure, command.step)
        return False
    draft.send(draft.outgoing(command.step, step.attempt))
    return True


def _effect(draft: _Draft, report: EffectReport) -> bool:
    step = draft.current(report.step, report.dispatch_id)
    if step is None:
        return False
    effect = report.effect
    if any(known.path == effect.path for known in step.effects):
        return False
    draft.record(
        ev.EffectRecorded(report.step, effect.path, effect.effect, effect.name, effect.arguments_hash, effect.value, effect.failure)
    )
    return True


def _delay(draft: _Draft, command: Delay) -> bool:
    step = draft.state.steps.get(command.step)
    if step is not None and step.status is StepStatus.SCHEDULED and draft.state.seq < draft.rules.limits.execution_events - 3:
        draft.record(ev.StepDelayed(command.step, step.attempt, command.message))
    return False


def _wake(draft: _Draft, command: Wake) -> bool:
    state = draft.state
    while not state.status.ended and not draft.full and (due := next_wake(state)) is not None and due <= draft.now:
        _, key, attempt = heapq.heappop(state.timers)
        if not key:
            timeout = draft.rules.workflow.config.timeout
            draft.fail(Failure.of("execution_timeout", f"the execution did not end within {timeout}", retryable=False))
            return False
        step = state.steps[key]
        if step.status is StepStatus.RETRYING:
            state.backlog.append(PlanStep(*split_key(key)))
        else:
            if step.dispatch_id:
                draft.decision.revoked.append(step.dispatch_id)
            timeout = draft.definition(key).timeout
            draft.fail_step(key, attempt, Failure.of("timeout", f"the attempt did not end within {timeout}"))
    return True


def _resume(draft: _Draft, command: Resume) -> bool:
    _arm(draft)
    for key, step in draft.state.steps.items():
        if step.status is StepStatus.SCHEDULED:
            draft.decision.dispatches.append(draft.outgoing(key, step.attempt))
        elif step.status is StepStatus.RETRYING and step.retry_at is not None:
            draft.timer(step.retry_at, key, step.attempt)
    return True


def _reject(draft: _Draft, command: Reject) -> bool:
    draft.fail(Failure.of("journal_rejected", command.message, retryable=False))
    return False


_HANDLERS: dict[type[Any], Callable[[_Draft, Any], bool]] = {
    Start: _start,
    Cancel: _cancel,
    StepDone: _done,
    StepError: _error,
    EffectReport: _effect,
    Crash: _crash,
    Delay: _delay,
    Wake: _wake,
    Resume: _resume,
    Reject: _reject,
}
