"""The whole engine in one process: what workflows do, and what they survive."""

import asyncio
import logging

import pytest

from agentflow.domain import event as ev
from agentflow.domain.agent import Agent
from agentflow.domain.command import Cancel
from agentflow.domain.execution import ExecutionStatus
from agentflow.domain.sandbox import Outcome, OutcomeKind
from agentflow.testing.runtime import TENANT, LocalRuntime, result_of

CHAIN = """
apiVersion: agentflow/v1
name: chain
agents: {add: {uses: "t:Add"}}
steps:
  - {name: a, agent: add, input: "${ input }"}
  - {name: b, agent: add, input: "${ steps.a.output }"}
  - {name: c, agent: add, input: "${ steps.b.output }"}
"""


class Add(Agent):
    def __init__(self):
        self.ran = []

    async def run(self, context, input):
        self.ran.append((context.execution_id, context.step, context.attempt))
        return input + 1


class Gate(Agent):
    """Waits inside its step until the test lets it go."""

    def __init__(self):
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.runs = 0
        self.cancelled = 0

    async def run(self, context, input):
        self.runs += 1
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return input


class Counter(Agent):
    async def run(self, context, input):
        context.state["seen"] = [*context.state.get("seen", []), input]
        await asyncio.sleep(0)
        return context.state["seen"]


class Flaky(Agent):
    def __init__(self, failures, error=ValueError):
        self.failures, self.error = failures, error
        self.runs = 0

    async def run(self, context, input):
        self.runs += 1
        if self.runs <= self.failures:
            raise self.error(f"try {self.runs}")
        return self.runs


def one_step(agent="t:It", extra=""):
    return f"""
apiVersion: agentflow/v1
name: one
agents: {{it: {{uses: "{agent}"}}}}
steps:
  - name: only
    agent: it
    input: "${{ input }}"
{extra}
"""


def kinds(lines):
    return [line.event.KIND for line in lines]


async def test_a_chain_passes_outputs_on_and_its_journal_has_no_gap():
    add = Add()
    async with LocalRuntime(agents={"t:Add": add}) as runtime:
        view = await runtime.run(CHAIN, 1)
        lines = await runtime.journal(view.execution_id)

    assert result_of(view) == 4
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    assert kinds(lines) == ["execution.started", *["step.scheduled", "step.completed"] * 3, "execution.completed"]
    assert [step for _, step, _ in add.ran] == ["a", "b", "c"]


async def test_a_failing_step_is_tried_again_and_then_completes():
    flaky = Flaky(2)
    retry = "    retry: {maxAttempts: 3, backoff: {initial: 10ms, max: 20ms}}"
    async with LocalRuntime(agents={"t:It": flaky}) as runtime:
        view = await runtime.run(one_step(extra=retry), None)
        lines = await runtime.journal(view.execution_id)

    assert result_of(view) == 3
    assert [line.event.failure.code for line in lines if isinstance(line.event, ev.StepFailed)] == ["value_error", "value_error"]
    assert [line.event.attempt for line in lines if isinstance(line.event, ev.StepScheduled)] == [1, 2, 3]


async def test_a_failure_that_retry_on_does_not_name_fails_the_execution_at_once():
    flaky = Flaky(1)
    retry = "    retry: {maxAttempts: 3, retryOn: [key_error]}"
    async with LocalRuntime(agents={"t:It": flaky}) as runtime:
        view = await runtime.run(one_step(extra=retry), None)

    assert (view.status, view.failure.code, view.failed_step, flaky.runs) == (ExecutionStatus.FAILED, "value_error", "only", 1)
    assert "try 1" in view.failure.message


async def test_a_step_over_its_timeout_fails_with_timeout_and_its_code_is_cancelled():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        view = await runtime.run(one_step(extra="    timeout: 50ms"), None)

    assert (view.failure.code, gate.cancelled) == ("timeout", 1)


async def test_an_execution_over_its_timeout_fails():
    text = one_step().replace("name: one", "name: one\nconfig: {timeout: 100ms}")
    async with LocalRuntime(agents={"t:It": Gate()}) as runtime:
        view = await runtime.run(text, None)

    assert view.failure.code == "execution_timeout"


async def test_cancel_ends_the_execution_and_the_code_that_runs():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        execution_id = await runtime.start(one_step(), None)
        await asyncio.wait_for(gate.entered.wait(), 5)
        reply = await runtime.submit(Cancel(execution_id, TENANT, "test", "enough"))
        again = await runtime.submit(Cancel(execution_id, TENANT, "test"))
        view = await runtime.ended(execution_id)
        async with asyncio.timeout(5):
            while not gate.cancelled:
                await asyncio.sleep(0.01)

    assert (reply.status, view.status) == ("cancelled", ExecutionStatus.CANCELLED)
    assert again.error_code == "conflict"


