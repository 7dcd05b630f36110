"""Journal lines as they are stored: every kind there and back, and journals of earlier versions read by today's code."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.domain import event as ev
from agentflow.domain.event import EVENT_KINDS, Line
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.failure import Failure
from agentflow.engine.evolve import replay
from agentflow.engine.journal_codec import UnknownEvent, body_of, decode_event, encode_event

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.jsonl"))
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)

any_text = st.text(st.characters(codec=None), max_size=12)  # NUL and lone surrogates too
values = st.binary(max_size=20)
counts = st.integers(0, 2**31 - 1)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 the strategy wants naive bounds
failures = st.builds(Failure, any_text, any_text, st.booleans())
texts = dict.fromkeys(("tenant_id", "workflow", "version", "code_hash", "principal", "step", "path", "effect", "name", "reason"), any_text)
fields = {
    **texts,
    "arguments_hash": any_text,
    "message": any_text,
    "value": values,
    "attempt": counts,
    "count": counts,
    "crashes": counts,
    "started_at": times,
    "failure": failures,
    "retry_at": st.none() | times,
    "mount_roots": st.none() | st.lists(any_text, max_size=3).map(tuple),
    "session_agent": st.none() | any_text,
    "session_id": st.none() | any_text,
}


def events(cls):
    own = {name: fields[name] for name in (field.name for field in dataclasses.fields(cls))}
    if cls is ev.EffectRecorded:
        own["failure"] = st.none() | failures
    if cls is ev.ExecutionFailed:
        own["step"] = st.none() | any_text
    return st.builds(cls, **own)


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_event_comes_back_as_it_went(kind):
    @settings(max_examples=40, deadline=None)
    @given(events(EVENT_KINDS[kind]))
    def check(event):
        stored_kind, body, value = encode_event(event)
        assert stored_kind == kind
        assert decode_event(stored_kind, body, value) == event
        json.loads(body)
        assert b"\0" not in body

    check()


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_readers_are_shown_json_and_never_the_value(kind):
    @settings(max_examples=10, deadline=None)
    @given(events(EVENT_KINDS[kind]))
    def check(event):
        shown = body_of(event)
        assert "value" not in shown
        json.dumps(shown)

    check()


def test_a_kind_of_a_newer_version_is_named():
    with pytest.raises(UnknownEvent, match=r"step\.dreamt"):
        decode_event("step.dreamt", b"{}", None)


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        ("step.skipped", b'{"step":"a","mood":1}', "mood"),
        ("step.failed", b'{"step":"a","attempt":1,"failure":{"code":"c","message":"m","mood":1}}', "mood"),
    ],
)
def test_a_field_of_a_newer_version_is_named_and_not_dropped(kind, body, named):
    with pytest.raises(UnknownEvent, match=named):
        decode_event(kind, body, None)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("step.skipped", b""),
        ("step.skipped", b"\xff\xfe"),
        ("step.skipped", b"[]"),
        ("step.skipped", b"null"),
        ("step.skipped", b"{}"),
        ("step.skipped", b'{"step":1}'),
        ("step.expanded", b'{"step":"a","count":"2"}'),
        ("step.completed", b'{"step":"a","attempt":1,"started_at":"yesterday"}'),
        ("step.failed", b'{"step":"a","attempt":1,"failure":null}'),
        ("step.failed", b'{"step":"a","attempt":1,"failure":{}}'),
        ("execution.started", b'{"tenant_id":"t"}'),
    ],
)
def test_what_is_no_line_is_a_value_error(kind, body):
    with pytest.raises(ValueError):
        decode_event(kind, body, b"1")


# ---------------------------------------------------------------------------------------------------- golden journals


def golden(path):
    """Lines as `kind`, `body` and `value` were stored; see the folder's README."""
    for text in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        value = None if row["value"] is None else row["value"].encode("utf-8")
        body = json.dumps(row["body"]).encode("utf-8")
        yield Line(row["seq"], datetime.fromisoformat(row["at"]), decode_event(row["kind"], body, value))


def test_there_are_golden_journals_and_together_they_have_every_kind():
    kinds = {line.event.KIND for path in GOLDEN for line in golden(path)}

    assert len(GOLDEN) >= 3
    assert kinds == set(EVENT_KINDS), "a new kind of event needs a golden journal: see tests/unit/golden/README.md"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_journal_of_an_earlier_version_is_still_read_as_it_was_meant(path):
    state = replay("01a1fdfa-4600-7d7e-adc5-dd6e59b3560a", golden(path))
    expected = json.loads(path.with_suffix(".expected.json").read_text(encoding="utf-8"))

    steps = {
        key: {
            "status": step.status.value,
            "attempt": step.attempt,
            "crashes": step.crashes,
            "output": None if step.output is None else json.loads(step.output),
            "failure": None if step.failure is None else step.failure.code,
            "effects": [effect.path for effect in step.effects],
        }
        for key, step in state.steps.items()
    }
    assert {
        "status": state.status.value,
        "workflow": state.workflow,
        "tenant_id": state.tenant_id,
        "mount_roots": None if state.mount_roots is None else list(state.mount_roots),
        "session": [state.session_agent, state.session_id],
        "result": None if state.result is None else json.loads(state.result),
        "failure": None if state.failure is None else [state.failure.code, state.failed_step],
        "settled": state.settled,
        "steps": steps,
    } == expected
    assert state.status in ExecutionStatus
    assert state.in_flight == sum(step.status is StepStatus.SCHEDULED for step in state.steps.values())
