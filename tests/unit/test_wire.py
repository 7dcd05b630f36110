"""What goes between processes: every message there and back, and bytes that are none of them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.domain.command import Cancel, Change, Changes, Reply, Start, SupervisorStatus, WorkerStatus
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, RecordedEffect, SessionRef, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine import wire
from agentflow.errors import InvalidRequest
from agentflow.ports import WorkerNeed

texts = st.text(max_size=10)  # NUL too; lone surrogates are refused, see below
bodies = st.binary(max_size=20)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 the strategy wants naive bounds
counts = st.integers(0, 2**40)
seconds = st.none() | st.floats(0, 1e9, allow_nan=False)
roots = st.none() | st.lists(texts, max_size=2).map(tuple)
failures = st.builds(Failure, texts, texts, st.booleans())
effects = st.builds(RecordedEffect, texts, texts, texts, texts, bodies, st.none() | failures)
sessions = st.builds(SessionRef, texts, texts, counts)
dispatches = st.builds(
    Dispatch, *[texts] * 5, counts, st.sampled_from(["agent", "tool"]), texts, texts, bodies, seconds, st.none() | sessions,
    st.lists(effects, max_size=2).map(tuple), roots,
)  # fmt: skip
done = st.builds(StepDone, texts, texts, texts, times, bodies, st.none() | bodies, st.none() | counts)
errors = st.builds(StepError, texts, texts, texts, times, failures, st.booleans())
results = st.lists(done, max_size=3).flatmap(lambda first: st.lists(errors, max_size=3).map(lambda rest: [*first, *rest]))
reports = st.builds(EffectReport, texts, texts, texts, effects)
starts = st.builds(Start, *[texts] * 5, bodies, texts, roots, st.none() | texts, st.none() | texts)
cancels = st.builds(Cancel, *[texts] * 4)
workers = st.builds(WorkerStatus, *[texts] * 6, counts, counts, times, counts, texts)
names = st.lists(texts, max_size=4)

MESSAGES = {
    "deliver": (st.tuples(st.lists(dispatches, max_size=3), names), lambda m: wire.encode_deliver(*m), wire.decode_deliver),
    "delivered": (st.tuples(results, names), lambda m: wire.encode_delivered(*m), wire.decode_delivered),
    "report": (st.tuples(texts, results, st.lists(reports, max_size=3)), lambda m: wire.encode_report(*m), wire.decode_report),
    "submit": (st.lists(starts | cancels, max_size=5), wire.encode_submit, wire.decode_submit),
    "replies": (
        st.lists(st.builds(Reply, texts, texts, st.booleans(), texts, texts), max_size=4),
        wire.encode_replies,
        wire.decode_replies,
    ),
    "names": (names, wire.encode_names, wire.decode_names),
    "holdings": (st.lists(st.builds(Holding, texts, texts, texts, counts), max_size=4), wire.encode_holdings, wire.decode_holdings),
    "changes": (
        st.builds(Changes, texts, st.lists(st.builds(Change, texts, counts, texts), max_size=3).map(tuple), st.booleans()),
        wire.encode_changes,
        wire.decode_changes,
    ),
    "status": (
        st.builds(
            SupervisorStatus, texts, texts, st.lists(counts).map(tuple), counts, counts, st.lists(workers, max_size=2).map(tuple), texts
        ),
        wire.encode_status,
        wire.decode_status,
    ),
    "need": (
        st.builds(WorkerNeed, texts, texts, texts, texts, st.floats(0, 1e6), counts),
        wire.encode_need,
        wire.decode_need,
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_comes_back_as_it_went(message):
    strategy, encode, decode = MESSAGES[message]

    @settings(max_examples=40, deadline=None)
    @given(strategy)
    def check(value):
        again = decode(encode(value))
        assert again == value
        assert type(again) is type(value)

    check()


def test_every_message_has_been_tried():
    encoders = {name.removeprefix("encode_") for name in vars(wire) if name.startswith("encode_")}

    assert encoders == set(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_bytes_that_are_no_message_are_a_value_error(message):
    _, _, decode = MESSAGES[message]

    @settings(max_examples=60, deadline=None)
    @given(bodies)
    def check(body):
        with contextlib.suppress(ValueError):  # and nothing else
            decode(body)

    check()
    for body in (b"", b"\xc1", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode(7), msgspec.msgpack.encode([["x"], 3])):
        with pytest.raises(ValueError):
            decode(body)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_was_cut_or_has_something_behind_it_is_a_value_error(message):
    strategy, encode, decode = MESSAGES[message]

    @settings(max_examples=10, deadline=None)
    @given(strategy)
    def check(value):
        body = encode(value)
        for broken in (body[:-1], body + b"\0"):
            with pytest.raises(ValueError):
                decode(broken)

    check()


def test_a_wrong_type_inside_is_refused_and_named():
    body = msgspec.msgpack.encode(
        [[{"dispatch_id": 1, "execution_id": "x", "step": "s", "started_at": datetime.now(UTC), "value": b""}], [], []]
    )

    with pytest.raises(ValueError, match="dispatch_id"):
        wire.decode_delivered(body)


@pytest.mark.parametrize("order", [[True], [False], [True, True], [True, False, False], []])
def test_an_order_that_does_not_fit_its_commands_is_refused(order):
    command = Start("x", "t", "p", "w", "1", b"1", "h")
    body = msgspec.msgpack.encode(([command], [Cancel("x", "t", "p")], order))

    with pytest.raises(ValueError, match="do not make the order"):
        wire.decode_submit(body)


def test_the_order_of_starts_and_cancels_is_kept():
    commands = [
        Cancel("a", "t", "p"),
        Start("b", "t", "p", "w", "1", b"", "h"),
        Cancel("c", "t", "p"),
        Start("d", "t", "p", "w", "1", b"", "h"),
    ]

    assert wire.decode_submit(wire.encode_submit(commands)) == commands


@pytest.mark.parametrize(
    "send",
    [
        lambda text: wire.encode_names([text]),
        lambda text: wire.encode_submit([Cancel("x", "t", "p", text)]),
        lambda text: wire.encode_delivered([StepError("d", "x", "s", datetime.now(UTC), Failure("c", text))], ()),
        lambda text: wire.encode_report("w", [], [EffectReport("d", "x", "s", RecordedEffect("0", "tool", text, "h", b""))]),
    ],
)
def test_text_that_is_not_unicode_is_refused_by_name(send):
    with pytest.raises(InvalidRequest, match="not Unicode"):
        send("before \ud800")


def test_a_failure_that_was_made_safe_can_be_sent():
    result = StepError("d", "x", "s", datetime.now(UTC), Failure.of("c", "bad \ud800 \0"))

    assert wire.decode_delivered(wire.encode_delivered([result], ())) == ([result], [])