async def test_another_tenant_cannot_cancel_and_is_told_nothing():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        execution_id = await runtime.start(one_step(), None)
        reply = await runtime.submit(Cancel(execution_id, "other", "test"))
        gate.open.set()
        view = await runtime.ended(execution_id)

    assert (reply.error_code, view.status) == ("not_found", ExecutionStatus.COMPLETED)


async def test_a_killed_worker_is_a_crash_and_no_attempt():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        execution_id = await runtime.start(one_step(), 5)
        await asyncio.wait_for(gate.entered.wait(), 5)
        gate.open.set()
        gate.open = asyncio.Event()  # the second run waits for this one
        gate.entered.clear()
        name = next(iter(runtime.pool.workers))
        first_open, gate.open = gate.open, asyncio.Event()
        await runtime.pool.release(name)
        gate.open = first_open
        gate.open.set()
        view = await runtime.ended(execution_id)
        lines = await runtime.journal(execution_id)

    assert result_of(view) == 5
    crashes = [line.event for line in lines if isinstance(line.event, ev.StepCrashed)]
    completed = [line.event for line in lines if isinstance(line.event, ev.StepCompleted)]
    assert len(completed) == 1 and completed[0].attempt == 1
    assert len(crashes) <= 1


async def test_a_step_that_kills_its_worker_three_times_is_poison():
    class Killer(Agent):
        async def run(self, context, input):
            name = next(iter(runtime.pool.workers))
            asyncio.get_running_loop().create_task(runtime.pool.release(name))
            await asyncio.sleep(30)

    async with LocalRuntime(agents={"t:It": Killer()}) as runtime:
        view = await runtime.run(one_step(), None)
        lines = await runtime.journal(view.execution_id)

    assert view.failure.code == "poison"
    assert [line.event.crashes for line in lines if isinstance(line.event, ev.StepCrashed)] == [1, 2, 3]


async def test_a_restarted_supervisor_adopts_what_runs_and_no_step_runs_twice():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        execution_id = await runtime.start(one_step(), 7)
        await asyncio.wait_for(gate.entered.wait(), 5)
        await runtime.restart_supervisor()
        gate.open.set()
        view = await runtime.ended(execution_id)
        lines = await runtime.journal(execution_id)

    assert result_of(view) == 7
    assert gate.runs == 1
    assert kinds(lines).count("step.completed") == 1


async def test_executions_go_on_through_many_supervisor_restarts():
    add = Add()
    async with LocalRuntime(agents={"t:Add": add}) as runtime:
        ids = [await runtime.start(CHAIN, n) for n in range(40)]
        for _ in range(5):
            await asyncio.sleep(0)
            await runtime.restart_supervisor()
        views = [await runtime.ended(execution_id) for execution_id in ids]
        journals = [await runtime.journal(execution_id) for execution_id in ids]

    assert [result_of(view) for view in views] == [n + 3 for n in range(40)]
    for lines in journals:
        assert kinds(lines).count("step.completed") == 3
    assert len(add.ran) == len(set(add.ran)) == 120


async def test_an_old_supervisor_is_fenced_and_writes_nothing():
    gate = Gate()
    async with LocalRuntime(agents={"t:It": gate}) as runtime:
        execution_id = await runtime.start(one_step(), 7)
        await asyncio.wait_for(gate.entered.wait(), 5)
        before = await runtime.journal(execution_id)
        await runtime.store.journal.take_shards(range(16), "somebody else")
        gate.open.set()
        async with asyncio.timeout(5):
            while not runtime.fenced:
                await asyncio.sleep(0.01)
        after = await runtime.journal(execution_id)

    assert kinds(after) == kinds(before) == ["execution.started", "step.scheduled"]


async def test_messages_to_a_session_are_handled_one_by_one_in_order():
    async with LocalRuntime(agents={"t:Counter": Counter()}) as runtime:
        ids = [await runtime.say("t:Counter", "s1", n) for n in range(10)]
        other = await runtime.say("t:Counter", "s2", "x")
        views = [await runtime.ended(execution_id) for execution_id in ids]
        view = await runtime.ended(other)
        state = await runtime.store.sessions.load_session(TENANT, "t:Counter", "s1")

    assert [result_of(view) for view in views] == [list(range(n + 1)) for n in range(10)]
    assert result_of(view) == ["x"]
    assert state.version == 10


async def test_a_sessions_state_of_a_failed_step_is_not_kept():
    class Bad(Agent):
        async def run(self, context, input):
            context.state["written"] = True
            raise RuntimeError("no")

    async with LocalRuntime(agents={"t:Bad": Bad()}) as runtime:
        view = await runtime.ended(await runtime.say("t:Bad", "s", 1))
        state = await runtime.store.sessions.load_session(TENANT, "t:Bad", "s")

    assert view.failure.code == "runtime_error"
    assert (state.version, state.state) == (0, b"{}")


