"""`decide`, case by case: clocks, retries, limits, and what a restart must not change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentflow.domain import event as ev
from agentflow.domain.command import Cancel, Start
from agentflow.domain.dispatch import StepDone, StepError
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.domain.state import ExecutionState
from agentflow.domain.workflow import AgentBinding, Backoff, Retry, StepDefinition, Workflow, WorkflowConfig
from agentflow.engine.decide import (
    TIMEOUT_GRACE,
    Crash,
    Limits,
    Resume,
    Rules,
    Wake,
    begin_clock,
    decide,
    delay_before,
    next_wake,
    status_to_write,
)
from agentflow.engine.planners.dag import DagPlanner

START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EXACT = Backoff(timedelta(seconds=60), 2.0, timedelta(seconds=600), jitter=0.0)


class Run:
    def __init__(self, *steps, limits=None, **config):
        workflow = Workflow("w", "1", steps, (AgentBinding("a", "m:A"),), WorkflowConfig(**config))
        self.rules = Rules(workflow, DagPlanner(workflow), limits or Limits())
        self.state, self.now, self.sent = ExecutionState("x"), START, 0
        self.do(Start("x", "t", "p", "w", "1", b"null", "h"))

    def do(self, command):
        decision = decide(self.state, command, self.now, self.rules)
        for outgoing in decision.dispatches:
            self.sent += 1
            self.state.steps[outgoing.step].dispatch_id = f"d{self.sent}"
        return decision

    def done(self, step, value=b"1"):
        return self.do(StepDone(self.state.steps[step].dispatch_id, "x", step, self.now, value))

    def error(self, step, code="flaky", *, retryable=True):
        return self.do(StepError(self.state.steps[step].dispatch_id, "x", step, self.now, Failure(code, "m", retryable)))

    def begin(self, step):
        begin_clock(self.state, step, self.rules.workflow.step(step).timeout, self.now)

    def wake_at(self, seconds):
        self.now = START + timedelta(seconds=seconds)
        return self.do(Wake())


def step(name="s", **changes):
    return StepDefinition(name, "a", **changes)


def test_a_retry_waits_its_whole_delay_although_the_failed_attempt_had_a_clock():
    run = Run(step(timeout=5 * SECOND, retry=Retry(2, EXACT)))
    run.begin("s")
    run.error("s")

    assert run.wake_at(30).events == [], "the clock of the attempt that failed has begun the next"
    assert next_wake(run.state) == START + 60 * SECOND
    assert run.wake_at(60).events == [ev.StepScheduled("s", 2)]


def test_a_crash_begins_the_clock_anew():
    run = Run(step(timeout=50 * SECOND))
    run.begin("s")
    run.now = START + 40 * SECOND
    run.do(Crash("s", "d1"))
    run.begin("s")

    assert run.wake_at(60).events == []
    assert [event.KIND for event in run.wake_at(95).events] == ["step.failed", "execution.failed"]


def test_an_attempts_clock_begins_when_it_goes_to_its_agent_and_once_only():
    run = Run(step(timeout=SECOND))
    assert next_wake(run.state) is None, "what waits for an actor or a session is not the attempt's time"
    assert run.wake_at(100).events == []
    run.begin("s")
    first = next_wake(run.state)
    run.now += SECOND
    run.begin("s")  # the same dispatch again, since its delivery was not answered

    assert next_wake(run.state) == first == START + 101 * SECOND + TIMEOUT_GRACE
    assert run.wake_at(104).revoked == ["d1"]


def test_a_supervisor_that_was_away_does_not_time_out_what_ended_in_time():
    run = Run(step(timeout=SECOND))
    run.begin("s")
    run.state.timers.clear()
    run.state.steps["s"].deadline = None  # as after a takeover
    run.now = START + 60 * SECOND

    assert [outgoing.step for outgoing in run.do(Resume()).dispatches] == ["s"]
    assert run.do(Wake()).events == []
    assert [event.KIND for event in run.done("s").events] == ["step.completed", "execution.completed"]


def test_an_executions_own_timeout_counts_from_its_start_through_takeovers():
    run = Run(step(), timeout=60 * SECOND)
    run.state.timers.clear()
    run.now = START + 59 * SECOND
    run.do(Resume())

    assert run.do(Wake()).events == []
    ended = run.wake_at(60)
    assert ended.events[0].failure.code == "execution_timeout"
    assert ended.revoked == ["d2"]


def test_retries_that_are_due_at_once_keep_to_the_concurrency_limit():
    run = Run(StepDefinition("m", "a", map="`[1,2,3,4]`", retry=Retry(2, EXACT)), concurrency=2)
    for item in ("m[0]", "m[1]", "m[2]", "m[3]"):
        run.error(item)
    assert (run.state.in_flight, run.state.retrying) == (0, 4)
    decision = run.wake_at(3600)

    assert [event.step for event in decision.events] == ["m[0]", "m[1]"]
    run.done("m[0]")
    assert {key for key, s in run.state.steps.items() if s.status is StepStatus.SCHEDULED} == {"m[1]", "m[2]"}


def test_delays_grow_are_bounded_and_the_same_for_the_same_step():
    retry = Retry(10**6, Backoff(SECOND, 2.0, 60 * SECOND, jitter=0.5))
    delays = [delay_before(retry, attempt, "x/s") for attempt in (1, 2, 3, 10, 2_000, 10**6)]

    assert all(0.5 * full <= delay.total_seconds() <= full for delay, full in zip(delays, (1, 2, 4, 60, 60, 60), strict=True))
    assert delays == [delay_before(retry, attempt, "x/s") for attempt in (1, 2, 3, 10, 2_000, 10**6)]
    assert delay_before(retry, 1, "x/s") != delay_before(retry, 1, "y/s")


@pytest.mark.parametrize(("code", "retryable", "again"), [("flaky", True, True), ("other", True, False), ("flaky", False, False)])
def test_only_what_retry_on_names_and_may_be_mended_is_tried_again(code, retryable, again):
    run = Run(step(retry=Retry(3, EXACT, ("flaky",))))
    run.error("s", code, retryable=retryable)

    assert run.state.status is (ExecutionStatus.RUNNING if again else ExecutionStatus.FAILED)


@pytest.mark.parametrize(("delay_s", "status"), [(1, ExecutionStatus.RUNNING), (5, ExecutionStatus.RUNNING), (6, ExecutionStatus.WAITING)])
def test_an_execution_that_waits_long_is_a_row_and_one_that_waits_shortly_stays(delay_s, status):
    run = Run(step(retry=Retry(2, Backoff(delay_s * SECOND, jitter=0.0))))
    run.error("s")

    assert status_to_write(run.state, run.now) is status


def test_the_third_crash_is_poison_and_never_dispatched_again():
    run = Run(step(), step("other"))
    kinds = []
    for _ in range(3):
        kinds.append([event.KIND for event in run.do(Crash("s", run.state.steps["s"].dispatch_id)).events])

    assert kinds == [["step.crashed"], ["step.crashed"], ["step.crashed", "step.failed", "execution.failed"]]
    assert (run.state.failure.code, run.state.failed_step) == ("poison", "s")


def test_crashes_do_not_use_up_attempts():
    run = Run(step(retry=Retry(2, EXACT)))
    run.do(Crash("s", "d1"))
    run.error("s")
    run.wake_at(60)
    run.do(Crash("s", run.state.steps["s"].dispatch_id))

    assert run.state.steps["s"].attempt == 2
    assert [event.KIND for event in run.done("s").events] == ["step.completed", "execution.completed"]


def test_an_output_over_the_limit_fails_the_step_for_good():
    run = Run(step(retry=Retry(5)), limits=Limits(output_bytes=10))
    run.done("s", b"x" * 11)

    assert (run.state.failure.code, run.state.failed_step) == ("output_too_large", "s")


def test_the_first_of_cancel_and_completion_wins():
    first, second = Run(step()), Run(step())
    first.do(Cancel("x", "t", "eve"))
    late = first.done("s")
    second.done("s")
    late_cancel = second.do(Cancel("x", "t", "eve"))

    assert (first.state.status, late.superseded, late.events) == (ExecutionStatus.CANCELLED, True, [])
    assert (second.state.status, late_cancel.events) == (ExecutionStatus.COMPLETED, [])


def test_an_execution_that_ends_revokes_what_is_in_flight():
    run = Run(step("a"), step("b"), step("c"))
    decision = run.error("b", retryable=False)

    assert sorted(decision.revoked) == ["d1", "d3"]
    assert sorted(decision.settled) == ["a", "b", "c"]
