"""The state machines: every pair of states, and every kind of event in every state."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.domain import event as ev
from agentflow.domain.event import Line
from agentflow.domain.execution import ENDED, EXECUTION_TRANSITIONS, SETTLED, STEP_TRANSITIONS, ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.engine.evolve import JournalCorrupt, evolve, replay

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
E, S = ExecutionStatus, StepStatus
ALLOWED_EXECUTION = {
    (E.RUNNING, E.WAITING),
    (E.WAITING, E.RUNNING),
    *itertools.product((E.RUNNING, E.WAITING), (E.COMPLETED, E.FAILED, E.CANCELLED)),
}
ALLOWED_STEP = {
    (None, S.SCHEDULED),
    (None, S.EXPANDED),
    (None, S.SKIPPED),
    (None, S.FAILED),
    (S.SCHEDULED, S.SCHEDULED),
    (S.SCHEDULED, S.RETRYING),
    (S.SCHEDULED, S.COMPLETED),
    (S.SCHEDULED, S.FAILED),
    (S.RETRYING, S.SCHEDULED),
    (S.EXPANDED, S.COMPLETED),
    (S.EXPANDED, S.FAILED),
}

STARTED = ev.ExecutionStarted("t", "w", "1", "h", "p", b"1")
FAILURE = Failure("c", "m")
TO_REACH: dict[StepStatus | None, list[ev.Event]] = {
    None: [],
    S.SCHEDULED: [ev.StepScheduled("s", 1)],
    S.RETRYING: [ev.StepScheduled("s", 1), ev.StepFailed("s", 1, FAILURE, NOW)],
    S.EXPANDED: [ev.StepExpanded("s", 2)],
    S.COMPLETED: [ev.StepScheduled("s", 1), ev.StepCompleted("s", 1, NOW, b"1")],
    S.FAILED: [ev.StepScheduled("s", 1), ev.StepFailed("s", 1, FAILURE)],
    S.SKIPPED: [ev.StepSkipped("s")],
}
EVENTS: dict[str, ev.Event] = {
    "scheduled": ev.StepScheduled("s", 2),
    "expanded": ev.StepExpanded("s", 2),
    "expanded to nothing": ev.StepExpanded("s", 0),
    "completed": ev.StepCompleted("s", 1, NOW, b"2"),
    "failed for good": ev.StepFailed("s", 1, FAILURE),
    "failed, again later": ev.StepFailed("s", 1, FAILURE, NOW),
    "crashed": ev.StepCrashed("s", 1, 1),
    "delayed": ev.StepDelayed("s", 1, "m"),
    "skipped": ev.StepSkipped("s"),
    "effect": ev.EffectRecorded("s", "0", "tool", "n", "h", b"1"),
}
AFTER: dict[tuple[StepStatus | None, str], StepStatus] = {
    (None, "scheduled"): S.SCHEDULED,
    (None, "expanded"): S.EXPANDED,
    (None, "expanded to nothing"): S.COMPLETED,
    (None, "failed for good"): S.FAILED,
    (None, "skipped"): S.SKIPPED,
    (S.SCHEDULED, "completed"): S.COMPLETED,
    (S.SCHEDULED, "failed for good"): S.FAILED,
    (S.SCHEDULED, "failed, again later"): S.RETRYING,
    (S.SCHEDULED, "crashed"): S.SCHEDULED,
    (S.SCHEDULED, "delayed"): S.SCHEDULED,
    (S.SCHEDULED, "effect"): S.SCHEDULED,
    (S.RETRYING, "scheduled"): S.SCHEDULED,
}
"""All that is allowed; everything else must be refused."""


def lines(*events):
    return [Line(seq, NOW + timedelta(seconds=seq), event) for seq, event in enumerate(events, 1)]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(E, E)))
def test_an_execution_changes_only_as_its_table_says(before, after):
    assert (after in EXECUTION_TRANSITIONS[before]) is ((before, after) in ALLOWED_EXECUTION)


@pytest.mark.parametrize(("before", "after"), list(itertools.product((None, *S), S)))
def test_a_step_changes_only_as_its_table_says(before, after):
    assert (after in STEP_TRANSITIONS[before]) is ((before, after) in ALLOWED_STEP)


def test_what_is_ended_or_settled_has_no_way_out():
    assert {status for status, after in EXECUTION_TRANSITIONS.items() if not after} == ENDED
    assert {status for status, after in STEP_TRANSITIONS.items() if not after} == SETTLED


@pytest.mark.parametrize(("before", "what"), list(itertools.product(TO_REACH, EVENTS)))
def test_evolve_takes_an_event_only_in_the_states_that_allow_it(before, what):
    state = replay("x", lines(STARTED, *TO_REACH[before]))
    line = Line(state.seq + 1, NOW, EVENTS[what])

    if (before, what) in AFTER:
        evolve(state, line)
        assert state.steps["s"].status is AFTER[(before, what)]
        assert state.in_flight == (state.steps["s"].status is S.SCHEDULED)
        assert state.retrying == (state.steps["s"].status is S.RETRYING)
    else:
        with pytest.raises(JournalCorrupt, match="execution x"):
            evolve(state, line)


@pytest.mark.parametrize(
    "end", [ev.ExecutionCompleted(b"1"), ev.ExecutionFailed(FAILURE), ev.ExecutionCancelled("p")], ids=lambda e: e.KIND
)
@pytest.mark.parametrize(
    "event", [STARTED, *EVENTS.values(), ev.ExecutionCompleted(b"2"), ev.ExecutionCancelled("q")], ids=lambda e: e.KIND
)
def test_nothing_follows_the_end(end, event):
    state = replay("x", lines(STARTED, ev.StepScheduled("s", 1), end))

    with pytest.raises(JournalCorrupt, match="after its end"):
        evolve(state, Line(4, NOW, event))


@pytest.mark.parametrize("event", [*EVENTS.values(), ev.ExecutionCompleted(b"1")], ids=lambda e: e.KIND)
def test_a_journal_begins_with_the_start_and_has_one_only(event):
    with pytest.raises(JournalCorrupt, match="the first, and no other"):
        replay("x", lines(event))
    with pytest.raises(JournalCorrupt, match="the first, and no other"):
        replay("x", lines(STARTED, STARTED))


@pytest.mark.parametrize("seq", [0, 1, 3, -1])
def test_a_line_out_of_order_is_refused(seq):
    state = replay("x", lines(STARTED))

    with pytest.raises(JournalCorrupt, match="follows line 1"):
        evolve(state, Line(seq, NOW, ev.StepSkipped("s")))


@pytest.mark.parametrize("key", ["m[2]", "m[7]", "other[0]"])
def test_an_item_that_its_map_step_does_not_have_is_refused(key):
    journal = lines(STARTED, ev.StepExpanded("m", 2), ev.StepScheduled(key, 1), ev.StepCompleted(key, 1, NOW, b"1"))

    with pytest.raises(JournalCorrupt, match="no item of a map step"):
        replay("x", journal)


def test_a_map_step_is_settled_by_its_last_item_and_failed_by_its_first_failed_one():
    first = [ev.StepExpanded("m", 2), ev.StepScheduled("m[0]", 1), ev.StepScheduled("m[1]", 1), ev.StepCompleted("m[1]", 1, NOW, b"1")]
    good = replay("x", lines(STARTED, *first, ev.StepCompleted("m[0]", 1, NOW, b"2")))
    bad = replay("x", lines(STARTED, *first, ev.StepFailed("m[0]", 1, FAILURE)))

    assert replay("x", lines(STARTED, *first)).steps["m"].status is S.EXPANDED
    assert (good.steps["m"].status, good.settled) == (S.COMPLETED, ["m[1]", "m[0]", "m"])
    assert (bad.steps["m"].status, bad.steps["m"].failure, bad.settled) == (S.FAILED, FAILURE, ["m[1]", "m[0]", "m"])
