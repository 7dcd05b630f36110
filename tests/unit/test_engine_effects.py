"""Effects: hashed canonically, run once, recorded before the code goes on, replayed after that; and divergence is named."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.domain.agent import Agent
from agentflow.domain.dispatch import Dispatch, RecordedEffect, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine.agent_runner import AgentRunner
from agentflow.engine.effects import arguments_hash
from agentflow.errors import StepFailed

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


class Tools:
    """`ports.ToolCaller`: doubles; fails for `fail`, waits for `hold`."""

    def __init__(self):
        self.calls, self.hold, self.fail = [], None, None

    async def call(self, *, uses, arguments, key, **rest):
        self.calls.append((key, uses, arguments))
        if self.hold is not None:
            await self.hold.wait()
        if self.fail is not None:
            return StepError(key, "x", "s", NOW, self.fail)
        return StepDone(key, "x", "s", NOW, str(2 * int(arguments.partition(b":")[2].rstrip(b"}"))).encode())


class Sessions:
    async def load_session(self, *_):
        raise AssertionError("no session here")


def dispatch(effects=(), **changes):
    fields = {"timeout_s": None, "attempt": 1, **changes}
    return Dispatch("d", "t", "x", "w", "s", fields["attempt"], "agent", "m:A", "h", b"1", fields["timeout_s"], effects=tuple(effects))


def recorded(path="0", name="t:f", value=b"2", failure=None, **arguments):
    return RecordedEffect(path, "tool", name, arguments_hash(arguments or {"v": 1}), value, failure)


async def run(code, *, tools=None, effects=(), record=None, **changes):
    """Runs `code` as an agent: (result, what was recorded)."""
    written = []

    async def keep(effect):
        written.append(effect)

    class It(Agent):
        if asyncio.iscoroutinefunction(code):

            async def run(self, context, input):
                return await code(context)

        else:

            def run(self, context, input):
                return code(context)

    runner = AgentRunner(It(), sessions=Sessions(), tools=tools or Tools())
    result = await asyncio.wait_for(runner.run(dispatch(effects, **changes), record or keep), 10)
    return result, written


async def one(context):
    return await context.tool("t:f", v=1)


async def two(context):
    return await context.tool("t:f", v=await context.tool("t:f", v=1))


# ---------------------------------------------------------------------------------------------------- hashing


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_hash(arguments, rng):
    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            rng.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert arguments_hash(shuffled(arguments)) == arguments_hash(arguments)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": 1.0}, {"a": 1}),
    ],
)
def test_different_arguments_have_different_hashes(one, other):
    assert arguments_hash(one) != arguments_hash(other)


def test_a_hash_is_the_same_in_every_version():
    assert arguments_hash({"b": [1, "\ud800\0"], "a": {"x": None}}) == "013599233df679683474c626a0dcf54d"


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"x", {1: 2}])
def test_what_json_cannot_hold_has_no_hash(value):
    with pytest.raises(TypeError, match="not a JSON value"):
        arguments_hash({"a": value})


# ---------------------------------------------------------------------------------------------------- once, and replayed


async def test_an_effect_runs_once_is_recorded_and_has_the_steps_key():
    tools = Tools()
    result, written = await run(two, tools=tools)

    assert result.value == b"4"
    assert [key for key, _, _ in tools.calls] == ["x/s/0", "x/s/1"]
    assert written == [recorded("0", v=1), recorded("1", value=b"4", v=2)]


async def test_a_recorded_effect_is_given_back_and_only_the_rest_runs():
    tools = Tools()
    result, written = await run(two, tools=tools, effects=[recorded("0")], attempt=2)

    assert result.value == b"4"
    assert [key for key, _, _ in tools.calls] == ["x/s/1"]
    assert [effect.path for effect in written] == ["1"]


async def test_the_code_sees_nothing_before_it_is_recorded():
    durable, order = asyncio.Event(), []

    async def record(effect):
        order.append("asked")
        await durable.wait()
        order.append("durable")

    async def code(context):
        await context.tool("t:f", v=1)
        order.append("code")

    running = asyncio.create_task(run(code, record=record))
    async with asyncio.timeout(5):
        while not order:
            await asyncio.sleep(0)
    durable.set()
    await running

    assert order == ["asked", "durable", "code"]


async def test_a_plain_function_calls_tools_from_its_thread():
    tools = Tools()
    result, written = await run(lambda context: context.tool("t:f", v=context.tool("t:f", v=1)), tools=tools)

    assert (result.value, len(written)) == (b"4", 2)


# ---------------------------------------------------------------------------------------------------- failures


async def lives_with_it(context):
    try:
        await context.tool("t:f", v=1)
    except StepFailed as error:
        return error.code


async def test_a_failure_that_the_code_lives_with_is_recorded_and_replayed():
    tools = Tools()
    tools.fail = Failure("sandbox_oom", "over 384 MiB")
    result, written = await run(lives_with_it, tools=tools)
    assert (result.value, written) == (b'"sandbox_oom"', [recorded("0", value=b"null", failure=tools.fail)])

    again, rewritten = await run(lives_with_it, effects=written, attempt=2)
    assert (again.value, rewritten) == (b'"sandbox_oom"', [])


async def test_a_failure_that_ends_the_attempt_is_not_recorded_so_that_the_next_may_have_more_luck():
    tools = Tools()
    tools.fail = Failure("sandbox_oom", "over 384 MiB")
    result, written = await run(one, tools=tools)

    assert (result.failure.code, written) == ("sandbox_oom", [])


# ---------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    ("effects", "named"),
    [
        ([recorded("0", v=2)], "effect 0"),
        ([recorded("0", name="t:other")], "t:other"),
        ([RecordedEffect("0", "chat", "t:f", arguments_hash({"v": 1}), b"2")], "chat t:f"),
    ],
)
async def test_a_replay_that_asks_for_something_else_names_both(effects, named):
    tools = Tools()
    result, written = await run(one, tools=tools, effects=effects, attempt=2)

    assert (result.failure.code, result.failure.retryable) == ("non_determinism", False)
    assert named in result.failure.message and "tool t:f" in result.failure.message
    assert (tools.calls, written) == ([], [])


async def test_a_recorded_effect_that_is_not_asked_for_is_a_divergence():
    result, _ = await run(one, effects=[recorded("0"), recorded("1", value=b"4", v=2)], attempt=2)

    assert result.failure.code == "non_determinism"
    assert "effect 1" in result.failure.message


async def test_code_that_fails_before_it_asks_again_has_not_diverged():
    async def code(context):
        raise ValueError("earlier this time")

    result, _ = await run(code, effects=[recorded("0")], attempt=2)

    assert result.failure.code == "value_error"


# ---------------------------------------------------------------------------------------------------- what is refused


async def test_effects_side_by_side_are_refused_with_advice():
    tools = Tools()
    tools.hold = asyncio.Event()

    async def code(context):
        return await asyncio.gather(context.tool("t:f", v=1), context.tool("t:f", v=2))

    result, _ = await run(code, tools=tools)

    assert (result.failure.code, result.failure.retryable) == ("not_yet", False)
    assert "await each effect" in result.failure.message
    assert len(tools.calls) <= 1


async def test_after_one_effect_failed_the_next_is_not_taken_for_a_second_at_a_time():
    tools = Tools()

    async def code(context):
        for _ in range(2):
            try:
                await context.tool("t:f", v=1)
            except StepFailed:
                tools.fail = None
        return "both"

    tools.fail = Failure("c", "m")
    result, written = await run(code, tools=tools)

    assert result.value == b'"both"'
    assert [effect.path for effect in written] == ["0", "1"]


@pytest.mark.parametrize("function", ["no colon", 7, None, len])
async def test_what_is_no_tool_is_refused(function):
    async def code(context):
        await context.tool(function, v=1)

    result, _ = await run(code)

    assert (result.failure.code, result.failure.retryable) == ("invalid_request", False)


async def test_arguments_that_json_cannot_hold_are_refused_before_anything_runs():
    tools = Tools()

    async def code(context):
        await context.tool("t:f", v={1, 2})

    result, _ = await run(code, tools=tools)

    assert (result.failure.code, tools.calls) == ("invalid_request", [])


async def test_what_later_versions_bring_says_not_yet():
    async def code(context):
        await context.sleep(1)

    result, _ = await run(code)

    assert result.failure.code == "not_yet"


async def test_a_thread_whose_step_was_ended_gets_no_more_effects():
    import threading

    tools, ended, seen = Tools(), threading.Event(), []
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()

    def code(context):
        ended.wait(5)
        assert context.cancelled
        try:
            context.tool("t:f", v=1)
        except BaseException as error:  # noqa: BLE001 whatever it is
            seen.append(type(error).__name__)
        loop.call_soon_threadsafe(finished.set)

    result, _ = await run(code, tools=tools, timeout_s=0.01)
    ended.set()
    await asyncio.wait_for(finished.wait(), 5)

    assert result.failure.code == "timeout"
    assert (tools.calls, seen) == ([], ["CancelledError"])
