"""`decide` under whatever may come, in whatever order: random workflows, results, crashes, late answers, timers, cancels, restarts."""

from __future__ import annotations

import copy
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.domain import event as ev
from agentflow.domain.command import Cancel, Start
from agentflow.domain.dispatch import EffectReport, RecordedEffect, StepDone, StepError
from agentflow.domain.event import Line
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.domain.state import ExecutionState
from agentflow.domain.workflow import AgentBinding, Backoff, Retry, StepDefinition, Workflow, WorkflowConfig
from agentflow.engine.decide import (
    SHORT_WAIT,
    Crash,
    Decision,
    Delay,
    EngineCommand,
    Limits,
    Reject,
    Resume,
    Rules,
    Wake,
    begin_clock,
    decide,
    next_wake,
    status_to_write,
)
from agentflow.engine.evolve import replay
from agentflow.engine.journal_codec import decode_event, encode_event
from agentflow.engine.planners.dag import DagPlanner

SECOND = timedelta(seconds=1)
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
REMEMBERED = {"planner_memory", "backlog", "timers", "written_status", "dispatch_id", "deadline"}


def workflow_of(rng: Random) -> Workflow:
    steps: list[StepDefinition] = []
    for number in range(rng.randint(1, 6)):
        known = [step.name for step in steps]
        kind: dict[str, Any] = {"tool": "t:f"} if rng.random() < 0.3 else {"agent": "a"}
        steps.append(
            StepDefinition(
                f"s{number}",
                **kind,
                depends_on=tuple(rng.sample(known, rng.randint(0, min(2, len(known))))),
                when=rng.choice([None, None, None, "`true`", "`false`"]),
                map=rng.choice([None, None, "`[]`", "`[1,2,3]`", "input"]),
                input={"value": "${ execution.id }"},
                session=rng.choice([None, None, "talk"]) if "agent" in kind else None,
                retry=Retry(rng.randint(1, 3), Backoff(timedelta(seconds=rng.choice([0, 1, 30]))), rng.choice([(), (), ("flaky",)])),
                timeout=rng.choice([None, timedelta(seconds=3)]),
            )
        )
    config = WorkflowConfig(rng.choice([None, None, timedelta(seconds=60)]), rng.randint(1, 4))
    return Workflow("w", "1", tuple(steps), (AgentBinding("a", "m:A"),), config)


