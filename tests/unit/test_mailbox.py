"""A worker's mailbox: what it starts, keeps, reports and refuses. Steps are held by gates that the test opens; nothing sleeps."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from agentflow.domain.dispatch import Dispatch, Holding, RecordedEffect, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine import mailbox as module
from agentflow.engine.mailbox import REPORT_BYTES, REPORT_ITEMS, Mailbox, Superseded
from agentflow.errors import Busy, InvalidRequest, Unavailable

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def dispatch(name, attempt=1):
    return Dispatch(name, "t", f"x-{name}", "w", "s", attempt, "agent", "m:A", "h", b"1")


class Runner:
    """Runs `work[dispatch id]`, or answers at once."""

    def __init__(self, **work):
        self.work, self.started, self.cancelled = work, [], []

    async def run(self, dispatch, record):
        self.started.append(dispatch.dispatch_id)
        work = self.work.get(dispatch.dispatch_id)
        value = b"1"
        try:
            if isinstance(work, asyncio.Event):
                await work.wait()
            elif work is not None:
                value = await work(record) or value
        except asyncio.CancelledError:
            self.cancelled.append(dispatch.dispatch_id)
            raise
        return StepDone(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, NOW, value)


class Supervisor:
    """Answers reports as it is told: an error, a list of superseded ids, or an event to wait for."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), []
        self.changed = asyncio.Condition()

    async def __call__(self, worker, results, effects):
        self.calls.append(([result.dispatch_id for result in results], [(e.dispatch_id, e.effect.path) for e in effects], list(results)))
        async with self.changed:
            self.changed.notify_all()
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = ()
        if callable(answer):
            answer = answer(results, effects)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def called(self, times):
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.calls) >= times)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Back-off without waiting."""
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0.0)


async def until(condition, what):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
    assert condition(), what


def make(runner, supervisor=None, *, limit=10):
    return Mailbox("w", runner, supervisor or Supervisor(), limit=limit)


async def test_what_ends_at_once_is_answered_inline_and_not_reported():
    supervisor = Supervisor()
    box = make(Runner(), supervisor)

    results, refused = await box.deliver([dispatch("a"), dispatch("b")], ())

    assert sorted(result.dispatch_id for result in results) == ["a", "b"]
    assert (refused, supervisor.calls) == ([], [])
    await box.close()


async def test_what_takes_longer_is_reported_and_forgotten_when_the_report_returns():
    gate, supervisor = asyncio.Event(), Supervisor()
    box = make(Runner(a=gate), supervisor)

    assert await box.deliver([dispatch("a", 3)], ()) == ([], [])
    assert box.holding() == [Holding("a", "x-a", "s", 3)]
    gate.set()
    await supervisor.called(1)
    await until(lambda: not box.holding(), "the reported result was kept")

    assert [call[:2] for call in supervisor.calls] == [(["a"], [])]
    await box.close()


async def test_a_result_is_kept_until_it_is_acknowledged_and_given_again_for_the_asking():
    runner = Runner()
    box = make(runner)
    first, _ = await box.deliver([dispatch("a")], ())

    again, _ = await box.deliver([dispatch("a")], ())
    assert again == first
    assert box.holding() == [Holding("a", "x-a", "s", 1)]

    await box.deliver([], ["a"])
    assert box.holding() == []
    assert runner.started == ["a"]
    await box.close()


async def test_a_dispatch_that_runs_is_not_started_twice():
    gate = asyncio.Event()
    runner = Runner(a=gate)
    box = make(runner)
    await box.deliver([dispatch("a")], ())

    assert await box.deliver([dispatch("a")], ()) == ([], [])
    assert runner.started == ["a"]
    await box.close()


@pytest.mark.parametrize("how", ["acknowledged", "reported", "cancelled before it came"])
async def test_a_dispatch_that_comes_after_its_end_does_not_run_again(how):
    gate, supervisor = asyncio.Event(), Supervisor()
    runner = Runner(a=gate)
    box = make(runner, supervisor)
    if how == "cancelled before it came":
        box.cancel(["a"])
    else:
        if how == "acknowledged":
            gate.set()
        await box.deliver([dispatch("a")], ())
        await box.deliver([], ["a"] if how == "acknowledged" else [])
        gate.set()
        await until(lambda: not box.holding(), "the result is still held")
    started = list(runner.started)

    (late,), refused = await box.deliver([dispatch("a")], ())

    assert runner.started == started
    assert isinstance(late, StepError) and late.crashed, "should it be wanted after all, it is sent afresh"
    assert refused == []
    await box.close()


async def test_over_its_limit_it_refuses_and_takes_again_when_there_is_room():
    gate, supervisor = asyncio.Event(), Supervisor()
    box = make(Runner(a=gate, b=gate), supervisor, limit=2)

    assert await box.deliver([dispatch("a"), dispatch("b"), dispatch("c")], ()) == ([], ["c"])
    assert box.busy == 2
    gate.set()
    await supervisor.called(1)
    (result,), refused = await box.deliver([dispatch("c")], ())

    assert (result.dispatch_id, refused) == ("c", [])
    await box.close()


async def test_a_cancelled_step_stops_and_says_nothing():
    gate, supervisor = asyncio.Event(), Supervisor()
    runner = Runner(a=gate)
    box = make(runner, supervisor)
    await box.deliver([dispatch("a")], ())

    box.cancel(["a", "never heard of it"])
    await until(lambda: runner.cancelled == ["a"], "it runs on")

    assert (box.holding(), box.busy, supervisor.calls) == ([], 0, [])
    await box.close()


async def test_a_step_that_swallows_its_cancellation_is_not_reported():
    async def stubborn(record):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return b"2"

    supervisor = Supervisor()
    box = make(Runner(a=stubborn), supervisor)
    await box.deliver([dispatch("a")], ())
    task = box._running["a"].task
    box.cancel(["a"])
    await asyncio.wait([task], timeout=5)

    assert (box.holding(), supervisor.calls) == ([], [])


async def test_code_that_raises_cancelled_error_itself_fails_and_does_not_vanish():
    async def cancels_itself(record):
        future = asyncio.get_running_loop().create_future()
        future.cancel("by its own code")
        await future

    box = make(Runner(a=cancels_itself))
    (result,), _ = await box.deliver([dispatch("a")], ())

    assert isinstance(result, StepError)
    assert (result.failure.code, result.crashed) == ("cancelled_error", False)


async def test_a_runner_that_breaks_gives_an_error_and_not_silence():
    async def broken(record):
        raise ZeroDivisionError("in the runner itself")

    box = make(Runner(a=broken))
    (result,), _ = await box.deliver([dispatch("a")], ())

    assert result.failure.code == "internal"
    assert "ZeroDivisionError" in result.failure.message


async def test_a_report_that_is_not_taken_goes_again_with_what_came_meanwhile():
    gates = {name: asyncio.Event() for name in "ab"}
    hold = asyncio.Event()

    def once_released(results, effects):
        return Unavailable("restarting")

    supervisor = Supervisor(hold, once_released)
    runner = Runner(**gates)
    box = make(runner, supervisor)
    await box.deliver([dispatch("a"), dispatch("b")], ())
    gates["a"].set()
    await supervisor.called(1)
    gates["b"].set()  # while the first report is under way
    await until(lambda: len(box.holding()) == 2 and not box.busy, "b has not ended")
    hold.set()
    await supervisor.called(3)
    await until(lambda: not box.holding(), "something was not reported")

    assert [call[0] for call in supervisor.calls] == [["a"], ["b"], ["b"]]
    await box.close()


async def test_what_was_acknowledged_while_its_report_failed_is_not_reported_again():
    gate, hold = asyncio.Event(), asyncio.Event()

    class Late(Supervisor):
        async def __call__(self, worker, results, effects):
            await super().__call__(worker, results, effects)
            raise Unavailable("the answer was lost")

    supervisor = Late(hold)
    box = make(Runner(a=gate), supervisor)
    await box.deliver([dispatch("a")], ())
    gate.set()
    await supervisor.called(1)
    await box.deliver([], ["a"])
    hold.set()
    await until(lambda: box._reporting is None or box._reporting.done(), "the reporter does not end")

    assert len(supervisor.calls) == 1


async def test_the_code_goes_on_only_when_its_effect_is_durable():
    hold, order = asyncio.Event(), []

    async def with_effect(record):
        await record(RecordedEffect("0", "tool", "t:f", "h", b"7"))
        order.append("code")

    supervisor = Supervisor(hold)
    box = make(Runner(a=with_effect), supervisor)
    await box.deliver([dispatch("a")], ())
    await supervisor.called(1)
    assert (supervisor.calls[0][1], order) == ([("a", "0")], [])
    order.append("commit")
    hold.set()
    await supervisor.called(2)

    assert order == ["commit", "code"]
    assert supervisor.calls[1][0] == ["a"]
    await box.close()


async def test_an_effect_whose_report_is_lost_is_reported_again_under_the_same_path():
    async def with_effect(record):
        await record(RecordedEffect("0", "tool", "t:f", "h", b"7"))

    supervisor = Supervisor(Unavailable("lost"), Unavailable("lost"))
    box = make(Runner(a=with_effect), supervisor)
    await box.deliver([dispatch("a")], ())
    await until(lambda: not box.busy, "the code waits for ever")

    assert [call[1] for call in supervisor.calls][:3] == [[("a", "0")]] * 3
    assert all(not call[1] for call in supervisor.calls[3:])
    await box.close()


async def test_a_superseded_step_is_stopped_at_its_effect_and_never_reported():
    seen = []

    async def with_effect(record):
        try:
            await record(RecordedEffect("0", "tool", "t:f", "h", b"7"))
        except (Superseded, asyncio.CancelledError) as error:
            seen.append(type(error))
            raise
        seen.append("went on")

    supervisor = Supervisor(["a"])
    box = make(Runner(a=with_effect), supervisor)
    await box.deliver([dispatch("a")], ())
    await until(lambda: not box.busy and bool(seen), "it was not stopped")

    assert "went on" not in seen
    assert (box.holding(), len(supervisor.calls)) == ([], 1)


async def test_a_superseded_result_is_forgotten():
    gate, supervisor = asyncio.Event(), Supervisor(["a"])
    box = make(Runner(a=gate), supervisor)
    await box.deliver([dispatch("a")], ())
    gate.set()
    await supervisor.called(1)
    await until(lambda: not box.holding(), "it was kept")


async def test_one_result_that_cannot_be_sent_fails_alone():
    gates = {name: asyncio.Event() for name in "abc"}
    hold = asyncio.Event()

    def refuse_b(results, effects):
        bad = any(result.dispatch_id == "b" and isinstance(result, StepDone) for result in results)
        return InvalidRequest("not Unicode") if bad else ()

    supervisor = Supervisor(hold, *[refuse_b] * 10)
    gates["first"] = asyncio.Event()
    box = make(Runner(**gates), supervisor)
    await box.deliver([dispatch(name) for name in ("first", "a", "b", "c")], ())
    gates["first"].set()
    await supervisor.called(1)
    for name in "abc":
        gates[name].set()
    await until(lambda: not box.busy, "they have not ended")
    hold.set()
    await until(lambda: not box.holding(), "something was never reported")

    taken = {r.dispatch_id: r for call in supervisor.calls[2:] for r in call[2]}
    assert isinstance(taken["a"], StepDone) and isinstance(taken["c"], StepDone)
    assert isinstance(taken["b"], StepError) and not taken["b"].failure.retryable
    await box.close()


async def test_an_effect_that_cannot_be_sent_is_told_to_the_code_that_asked_for_it():
    seen = []

    async def with_effect(record):
        try:
            await record(RecordedEffect("0", "tool", "t:\ud800", "h", b"7"))
        except InvalidRequest as error:
            seen.append(str(error))
            raise

    supervisor = Supervisor(InvalidRequest("not Unicode"))
    box = make(Runner(a=with_effect), supervisor)
    await box.deliver([dispatch("a")], ())
    await until(lambda: bool(seen), "the code waits for ever")

    assert seen == ["not Unicode"]
    await box.close()


@pytest.mark.parametrize("error", [TypeError("a bug in the link"), Busy("later", retry_after_s=0.0)])
async def test_a_report_that_breaks_in_a_way_nobody_knows_goes_again(error):
    gate, supervisor = asyncio.Event(), Supervisor(error)
    box = make(Runner(a=gate), supervisor)
    await box.deliver([dispatch("a")], ())
    gate.set()
    await supervisor.called(2)

    assert [call[0] for call in supervisor.calls] == [["a"], ["a"]]
    await box.close()


async def test_a_delivery_that_is_cut_off_leaves_its_results_to_the_report():
    gate, supervisor = asyncio.Event(), Supervisor()
    runner = Runner(a=gate)
    box = make(runner, supervisor)
    call = asyncio.create_task(box.deliver([dispatch("a")], ()))
    await until(lambda: runner.started == ["a"], "it was not started")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    gate.set()
    await supervisor.called(1)

    assert supervisor.calls[0][0] == ["a"]
    await box.close()


async def test_reports_are_bounded_in_items_and_in_bytes_and_keep_their_order():
    gate, hold = asyncio.Event(), asyncio.Event()
    many = [f"n{number}" for number in range(REPORT_ITEMS + 100)]

    async def big(record):
        await gate.wait()
        return b"x" * (REPORT_BYTES // 2)

    work = {"first": asyncio.Event(), **dict.fromkeys(many, gate), **dict.fromkeys(["b0", "b1", "b2"], big)}
    supervisor = Supervisor(hold)
    box = make(Runner(**work), supervisor, limit=10_000)
    await box.deliver([dispatch(name) for name in ("first", *many, "b0", "b1", "b2")], ())
    work["first"].set()
    await supervisor.called(1)
    gate.set()
    await until(lambda: not box.busy, "they have not ended")
    hold.set()
    await until(lambda: not box.holding(), "something was not reported")

    sent = [call[0] for call in supervisor.calls[1:]]
    assert [name for batch in sent for name in batch] == [*many, "b0", "b1", "b2"]
    assert max(map(len, sent)) <= REPORT_ITEMS
    for _, _, results in supervisor.calls:
        values = [len(result.value) for result in results]
        assert sum(values[:-1]) < REPORT_BYTES, "an item was added to a report that was full"
    await box.close()


async def test_closing_ends_everything_and_reports_nothing():
    gate, supervisor = asyncio.Event(), Supervisor()
    runner = Runner(a=gate)
    box = make(runner, supervisor)
    await box.deliver([dispatch("a")], ())

    await box.close()

    assert (runner.cancelled, supervisor.calls) == (["a"], [])


def test_the_answer_to_a_late_dispatch_is_a_crash_and_no_attempt():
    late = module._late(dispatch("a"))

    assert late.crashed
    assert late.failure == Failure("forgotten", late.failure.message)
