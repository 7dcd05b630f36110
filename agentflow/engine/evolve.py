"""`evolve`: folds journal lines into a state. The one place that changes what a journal says about an execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agentflow.domain import event as ev
from agentflow.domain.dispatch import RecordedEffect
from agentflow.domain.event import Event, Line
from agentflow.domain.execution import EXECUTION_TRANSITIONS, STEP_TRANSITIONS, ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.domain.state import ExecutionState, StepState, split_key


class JournalCorrupt(AssertionError):
    """A line that no state machine allows: a bug, or a journal that was changed by hand. Names the execution and the line."""


def replay(execution_id: str, lines: Iterable[Line]) -> ExecutionState:
    """The state that a journal stands for."""
    state = ExecutionState(execution_id)
    for line in lines:
        evolve(state, line)
    return state


def evolve(state: ExecutionState, line: Line) -> ExecutionState:
    """Fold one line in. The state is changed in place and returned. Raises JournalCorrupt."""
    if line.seq != state.seq + 1:
        raise JournalCorrupt(f"execution {state.execution_id}: line {line.seq} follows line {state.seq}")
    if state.status.ended:
        raise JournalCorrupt(f"execution {state.execution_id}: line {line.seq} ({line.event.KIND}) after its end")
    if (line.seq == 1) is not isinstance(line.event, ev.ExecutionStarted):
        raise JournalCorrupt(f"execution {state.execution_id}: line {line.seq} is {line.event.KIND}; the first, and no other, starts it")
    state.seq = line.seq
    _FOLD[type(line.event)](state, line.event, line)
    return state


def _started(state: ExecutionState, event: ev.ExecutionStarted, line: Line) -> None:
    state.tenant_id, state.workflow, state.version = event.tenant_id, event.workflow, event.version
    state.code_hash, state.principal, state.input = event.code_hash, event.principal, event.value
    state.mount_roots, state.session_agent, state.session_id = event.mount_roots, event.session_agent, event.session_id
    state.started_at = line.at


def _expanded(state: ExecutionState, event: ev.StepExpanded, line: Line) -> None:
    step = _move(state, event.step, StepStatus.EXPANDED)
    step.item_count = event.count
    if event.count == 0:
        _settle(state, event.step, StepStatus.COMPLETED)


def _scheduled(state: ExecutionState, event: ev.StepScheduled, line: Line) -> None:
    known = state.steps.get(event.step)
    if known is not None and known.status is StepStatus.SCHEDULED:
        raise _refused(state, event.step, known, event)  # SCHEDULED may follow itself, but only by a crash
    if known is not None and known.status is StepStatus.RETRYING:
        state.retrying -= 1
    step = _move(state, event.step, StepStatus.SCHEDULED)
    state.in_flight += 1
    step.attempt, step.scheduled_at, step.retry_at = event.attempt, line.at, None


def _completed(state: ExecutionState, event: ev.StepCompleted, line: Line) -> None:
    _in_flight(state, event.step, event).output = event.value
    state.in_flight -= 1
    _settle(state, event.step, StepStatus.COMPLETED)


def _failed(state: ExecutionState, event: ev.StepFailed, line: Line) -> None:
    known = state.steps.get(event.step)
    if known is not None and known.status is not StepStatus.SCHEDULED:
        raise _refused(state, event.step, known, event)
    if known is not None:
        state.in_flight -= 1
    if event.retry_at is None:
        _settle(state, event.step, StepStatus.FAILED, event.failure)
    else:
        step = _move(state, event.step, StepStatus.RETRYING)
        step.failure, step.retry_at = event.failure, event.retry_at
        state.retrying += 1


def _crashed(state: ExecutionState, event: ev.StepCrashed, line: Line) -> None:
    step = _in_flight(state, event.step, event)
    step.crashes, step.scheduled_at = event.crashes, line.at


def _delayed(state: ExecutionState, event: ev.StepDelayed, line: Line) -> None:
    _in_flight(state, event.step, event)


def _skipped(state: ExecutionState, event: ev.StepSkipped, line: Line) -> None:
    _settle(state, event.step, StepStatus.SKIPPED)


def _effect(state: ExecutionState, event: ev.EffectRecorded, line: Line) -> None:
    record = RecordedEffect(event.path, event.effect, event.name, event.arguments_hash, event.value, event.failure)
    _in_flight(state, event.step, event).effects.append(record)


def _execution_completed(state: ExecutionState, event: ev.ExecutionCompleted, line: Line) -> None:
    _end(state, ExecutionStatus.COMPLETED, line)
    state.result = event.value


def _execution_failed(state: ExecutionState, event: ev.ExecutionFailed, line: Line) -> None:
    _end(state, ExecutionStatus.FAILED, line)
    state.failure, state.failed_step = event.failure, event.step


def _execution_cancelled(state: ExecutionState, event: ev.ExecutionCancelled, line: Line) -> None:
    _end(state, ExecutionStatus.CANCELLED, line)


def _end(state: ExecutionState, status: ExecutionStatus, line: Line) -> None:
    if status not in EXECUTION_TRANSITIONS[state.status]:
        raise JournalCorrupt(f"execution {state.execution_id}: {state.status} cannot become {status}")
    state.status, state.ended_at = status, line.at


def _in_flight(state: ExecutionState, key: str, event: Event) -> StepState:
    """The step that the event is about, which must be scheduled."""
    step = state.steps.get(key)
    if step is None or step.status is not StepStatus.SCHEDULED:
        raise _refused(state, key, step, event)
    return step


def _refused(state: ExecutionState, key: str, step: StepState | None, event: Event) -> JournalCorrupt:
    before = "absent" if step is None else step.status.value
    return JournalCorrupt(f"execution {state.execution_id}: step {key} is {before} at line {state.seq}, which is {event.KIND}")


def _move(state: ExecutionState, key: str, status: StepStatus) -> StepState:
    step = state.steps.get(key)
    if status not in STEP_TRANSITIONS[None if step is None else step.status]:
        before = "absent" if step is None else step.status.value
        raise JournalCorrupt(f"execution {state.execution_id}: step {key} is {before} and cannot become {status}")
    if step is None:
        step = state.steps[key] = StepState(status)
    step.status = status
    return step


def _settle(state: ExecutionState, key: str, status: StepStatus, failure: Failure | None = None) -> None:
    """The step has its final status; a map step is settled by its last item, so that no event repeats what the items said."""
    step = _move(state, key, status)
    if failure is not None:
        step.failure = failure
    state.settled.append(key)
    name, item = split_key(key)
    if item is None:
        return
    parent = state.steps.get(name)
    if parent is None or item >= parent.item_count:
        raise JournalCorrupt(f"execution {state.execution_id}: {key} is no item of a map step at line {state.seq}")
    parent.items_done += 1
    if status is StepStatus.FAILED and parent.status is StepStatus.EXPANDED:
        _settle(state, name, StepStatus.FAILED, failure)
    elif parent.items_done == parent.item_count and parent.status is StepStatus.EXPANDED:
        _settle(state, name, StepStatus.COMPLETED)


_FOLD: dict[type[Any], Callable[[ExecutionState, Any, Line], None]] = {
    ev.ExecutionStarted: _started,
    ev.StepExpanded: _expanded,
    ev.StepScheduled: _scheduled,
    ev.StepCompleted: _completed,
    ev.StepFailed: _failed,
    ev.StepCrashed: _crashed,
    ev.StepDelayed: _delayed,
    ev.StepSkipped: _skipped,
    ev.EffectRecorded: _effect,
    ev.ExecutionCompleted: _execution_completed,
    ev.ExecutionFailed: _execution_failed,
    ev.ExecutionCancelled: _execution_cancelled,
}
assert set(_FOLD) == set(Event.__args__)
