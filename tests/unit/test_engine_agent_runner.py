"""An agent's step: what its code's ends become, its session, and its timeout."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

import pytest

from agentflow.codec import decode_value
from agentflow.domain.agent import Agent
from agentflow.domain.dispatch import Dispatch, SessionRef, StepDone, StepError
from agentflow.engine import agent_runner as module
from agentflow.engine.agent_runner import AgentRunner
from agentflow.engine.load_agent import load_agent
from agentflow.errors import InvalidRequest, NotYet, SandboxRefused, StoreUnavailable
from agentflow.ports import SessionState

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Sessions:
    def __init__(self, *answers):
        self.answers = list(answers)

    async def load_session(self, tenant_id, agent, session_id):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def no_effects(effect):
    raise AssertionError("no effect was asked for")


async def run(code, *, sessions=(), session=None, timeout_s=None):
    class It(Agent):
        if asyncio.iscoroutinefunction(code):

            async def run(self, context, input):
                return await code(context)

        else:

            def run(self, context, input):
                return code(context)

    dispatch = Dispatch("d", "t", "x", "w", "s", 1, "agent", "m:A", "h", b"1", timeout_s, session)
    runner = AgentRunner(It(), sessions=Sessions(*sessions), tools=None)
    return await asyncio.wait_for(runner.run(dispatch, no_effects), 10)


def raising(error):
    def plain(context):
        raise error

    async def coroutine(context):
        raise error

    return [plain, coroutine]


class HTTPTimeoutError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ValueError("v"), "value_error", True),
        (HTTPTimeoutError("h"), "http_timeout_error", True),
        (TimeoutError("its own"), "timeout_error", True),
        (SystemExit(3), "system_exit", True),
        (StopIteration("s"), "runtime_error", True),
        (RecursionError("r"), "recursion_error", True),
        (InvalidRequest("i"), "invalid_request", False),
        (NotYet("n"), "not_yet", False),
        (SandboxRefused("s"), "sandbox_refused", True),
        (ValueError("NUL \0 and \ud800"), "value_error", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("how", [0, 1], ids=["plain", "coroutine"])
async def test_whatever_the_code_raises_is_a_failure_with_its_own_code(error, code, retryable, how):
    result = await run(raising(error)[how])

    assert isinstance(result, StepError)
    assert (result.failure.code, result.failure.retryable, result.crashed) == (code, retryable, False)
    assert "\0" not in result.failure.message
    result.failure.message.encode()


async def test_cancelling_the_step_is_not_a_failure_of_it():
    entered = asyncio.Event()
    seen = []

    async def code(context):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(context)

    task = asyncio.create_task(run(code))
    await asyncio.wait_for(entered.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert seen[0].cancelled


@pytest.mark.parametrize("plain", [True, False])
async def test_a_step_over_its_time_fails_with_timeout(plain):
    import threading

    released = threading.Event()

    async def coroutine(context):
        await asyncio.Event().wait()

    result = await run((lambda context: released.wait(10)) if plain else coroutine, timeout_s=0.02)
    released.set()

    assert (result.failure.code, result.failure.retryable) == ("timeout", True)


async def test_the_session_is_loaded_changed_and_given_back_with_the_version_it_began_with():
    async def code(context):
        context.state["n"] = context.state.get("n", 0) + 1
        return context.state["n"]

    result = await run(code, session=SessionRef("m:A", "s1", 4), sessions=[SessionState(4, b'{"n":2}')])

    assert isinstance(result, StepDone)
    assert (result.value, decode_value(result.session_state), result.session_version) == (b"3", {"n": 3}, 4)


async def test_a_session_that_was_only_read_is_not_written():
    result = await run(_reads, session=SessionRef("m:A", "s1", 4), sessions=[SessionState(4, b'{"n":2}')])

    assert (result.session_state, result.session_version) == (None, 4)


async def _reads(context):
    return context.state["n"]


async def test_a_session_that_was_moved_is_not_run_on():
    async def code(context):
        raise AssertionError("it ran")

    result = await run(code, session=SessionRef("m:A", "s1", 4), sessions=[SessionState(5, b"{}")])

    assert (result.failure.code, result.crashed) == ("session_moved", True)


async def test_while_the_store_is_away_the_step_waits(monkeypatch):
    monkeypatch.setattr(module, "SESSION_RETRY_S", 0.0)
    away = StoreUnavailable("away")

    result = await run(_reads, session=SessionRef("m:A", "s1", 1), sessions=[away, away, SessionState(1, b'{"n":9}')])

    assert result.value == b"9"


async def test_without_a_session_the_state_is_empty_and_thrown_away():
    async def code(context):
        assert context.state == {} and context.session_id is None
        context.state["lost"] = True

    result = await run(code)

    assert (result.session_state, result.session_version) == (None, None)


@pytest.mark.parametrize(
    ("text", "uses", "said"),
    [
        ("import sys; sys.exit(4)", "bad_agent:A", "SystemExit"),
        ("1 / 0", "bad_agent:A", "ZeroDivisionError"),
        ("def (", "bad_agent:A", "SyntaxError"),
        ("", "bad_agent:A", "has no such class"),
        ("A = 1", "bad_agent:A", "not a subclass"),
        ("class A: pass", "bad_agent:A", "not a subclass"),
        ("from agentflow import Agent\nclass A(Agent):\n  def __init__(self): raise SystemExit(1)", "bad_agent:A", "SystemExit"),
        ("from agentflow import Agent\nclass A(Agent):\n  def __init__(self, x): pass", "bad_agent:A", "TypeError"),
        ("", "bad_agent", "has no such class"),
        ("", "there_is.no_such:A", "ModuleNotFoundError"),
    ],
)
def test_an_agent_that_cannot_be_made_says_why(tmp_path, monkeypatch, text, uses, said):
    (tmp_path / "bad_agent.py").write_text(text)
    monkeypatch.delitem(sys.modules, "bad_agent", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    with pytest.raises(InvalidRequest, match=said):
        load_agent(uses, app_dir=tmp_path)