class Caller(Agent):
    """Calls a tool twice; crashes in between as often as it is told."""

    def __init__(self, fail_between=0):
        self.fail_between = fail_between
        self.runs = 0

    async def run(self, context, input):
        self.runs += 1
        first = await context.tool("tools_of_test:double", value=input)
        if self.runs <= self.fail_between:
            raise RuntimeError("between two effects")
        return await context.tool("tools_of_test:double", value=first)


TOOLS = """
from agentflow import tool
@tool
def double(value: int) -> int:
    return value * 2
"""


@pytest.fixture
def app_dir(tmp_path):
    (tmp_path / "tools_of_test.py").write_text(TOOLS)
    return tmp_path


class FakeSandbox:
    """Stands where the sandbox pool stands, and counts."""

    def __init__(self, outcome=None):
        self.calls = []
        self.outcome = outcome

    async def __call__(self, call):
        from agentflow.codec import decode_value, encode_value

        self.calls.append((call.function, decode_value(call.arguments)))
        return self.outcome or Outcome(OutcomeKind.OK, encode_value(decode_value(call.arguments)["value"] * 2))


async def test_a_recorded_effect_is_replayed_and_not_run_again_after_a_retry(app_dir):
    from agentflow.domain.sandbox import Isolation

    sandbox = FakeSandbox()
    retry = "    retry: {maxAttempts: 3, backoff: {initial: 10ms}}"
    async with LocalRuntime(agents={"t:It": Caller(fail_between=2)}, app_dir=app_dir, sandboxes={Isolation.GVISOR: sandbox}) as runtime:
        view = await runtime.run(one_step(extra=retry), 3)
        lines = await runtime.journal(view.execution_id)

    assert result_of(view) == 12
    assert sandbox.calls == [("double", {"value": 3}), ("double", {"value": 6})]
    effects = [line.event for line in lines if isinstance(line.event, ev.EffectRecorded)]
    assert [(effect.path, effect.value) for effect in effects] == [("0", b"6"), ("1", b"12")]


async def test_a_replay_that_asks_for_something_else_is_refused(app_dir):
    from agentflow.domain.sandbox import Isolation

    class Wanders(Agent):
        runs = 0

        async def run(self, context, input):
            self.runs += 1
            await context.tool("tools_of_test:double", value=self.runs)
            raise RuntimeError("again")

    retry = "    retry: {maxAttempts: 3, backoff: {initial: 10ms}}"
    async with LocalRuntime(agents={"t:It": Wanders()}, app_dir=app_dir, sandboxes={Isolation.GVISOR: FakeSandbox()}) as runtime:
        view = await runtime.run(one_step(extra=retry), 3)

    assert view.failure.code == "non_determinism"
    assert "effect 0" in view.failure.message


