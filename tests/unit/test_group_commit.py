"""Group commit: what goes out together, and what becomes of a batch whose fate is bad or unknown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from agentflow.domain import event as ev
from agentflow.engine import group_commit as module
from agentflow.engine.group_commit import BYTES_A_COMMIT, EVENTS_A_COMMIT, GroupCommit
from agentflow.errors import CommitUnknown, Fenced, StoreUnavailable
from agentflow.ports import Append, Rejected, SessionWrite

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@dataclass
class Entry:
    name: str
    append: Append
    dropped: bool = False


def entry(name, *, events=1, value=b"1", session=None):
    made = [ev.StepCompleted("a", 1, NOW, value) for _ in range(events)]
    return Entry(name, Append(name, "t", 2, NOW, made, session=session))


class Journal:
    """Answers each append from the script: a list of Rejected, an error, or an event to wait for first."""

    def __init__(self, *script):
        self.script, self.batches, self.tokens = list(script), [], []

    async def append(self, tokens, batch):
        self.batches.append([append.execution_id for append in batch])
        self.tokens.append(dict(tokens))
        answer = self.script.pop(0) if self.script else ()
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self.script.pop(0) if self.script else ()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Owner:
    def __init__(self, settles=None):
        self.log = []
        self.settles = settles

    def committed(self, entries, rejected):
        self.log.append(("committed", [e.name for e in entries], sorted(rejected)))

    async def settle(self):
        self.log.append(("settle",))
        if self.settles is not None:
            raise self.settles

    def lost(self, entries, error):
        self.log.append(("lost", [e.name for e in entries]))

    def fenced(self):
        self.log.append(("fenced",))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(module, "RETRY_MAX_S", 0.0)


class Running:
    def __init__(self, *script, owner=None, tokens=lambda: {0: 1}):
        self.journal, self.owner = Journal(*script), owner or Owner()
        self.commits = GroupCommit(self.journal, self.owner, tokens)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.commits.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def done(*futures):
    return await asyncio.wait_for(asyncio.gather(*futures), 5)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_what_comes_while_a_commit_is_under_way_goes_out_together_in_the_next():
    hold = asyncio.Event()
    async with Running(hold) as it:
        first = it.commits.add(entry("a"))
        await until(lambda: it.journal.batches)
        rest = [it.commits.add(entry(name)) for name in "bcd"]
        assert not first.done()
        hold.set()
        assert await done(first, *rest) == [True] * 4

    assert it.journal.batches == [["a"], ["b", "c", "d"]]
    assert it.owner.log == [("committed", ["a"], []), ("committed", ["b", "c", "d"], [])]


async def test_the_owner_is_told_before_those_who_wait():
    class Order(Owner):
        def committed(self, entries, rejected):
            super().committed(entries, rejected)
            order.append("owner")

    order = []
    async with Running(owner=Order()) as it:
        future = it.commits.add(entry("a"))
        future.add_done_callback(lambda _: order.append("waiter"))
        await done(future)

    assert order == ["owner", "waiter"]


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        ({"events": EVENTS_A_COMMIT}, 3),
        ({"events": EVENTS_A_COMMIT // 2}, 2),
        ({"value": b"x" * BYTES_A_COMMIT}, 3),
        ({"session": SessionWrite("a", "s", 1, b"x" * BYTES_A_COMMIT)}, 3),
        ({}, 1),
    ],
)
async def test_a_batch_is_bounded_in_events_and_bytes_and_nothing_is_reordered(size, batches):
    hold = asyncio.Event()
    async with Running(hold) as it:
        first = it.commits.add(entry("first"))
        await until(lambda: it.journal.batches)
        rest = [it.commits.add(entry(name, **size)) for name in "abc"]
        hold.set()
        await done(first, *rest)

    assert len(it.journal.batches) == batches + 1
    assert [name for batch in it.journal.batches[1:] for name in batch] == ["a", "b", "c"]


async def test_a_store_that_is_away_gets_the_same_batch_again_and_nothing_is_added_to_it():
    hold = asyncio.Event()
    async with Running(hold, StoreUnavailable("away"), StoreUnavailable("away")) as it:
        first = it.commits.add(entry("a"))
        await until(lambda: it.journal.batches)
        second = it.commits.add(entry("b"))
        hold.set()
        assert await done(first, second) == [True, True]

    assert it.journal.batches == [["a"], ["a"], ["a"], ["b"]]
    assert it.commits.unreachable_since == ""


async def test_while_the_store_is_away_it_says_so():
    async with Running(*[StoreUnavailable("connection refused")] * 50) as it:
        future = it.commits.add(entry("a"))
        await until(lambda: it.commits.unreachable_since)
        assert "connection refused" in it.commits.unreachable_since
        it.journal.script.clear()
        await done(future)
        assert it.commits.unreachable_since == ""


async def test_what_was_dropped_while_the_store_was_away_is_not_written():
    kept, dropped = entry("a"), entry("b")

    class Dropping(Journal):
        async def append(self, tokens, batch):
            dropped.dropped = True
            return await super().append(tokens, batch)

    it = Running()
    it.commits = GroupCommit(Dropping(StoreUnavailable("away")), it.owner, dict)
    async with it:
        await done(it.commits.add(kept), it.commits.add(dropped))

    assert it.owner.log == [("committed", ["a"], [])]


async def test_an_unknown_outcome_is_settled_and_then_lost_and_never_repeated():
    async with Running(CommitUnknown("connection lost")) as it:
        assert await done(it.commits.add(entry("a")), it.commits.add(entry("b"))) == [False, False]
        assert await done(it.commits.add(entry("c"))) == [True]

    assert it.journal.batches == [["a", "b"], ["c"]]
    assert it.owner.log == [("settle",), ("lost", ["a", "b"]), ("committed", ["c"], [])]


async def test_the_batch_after_an_unknown_outcome_goes_with_the_new_tokens():
    tokens = {0: 1}

    class Renews(Owner):
        async def settle(self):
            tokens[0] = 2

    async with Running(CommitUnknown("lost"), owner=Renews(), tokens=lambda: tokens) as it:
        await done(it.commits.add(entry("a")))
        await done(it.commits.add(entry("b")))

    assert it.journal.tokens == [{0: 1}, {0: 2}]


async def test_who_finds_itself_fenced_while_it_settles_ends():
    async with Running(CommitUnknown("lost"), owner=Owner(Fenced("other"))) as it:
        assert await done(it.commits.add(entry("a"))) == [False]
        await asyncio.wait_for(it.task, 5)

    assert it.owner.log == [("settle",), ("fenced",)]


async def test_fenced_it_ends_and_writes_nothing_more():
    hold = asyncio.Event()
    async with Running(hold, Fenced("other")) as it:
        first = it.commits.add(entry("a"))
        await until(lambda: it.journal.batches)
        second = it.commits.add(entry("b"))
        hold.set()
        assert await done(first, second) == [False, False]
        await asyncio.wait_for(it.task, 5)
        assert await done(it.commits.add(entry("c"))) == [False]

    assert it.journal.batches == [["a"]]
    assert it.owner.log == [("fenced",)]


async def test_what_was_refused_is_told_by_its_place():
    async with Running([Rejected(1, "exists")]) as it:
        await done(it.commits.add(entry("a")), it.commits.add(entry("b")))

    assert it.owner.log == [("committed", ["a", "b"], [1])]


async def test_ended_from_outside_it_leaves_nobody_waiting():
    hold = asyncio.Event()
    async with Running(hold) as it:
        under_way = it.commits.add(entry("a"))
        await until(lambda: it.journal.batches)
        queued = it.commits.add(entry("b"))

    assert await done(under_way, queued) == [False, False]
    assert it.owner.log == []