class Run:
    """One execution, with the little that a supervisor does: dispatch ids, and the journal."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = START
        self.workflow = workflow_of(rng)
        limit = rng.choice([50_000, 50_000, 50_000, rng.randint(3, 40)])
        self.rules = Rules(self.workflow, DagPlanner(self.workflow), Limits(execution_events=limit, step_crashes=3))
        self.state = ExecutionState("01a1fdfa-4600-7d7e-adc5-dd6e59b3560a")
        self.lines: list[Line] = []
        self.number = 0
        self.old: list[tuple[str, str]] = []
        """(step, dispatch id) of sendings that are not current any more."""
        self.settled: dict[str, tuple[Any, ...]] = {}

    def do(self, command: EngineCommand) -> Decision:
        before = copy.deepcopy(self.state)
        current = {key: step.dispatch_id for key, step in self.state.steps.items()}
        wanted = self.is_wanted(command)
        decision = decide(self.state, command, self.now, self.rules)
        self.lines += [Line(seq, self.now, event) for seq, event in enumerate(decision.events, decision.first_seq)]
        assert decision.superseded is (wanted is False)
        if decision.superseded:
            assert not decision.events and not decision.dispatches and not decision.revoked
            assert durable(before) == durable(self.state)
        self._check(before, decision)
        self._send(decision)
        for key, dispatch_id in current.items():
            if dispatch_id and self.state.steps[key].dispatch_id != dispatch_id:
                self.old.append((key, dispatch_id))
        return decision

    def is_wanted(self, command: EngineCommand) -> bool | None:
        """Whether it comes from the one sending that is current; None for what does not come from a sending."""
        if not isinstance(command, (StepDone, StepError, EffectReport, Crash)):
            return None
        step = self.state.steps.get(command.step)
        if self.state.status.ended or step is None or step.status is not StepStatus.SCHEDULED:
            return False
        return bool(command.dispatch_id) and step.dispatch_id == command.dispatch_id

    def _send(self, decision: Decision) -> None:
        for outgoing in decision.dispatches:
            step = self.state.steps[outgoing.step]
            if self.state.status.ended or step.status is not StepStatus.SCHEDULED or step.attempt != outgoing.attempt:
                continue
            if not step.dispatch_id:
                self.number += 1
                step.dispatch_id = f"d{self.number}"
            if outgoing.kind == "agent" and outgoing.timeout is not None and self.rng.random() < 0.7:
                begin_clock(self.state, outgoing.step, outgoing.timeout, self.now)

    def _check(self, before: ExecutionState, decision: Decision) -> None:
        state = self.state
        scheduled = [key for key, step in state.steps.items() if step.status is StepStatus.SCHEDULED]
        assert state.in_flight == len(scheduled) <= self.workflow.config.concurrency
        assert state.retrying == sum(step.status is StepStatus.RETRYING for step in state.steps.values())
        assert state.seq == len(self.lines) <= max(self.rules.limits.execution_events, 3)
        for key, kept in self.settled.items():
            assert settled(state, key) == kept, f"{key} changed after it was settled"
        for key, step in state.steps.items():
            if step.status.settled:
                self.settled.setdefault(key, settled(state, key))
            paths = [effect.path for effect in step.effects]
            assert len(paths) == len(set(paths)), "an effect is recorded twice"
            assert step.crashes < self.rules.limits.step_crashes or (state.failure is not None and state.failure.code == "poison")
        assert len(state.settled) == len(set(state.settled))
        # every sending is for a step that is scheduled, and every scheduling is sent once
        begun = [e.step for e in decision.events if isinstance(e, (ev.StepScheduled, ev.StepCrashed))]
        if not state.status.ended:
            sent = [outgoing.step for outgoing in decision.dispatches]
            assert len(sent) == len(set(sent)) and set(begun) <= set(sent) <= set(scheduled)
            for outgoing in decision.dispatches:
                assert outgoing.attempt == state.steps[outgoing.step].attempt
        else:
            assert not state.backlog
        assert len(set(decision.revoked)) == len(decision.revoked)
        self._check_status()

    def _check_status(self) -> None:
        state = self.state
        status, wake = status_to_write(state, self.now), next_wake(state)
        if state.status.ended:
            assert status is state.status
            return
        if not state.in_flight and state.seq:
            assert state.backlog or wake is not None, "nothing is in flight and nothing will wake it"
        if status is ExecutionStatus.WAITING:
            assert wake is not None and wake - self.now > SHORT_WAIT
            assert not state.in_flight and not state.backlog
        else:
            assert status is ExecutionStatus.RUNNING

    def check_replay(self) -> None:
        stored = [Line(line.seq, line.at, decode_event(*encode_event(line.event))) for line in self.lines]
        assert durable(replay(self.state.execution_id, stored)) == durable(self.state)

    def restart(self) -> None:
        """A new supervisor: the journal is all it has, and what the workers say they hold."""
        held = {key: step.dispatch_id for key, step in self.state.steps.items()}
        self.state = replay(self.state.execution_id, self.lines)
        for key, step in self.state.steps.items():
            step.dispatch_id = held[key] if self.rng.random() < 0.5 else ""
        events = len(self.lines)
        decision = self.do(Resume())
        assert {o.step for o in decision.dispatches} >= {
            key for key, step in self.state.steps.items() if step.status is StepStatus.SCHEDULED and self.state.seq == events
        }
        self.do(Wake())


def durable(state: ExecutionState) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if hasattr(value, "__dataclass_fields__"):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name not in REMEMBERED}
        return value

    found: dict[str, Any] = plain(state)
    return found


def settled(state: ExecutionState, key: str) -> tuple[Any, ...]:
    step = state.steps[key]
    return step.status, step.attempt, step.output, step.failure, len(step.effects)


def command_of(run: Run) -> EngineCommand:
    """Anything that may come now, likely or not."""
    rng, state = run.rng, run.state
    scheduled = [(key, step.dispatch_id) for key, step in state.steps.items() if step.status is StepStatus.SCHEDULED and step.dispatch_id]
    if scheduled and rng.random() < 0.75:
        key, dispatch_id = rng.choice(scheduled)
    elif run.old and rng.random() < 0.5:
        key, dispatch_id = rng.choice(run.old)  # late, or a second time
    elif rng.random() < 0.5:
        key, dispatch_id = rng.choice(["s0", "s0[0]", "nobody"]), rng.choice(["", "d1", "made-up"])
    else:
        return rng.choice([Wake(), Wake(), Delay(rng.choice(["s0", "s1"]), "needs 4 CPUs")])
    execution_id = state.execution_id
    failure = Failure(rng.choice(["flaky", "other"]), "m", rng.random() < 0.8)
    effect = RecordedEffect(str(rng.randint(0, 2)), "tool", "t:f", "h", b"1")
    return rng.choice(
        [
            StepDone(dispatch_id, execution_id, key, run.now, b'{"a":1}'),
            StepDone(dispatch_id, execution_id, key, run.now, b"2"),
            StepError(dispatch_id, execution_id, key, run.now, failure),
            StepError(dispatch_id, execution_id, key, run.now, failure, crashed=rng.random() < 0.5),
            EffectReport(dispatch_id, execution_id, key, effect),
            EffectReport(dispatch_id, execution_id, key, effect),
            Crash(key, dispatch_id),
            Delay(key, "needs 4 CPUs"),
        ]
    )


def begun(rng: Random) -> Run:
    run = Run(rng)
    start = Start(run.state.execution_id, "t", "p", "w", "1", b"[5,6]", "h")
    run.do(start)
    again = run.do(start)
    assert not again.events and not again.dispatches
    return run


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_whatever_comes_the_state_is_its_journal_and_keeps_its_promises(rng):
    run = begun(rng)
    for _ in range(rng.randint(0, 40)):
        chance = rng.random()
        if chance < 0.1:
            run.now += timedelta(seconds=rng.choice([0.1, 4, 40]))
            run.do(Wake())
        elif chance < 0.16 and not run.state.status.ended:
            run.check_replay()
            run.restart()
        elif chance < 0.17:
            run.do(rng.choice([Cancel(run.state.execution_id, "t", "p", "why \ud800"), Reject("no")]))
        else:
            run.do(command_of(run))
    run.check_replay()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_when_everything_is_answered_it_ends(rng):
    run = begun(rng)
    for _ in range(rng.randint(0, 20)):
        run.do(command_of(run))
    for _ in range(500):
        if run.state.status.ended:
            break
        waiting = [(key, step.dispatch_id) for key, step in run.state.steps.items() if step.status is StepStatus.SCHEDULED]
        if waiting:
            key, dispatch_id = rng.choice(waiting)
            run.do(StepDone(dispatch_id, run.state.execution_id, key, run.now, b"1"))
        else:
            wake = next_wake(run.state)
            assert wake is not None
            run.now = max(run.now, wake)
            run.do(Wake())
    assert run.state.status.ended
    ends = [line for line in run.lines if isinstance(line.event, ev.ENDING)]
    assert ends == [run.lines[-1]]
    run.check_replay()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(3, 30))
def test_a_journal_never_grows_over_its_limit_and_says_why_it_ended(rng, limit):
    run = Run(rng)
    steps = tuple(
        StepDefinition(
            f"s{n}", "a", map="`[1,2,3,4,5,6,7,8,9]`", when=rng.choice([None, "`false`"]), retry=Retry(1_000_000), timeout=SECOND
        )
        for n in range(9)
    )
    only = rng.choice([None, 0, 1, 2, 3])
    run.workflow = Workflow("w", "1", steps, (AgentBinding("a", "m:A"),), WorkflowConfig(concurrency=7))
    run.rules = Rules(run.workflow, DagPlanner(run.workflow), Limits(execution_events=limit, step_crashes=1_000_000))
    run.do(Start(run.state.execution_id, "t", "p", "w", "1", b"[5,6]", "h"))
    for _ in range(200):
        if run.state.status.ended:
            break
        waiting = [(key, step.dispatch_id) for key, step in run.state.steps.items() if step.status is StepStatus.SCHEDULED]
        kind = rng.randint(0, 4) if only is None or rng.random() < 0.1 else only
        if kind == 4 or not waiting:
            run.now += timedelta(minutes=2)
            run.do(Wake())
            continue
        key, dispatch_id = rng.choice(waiting)
        failure = Failure("flaky", "m")
        run.do(
            [
                StepError(dispatch_id, run.state.execution_id, key, run.now, failure),
                Crash(key, dispatch_id),
                Delay(key, "m"),
                EffectReport(dispatch_id, run.state.execution_id, key, RecordedEffect(str(run.number), "tool", "t", "h", b"1")),
            ][kind]
        )
    assert len(run.lines) <= max(limit, 3)
    assert run.state.status is ExecutionStatus.FAILED
    assert run.state.failure is not None and run.state.failure.code == "event_limit"