class Luck:
    """A sandbox that fails as often as it is told, then works."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = []

    async def __call__(self, call):
        from agentflow.codec import decode_value, encode_value

        value = decode_value(call.arguments)["value"]
        self.calls.append(value)
        if len(self.calls) <= self.failures:
            return Outcome(OutcomeKind.TIMEOUT, message="too slow")
        return Outcome(OutcomeKind.OK, encode_value(value * 2))


async def test_a_failed_effect_that_ended_an_attempt_runs_again_in_the_next(app_dir):
    from agentflow.domain.sandbox import Isolation

    sandbox = Luck(2)
    retry = "    retry: {maxAttempts: 3, backoff: {initial: 10ms}}"
    async with LocalRuntime(agents={"t:It": Caller()}, app_dir=app_dir, sandboxes={Isolation.GVISOR: sandbox}) as runtime:
        view = await runtime.run(one_step(extra=retry), 3)
        lines = await runtime.journal(view.execution_id)

    assert result_of(view) == 12
    assert sandbox.calls == [3, 3, 3, 6]
    assert [line.event.failure for line in lines if isinstance(line.event, ev.EffectRecorded)] == [None, None]


async def test_a_failed_effect_that_the_code_lives_with_is_recorded_and_replayed(app_dir):
    from agentflow.domain.sandbox import Isolation
    from agentflow.errors import StepFailed

    class Lives(Agent):
        runs = 0

        async def run(self, context, input):
            self.runs += 1
            try:
                first = await context.tool("tools_of_test:double", value=input)
            except StepFailed as error:
                first = error.code
            second = await context.tool("tools_of_test:double", value=5)
            if self.runs == 1:
                raise RuntimeError("after both")
            return [first, second]

    sandbox = Luck(1)
    retry = "    retry: {maxAttempts: 2, backoff: {initial: 10ms}}"
    async with LocalRuntime(agents={"t:It": Lives()}, app_dir=app_dir, sandboxes={Isolation.GVISOR: sandbox}) as runtime:
        view = await runtime.run(one_step(extra=retry), 3)
        lines = await runtime.journal(view.execution_id)

    assert result_of(view) == ["sandbox_timeout", 10]
    assert sandbox.calls == [3, 5]
    effects = [line.event for line in lines if isinstance(line.event, ev.EffectRecorded)]
    assert [(effect.path, effect.failure and effect.failure.code) for effect in effects] == [("0", "sandbox_timeout"), ("1", None)]


async def test_what_later_versions_bring_to_the_context_is_refused_with_not_yet():
    class Early(Agent):
        async def run(self, context, input):
            await context.chat("hello")

    async with LocalRuntime(agents={"t:It": Early()}) as runtime:
        view = await runtime.run(one_step(), None)

    assert (view.failure.code, "context.chat" in view.failure.message) == ("not_yet", True)


async def test_a_tool_failure_reaches_the_agent_with_its_code(app_dir):
    from agentflow.domain.sandbox import Isolation

    sandbox = FakeSandbox(Outcome(OutcomeKind.OOM, message="over 384 MiB"))
    async with LocalRuntime(agents={"t:It": Caller()}, app_dir=app_dir, sandboxes={Isolation.GVISOR: sandbox}) as runtime:
        view = await runtime.run(one_step(), 3)

    assert (view.failure.code, view.failed_step) == ("sandbox_oom", "only")


async def test_an_isolation_that_is_not_there_is_refused_and_never_replaced(app_dir):
    async with LocalRuntime(agents={"t:It": Caller()}, app_dir=app_dir) as runtime:
        view = await runtime.run(one_step(), 3)

    assert view.failure.code == "sandbox_refused"


async def test_an_outage_of_the_store_makes_executions_wait_and_go_on(caplog):
    caplog.set_level(logging.CRITICAL)
    add = Add()
    async with LocalRuntime(agents={"t:Add": add}) as runtime:
        ids = [await runtime.start(CHAIN, n) for n in range(5)]
        runtime.store.reachable = False
        waiting = asyncio.create_task(runtime.supervisor.submit([]))
        await waiting
        late = asyncio.create_task(runtime_start(runtime))
        async with asyncio.timeout(5):
            while not (await runtime.supervisor.status()).reason:
                await asyncio.sleep(0.01)
        runtime.store.reachable = True
        views = [await runtime.ended(execution_id) for execution_id in ids]
        await late

    assert [result_of(view) for view in views] == [n + 3 for n in range(5)]
    assert len(add.ran) == len(set(add.ran))


async def runtime_start(runtime):
    from agentflow.clock import utc_now
    from agentflow.codec import encode_value
    from agentflow.domain.command import Start
    from agentflow.ids import new_execution_id

    return await runtime.submit(Start(new_execution_id(utc_now()), TENANT, "t", "chain", "1", encode_value(1), "testing"))


async def test_an_agent_that_cannot_be_imported_fails_the_execution_with_the_reason():
    async with LocalRuntime() as runtime:
        view = await runtime.run(one_step(agent="no_such_module_at_all:It"), None)

    assert view.failure.code == "invalid_request"
    assert "no_such_module_at_all" in view.failure.message


@pytest.mark.parametrize("value", ["a\0b", "\ud800", {"k\ud800": "\0"}, 2**70, [1.5, None, True]])
async def test_any_json_value_goes_through_unchanged(value):
    class Echo(Agent):
        async def run(self, context, input):
            return input

    async with LocalRuntime(agents={"t:It": Echo()}) as runtime:
        view = await runtime.run(one_step(), value)

    assert result_of(view) == value


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, float("nan"), b"bytes"])
async def test_an_output_that_json_cannot_hold_fails_the_step_with_what_it_was(value):
    class Returns(Agent):
        async def run(self, context, input):
            return value

    async with LocalRuntime(agents={"t:It": Returns()}) as runtime:
        view = await runtime.run(one_step(), None)

    assert view.failure.code == "type_error"
    assert "not a JSON value" in view.failure.message


async def test_a_map_step_runs_its_items_with_bounded_concurrency_and_keeps_their_order():
    class Width(Agent):
        now = widest = 0

        async def run(self, context, input):
            Width.now += 1
            Width.widest = max(Width.widest, Width.now)
            await asyncio.sleep(0.001)
            Width.now -= 1
            return input * 10

    text = """
apiVersion: agentflow/v1
name: fan
config: {concurrency: 7}
agents: {it: {uses: "t:It"}}
steps:
  - {name: each, agent: it, map: "${ input }", input: "${ item }"}
"""
    async with LocalRuntime(agents={"t:It": Width()}) as runtime:
        view = await runtime.run(text, list(range(100)))

    assert result_of(view) == [n * 10 for n in range(100)]
    assert Width.widest == 7
