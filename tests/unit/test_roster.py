"""The roster: which worker takes which step, how batches are bounded, and what becomes of a dead worker's steps."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.domain.dispatch import Dispatch, Holding, StepDone
from agentflow.engine import roster as module
from agentflow.engine.roster import BATCH_BYTES, BATCH_ITEMS, Roster
from agentflow.errors import Busy, InvalidRequest, Unavailable
from agentflow.ports import WorkerNeed

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
ADA, BOB, TOOL = WorkerNeed("agent", "t", "m:Ada"), WorkerNeed("agent", "t", "m:Bob"), WorkerNeed("tool")


def dispatch(name, *, size=1):
    return Dispatch(name, "t", f"x-{name}", "w", "s", 1, "agent", "m:Ada", "h", b"1" * size)


def done(name):
    return StepDone(name, f"x-{name}", "s", NOW, b"1")


class Worker:
    """Answers from the script: (results, refused), an error, or an event to wait for; then with nothing."""

    def __init__(self, name):
        self.name, self.script, self.batches, self.acknowledged = name, [], [], []
        self.cancelled, self.holds, self.dead = [], [], asyncio.get_running_loop().create_future()
        self.cancel_error = None

    async def deliver(self, dispatches, acknowledged):
        self.batches.append([d.dispatch_id for d in dispatches])
        self.acknowledged += acknowledged
        answer = self.script.pop(0) if self.script else ((), ())
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self.script.pop(0) if self.script else ((), ())
        if callable(answer):
            answer = answer(dispatches)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cancel(self, dispatch_ids):
        self.cancelled += dispatch_ids
        if self.cancel_error:
            raise self.cancel_error

    async def holding(self):
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds

    async def gone(self):
        return await asyncio.shield(self.dead)

    @property
    def sent(self):
        return [name for batch in self.batches for name in batch]


class Pool:
    def __init__(self):
        self.made, self.released, self.errors, self.survive = [], [], [], {}
        self.hold = None

    async def acquire(self, name, need):
        if self.hold is not None:
            await self.hold.wait()
        if self.errors:
            raise self.errors.pop(0)
        worker = Worker(name)
        self.made.append((need, worker))
        return worker

    async def survivors(self):
        return dict(self.survive)

    async def release(self, name):
        self.released.append(name)

    def missing(self, need):
        return "needs 4 CPUs"


class Owner:
    def __init__(self):
        self.results, self.dead, self.late, self.delivered = [], [], [], []
        self.roster = None

    def ended(self, worker, results):
        self.results += results

    def delivering(self, dispatches):
        self.delivered += [d.dispatch_id for d in dispatches]

    def crashed(self, dispatch, reason):
        self.dead.append((dispatch.dispatch_id, reason))

    def delayed(self, dispatch, reason):
        self.late.append((dispatch.dispatch_id, reason))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0.0)


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
async def roster(pool, owner):
    roster = Roster(pool, owner, prefix="w", capacity={"agent": 3, "tool": 1})
    yield roster
    await roster.close()


async def until(condition, what="it did not happen"):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
    assert condition(), what


async def ready(roster, pool, *names, need=ADA):
    """Send these and wait until a worker has them; the worker."""
    for name in names:
        roster.send(need, dispatch(name))
    await until(lambda: pool.made and set(names) <= set(pool.made[-1][1].sent))
    return pool.made[-1][1]


async def calm():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_steps_of_one_need_go_to_one_worker_and_of_another_to_another(roster, pool):
    for name in "ab":
        roster.send(ADA, dispatch(name))
    roster.send(BOB, dispatch("c"))
    await until(lambda: len(pool.made) == 2 and all(worker.sent for _, worker in pool.made))

    assert {need: worker.sent for need, worker in pool.made} == {ADA: ["a", "b"], BOB: ["c"]}


async def test_a_worker_holds_no_more_than_its_capacity(roster, pool):
    worker = await ready(roster, pool, "a", "b", "c")
    for name in "de":
        roster.send(ADA, dispatch(name))
    await calm()
    assert worker.sent == ["a", "b", "c"]

    roster.acknowledge("b")
    await until(lambda: worker.sent == ["a", "b", "c", "d"])
    roster.forget("a")
    await until(lambda: worker.sent == ["a", "b", "c", "d", "e"])
    assert worker.acknowledged == ["b"], "what was reported is acknowledged by the answer to the report"


async def test_there_is_never_a_second_call_while_one_is_under_way(roster, pool):
    worker = await ready(roster, pool, "a")
    hold = asyncio.Event()
    worker.script.append(hold)
    roster.send(ADA, dispatch("b"))
    await until(lambda: len(worker.batches) == 2)
    roster.acknowledge("a")
    roster.send(ADA, dispatch("c"))
    await calm()
    assert len(worker.batches) == 2
    hold.set()
    await until(lambda: len(worker.batches) == 3)

    assert worker.batches == [["a"], ["b"], ["c"]]
    assert worker.acknowledged == ["a"]


async def test_results_that_come_inline_go_to_the_owner(roster, pool, owner):
    pool.hold = asyncio.Event()
    roster.send(ADA, dispatch("a"))
    pool.hold.set()
    worker = await ready(roster, pool, "a")
    worker.script.append(([done("b")], ()))
    roster.send(ADA, dispatch("b"))
    await until(lambda: owner.results)

    assert owner.results == [done("b")]


async def test_what_a_full_mailbox_refuses_is_sent_again_in_order(roster, pool):
    worker = await ready(roster, pool, "a")
    worker.script.append(((), ["b", "c"]))
    hold = asyncio.Event()
    worker.script.append(hold)
    roster.send(ADA, dispatch("b"))
    roster.send(ADA, dispatch("c"))
    await until(lambda: len(worker.batches) >= 3)

    assert worker.sent[:2] == ["a", "b"]
    assert worker.sent.count("b") == 2 or worker.sent.count("c") == 2
    hold.set()
    await until(lambda: worker.sent[-1] == "c")


async def test_a_call_that_fails_says_nothing_and_the_same_ids_go_again(roster, pool, owner):
    worker = await ready(roster, pool, "a")
    worker.script += [Unavailable("lost"), Unavailable("lost")]
    roster.acknowledge("a")
    roster.send(ADA, dispatch("b"))
    await until(lambda: len(worker.batches) >= 4)

    assert worker.sent == ["a", "b", "b", "b"] or worker.sent == ["a", "b", "b"]
    assert set(worker.acknowledged) == {"a"}
    assert owner.dead == []


@pytest.mark.parametrize("how", ["forget", "acknowledge", "revoke"])
async def test_what_ended_while_it_waited_to_be_sent_again_is_not_sent(roster, pool, how):
    worker = await ready(roster, pool, "a")
    hold = asyncio.Event()
    worker.script += [hold, Unavailable("lost")]
    roster.send(ADA, dispatch("b"))
    await until(lambda: len(worker.batches) == 2)
    roster.send(ADA, dispatch("b"))  # as after an execution was read back
    roster.revoke(["b"]) if how == "revoke" else getattr(roster, how)("b")
    hold.set()
    await calm()
    roster.send(ADA, dispatch("c"))
    await until(lambda: "c" in worker.sent)

    assert worker.sent == ["a", "b", "c"]


async def test_one_that_is_held_is_fetched_even_when_the_worker_is_full(roster, pool):
    worker = await ready(roster, pool, "a", "b", "c")
    roster.send(ADA, dispatch("d"))
    roster.send(ADA, dispatch("b"))
    await until(lambda: worker.sent.count("b") == 2)

    assert "d" not in worker.sent


async def test_revoking_what_waits_needs_no_call_and_what_is_held_is_cancelled_at_its_worker(roster, pool):
    worker = await ready(roster, pool, "a", "b", "c")
    for name in "def":
        roster.send(ADA, dispatch(name))
    roster.revoke(["d", "b", "nobody"])
    await until(lambda: worker.sent[3:] == ["e"], "the room that it leaves is not used")
    await until(lambda: worker.cancelled == ["b"])

    roster.acknowledge("a")
    await until(lambda: worker.sent[3:] == ["e", "f"])


async def test_a_worker_that_does_not_answer_a_cancellation_is_ended(roster, pool):
    worker = await ready(roster, pool, "a")
    worker.cancel_error = Unavailable("its loop is blocked")
    roster.revoke(["a"])
    await until(lambda: pool.released == [worker.name])


async def test_a_dead_workers_steps_have_crashed_and_what_only_waited_goes_elsewhere(roster, pool, owner):
    first = await ready(roster, pool, "a", "b", "c")
    roster.send(ADA, dispatch("d"))
    roster.send(ADA, dispatch("e"))
    roster.revoke(["e"])
    first.dead.set_result("killed")
    await until(lambda: len(pool.made) == 2 and pool.made[1][1].sent)

    assert owner.dead == [("a", "killed"), ("b", "killed"), ("c", "killed")]
    assert pool.made[1][1].sent == ["d"]
    assert [status.crashes for status in roster.statuses()] == [1]


async def test_a_worker_that_does_not_start_is_tried_again_under_another_name(roster, pool):
    pool.errors = [Unavailable("no"), Unavailable("no")]
    worker = await ready(roster, pool, "a")

    assert worker.name == "w3"


async def test_a_pool_that_breaks_is_tried_again_and_nobody_waits_for_ever(roster, pool):
    pool.errors = [ValueError("Ray said something that nobody knows")]
    worker = await ready(roster, pool, "a")

    assert worker.sent == ["a"]


async def test_an_agent_that_cannot_be_imported_fails_every_step_that_waits_for_it(roster, pool, owner):
    pool.hold, pool.errors = asyncio.Event(), [InvalidRequest("no module named m")]
    for name in "abc":
        roster.send(ADA, dispatch(name))
    roster.revoke(["b"])
    pool.hold.set()
    await until(lambda: owner.results)

    assert [(r.dispatch_id, r.failure.code, r.failure.retryable) for r in owner.results] == [
        ("a", "invalid_request", False),
        ("c", "invalid_request", False),
    ]
    assert roster.statuses() == []


async def test_one_step_that_cannot_be_sent_fails_alone(roster, pool, owner):
    def refuse_b(dispatches):
        return InvalidRequest("not Unicode") if any(d.dispatch_id == "b" for d in dispatches) else ((), ())

    worker = await ready(roster, pool, "z")
    roster.acknowledge("z")
    hold = asyncio.Event()
    worker.script = [hold, *[refuse_b] * 10]
    for name in "abc":
        roster.send(ADA, dispatch(name))
    hold.set()
    await until(lambda: owner.results)

    assert [(r.dispatch_id, r.failure.code) for r in owner.results] == [("b", "invalid_request")]
    await until(lambda: {"a", "c"} <= set(worker.sent))


async def test_a_busy_worker_is_not_a_reason_to_fail_a_step(roster, pool, owner):
    worker = await ready(roster, pool, "a")
    worker.script += [Busy("full", retry_after_s=0.0), Busy("full", retry_after_s=0.0)]
    roster.send(ADA, dispatch("b"))
    await until(lambda: worker.sent.count("b") == 3)

    assert owner.results == []


async def test_a_delivery_that_breaks_in_a_way_nobody_knows_goes_again(roster, pool):
    worker = await ready(roster, pool, "a")
    worker.script += [TypeError("a bug in the link")]
    roster.send(ADA, dispatch("b"))
    await until(lambda: worker.sent.count("b") == 2)


async def test_a_batch_is_bounded_in_items_and_bytes(pool, owner):
    roster = Roster(pool, owner, prefix="w", capacity={"agent": 10_000, "tool": 1})
    pool.hold = asyncio.Event()
    for number in range(BATCH_ITEMS + 10):
        roster.send(BOB, dispatch(f"n{number}"))
    for name in ("big1", "big2", "big3"):
        roster.send(ADA, dispatch(name, size=BATCH_BYTES * 2 // 3))
    roster.send(ADA, dispatch("huge", size=BATCH_BYTES * 3))
    pool.hold.set()
    await until(lambda: len(pool.made) == 2 and sum(len(worker.sent) for _, worker in pool.made) == BATCH_ITEMS + 14)
    batches = {need: worker.batches for need, worker in pool.made}
    await roster.close()

    assert max(map(len, batches[BOB])) <= BATCH_ITEMS
    assert [name for batch in batches[BOB] for name in batch] == [f"n{number}" for number in range(BATCH_ITEMS + 10)]
    assert batches[ADA] == [["big1"], ["big2"], ["big3"], ["huge"]]


async def test_the_owner_knows_of_each_delivery_before_it_leaves(roster, pool, owner):
    worker = await ready(roster, pool, "a")
    worker.script.append(lambda dispatches: ((), ()) if "b" in owner.delivered else AssertionError("too late"))
    roster.send(ADA, dispatch("b"))
    await until(lambda: "b" in worker.sent)

    assert owner.delivered == ["a", "b"]


async def test_idle_agents_are_given_back_and_busy_ones_and_tools_are_not(roster, pool):
    await ready(roster, pool, "a")
    await ready(roster, pool, "b", need=BOB)
    await ready(roster, pool, "c", need=TOOL)
    roster.acknowledge("a")
    roster.acknowledge("c")
    await calm()
    for seconds in (0, 30, 59):
        await roster.release_idle(NOW + timedelta(seconds=seconds), 60.0)
    assert pool.released == []
    await roster.release_idle(NOW + timedelta(seconds=60), 60.0)

    ada = next(worker for need, worker in pool.made if need == ADA)
    assert pool.released == [ada.name]
    assert {status.uses for status in roster.statuses()} == {"m:Bob", ""}


async def test_one_that_worked_meanwhile_is_not_idle(roster, pool):
    await ready(roster, pool, "a")
    roster.acknowledge("a")
    await calm()
    await roster.release_idle(NOW, 60.0)
    await ready(roster, pool, "b")
    roster.acknowledge("b")
    await calm()
    await roster.release_idle(NOW + timedelta(seconds=61), 60.0)

    assert pool.released == []


async def test_survivors_are_taken_over_once_and_told_apart_from_their_doubles(roster, pool):
    old, alone, third = Worker("old-1"), Worker("old-2"), Worker("old-3")
    old.holds = [Holding("d", "x-d", "s", 1)]
    pool.survive = {"old-1": (ADA, old), "old-2": (ADA, alone), "old-3": (ADA, third)}
    await roster.adopt()
    await roster.adopt()  # a takeover that failed further on is tried again
    await calm()

    assert set(pool.released) == {"old-3"}
    assert await roster.holdings() == [Holding("d", "x-d", "s", 1)]
    roster.send(ADA, dispatch("d"))
    await until(lambda: old.sent == ["d"])
    assert pool.made == []


async def test_a_survivor_that_does_not_say_what_it_holds_is_ended(roster, pool):
    old = Worker("old-1")
    old.holds = Unavailable("its loop is blocked")
    pool.survive = {"old-1": (ADA, old)}
    await roster.adopt()

    assert await roster.holdings() == []
    assert pool.released == ["old-1"]


async def test_what_a_survivor_holds_and_nobody_wants_is_cancelled(roster, pool):
    old = Worker("old-1")
    old.holds = [Holding(name, f"x-{name}", "s", 1) for name in ("wanted", "stale", "later")]
    pool.survive = {"old-1": (ADA, old)}
    await roster.adopt()
    await roster.holdings()
    roster.send(ADA, dispatch("wanted"))
    roster.revoke(["stale"])
    await until(lambda: old.cancelled == ["stale"] and old.sent == ["wanted"])
    await roster.release_idle(NOW, 0.0)
    roster.send(BOB, dispatch("later"))
    await until(lambda: old.sent == ["wanted", "later"])

    assert (pool.made, pool.released) == ([], []), "what a worker holds is fetched from it, wherever it would be sent otherwise"


async def test_who_runs_alone_has_a_worker_to_itself_one_at_a_time(roster, pool):
    first = await ready(roster, pool, "a")
    roster.send(ADA, dispatch("s1"), alone=True)
    roster.send(ADA, dispatch("s2"), alone=True)
    roster.send(ADA, dispatch("b"))
    await until(lambda: len(pool.made) == 2 and pool.made[1][1].sent and "b" in first.sent)
    lonely = pool.made[1][1]
    assert lonely.sent == ["s1"]
    roster.forget("s1")
    await until(lambda: lonely.sent == ["s1", "s2"])
    roster.forget("s2")
    await calm()
    for seconds in (0, 1):
        await roster.release_idle(NOW + timedelta(seconds=seconds), 300.0)

    assert first.sent == ["a", "b"]
    assert pool.released == [lonely.name], "it was made for an emergency, and that is over"


async def test_what_cannot_be_placed_in_time_is_told_with_what_is_missing(roster, pool, owner, monkeypatch):
    monkeypatch.setattr(module, "PLACEMENT_NOTICE_S", 0.0)
    real = asyncio.wait_for

    async def impatient(waiting, timeout):
        return await real(waiting, 0.0)

    monkeypatch.setattr(module.asyncio, "wait_for", impatient)
    pool.hold = asyncio.Event()
    roster.send(ADA, dispatch("a"))
    await until(lambda: owner.late)
    states = [(status.state, status.reason) for status in roster.statuses()]
    monkeypatch.setattr(module.asyncio, "wait_for", real)
    pool.hold.set()
    await until(lambda: pool.made and pool.made[0][1].sent == ["a"])

    assert owner.late == [("a", "needs 4 CPUs")]
    assert states == [("waiting_for_resources", "needs 4 CPUs")]
    assert [status.reason for status in roster.statuses()] == [""]
