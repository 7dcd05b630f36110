"""The command queue and the change feed on their own: batching, bounds, restarts, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentflow.domain.command import Change, Changes, Command, Reply, Start
from agentflow.errors import Forbidden, StoreUnavailable, Unavailable
from agentflow.serve.app import build_app
from agentflow.serve.commands import BATCH_BYTES, BATCH_ITEMS, CommandQueue
from agentflow.serve.feed import ChangeFeed


def start(name: str, size: int = 2) -> Start:
    return Start(name, "acme", "ada", "w", "1", b"x" * size, "")


class Link:
    """A supervisor link whose calls a test holds, fails and counts."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[BaseException] = []
        self.poison: str | None = None

    async def submit(self, commands: Sequence[Command]) -> Sequence[Reply]:
        self.batches.append([command.execution_id for command in commands])
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.poison in self.batches[-1]:
            raise ValueError("cannot be pickled")
        return [Reply(command.execution_id, "running") for command in commands]


@asynccontextmanager
async def running(link: Any, **options: Any) -> AsyncIterator[CommandQueue]:
    queue = CommandQueue(link, **{"limit": 10_000, "deadline_s": 20.0, **options})
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def turn(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_what_comes_during_a_call_goes_in_the_next_one_in_order() -> None:
    link = Link()
    link.gate.clear()
    async with running(link) as queue:
        tasks = [asyncio.create_task(queue.submit(start("0")))]
        await turn()
        tasks += [asyncio.create_task(queue.submit(start(str(n)))) for n in range(1, 101)]
        await turn()
        assert link.batches == [["0"]]
        link.gate.set()
        replies = await asyncio.gather(*tasks)
    assert link.batches == [["0"], [str(n) for n in range(1, 101)]]
    assert [reply.execution_id for reply in replies] == [str(n) for n in range(101)]


async def test_a_batch_ends_by_count_and_by_size_but_takes_one_that_is_larger() -> None:
    link = Link()
    link.gate.clear()
    async with running(link) as queue:
        tasks = [asyncio.create_task(queue.submit(start("first")))]
        await turn()
        tasks += [asyncio.create_task(queue.submit(start(f"a{n}", 30_000))) for n in range(5)]
        tasks += [asyncio.create_task(queue.submit(start("huge", BATCH_BYTES * 5)))]
        tasks += [asyncio.create_task(queue.submit(start(f"b{n}", 0))) for n in range(300)]
        await turn()
        link.gate.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in link.batches[:5]] == [1, 2, 2, 1, 1]
    assert max(len(batch) for batch in link.batches) <= BATCH_ITEMS
    assert sum(len(batch) for batch in link.batches) == 307


async def test_a_caller_that_goes_away_before_its_command_is_sent_takes_it_back() -> None:
    link = Link()
    link.gate.clear()
    async with running(link) as queue:
        first = asyncio.create_task(queue.submit(start("0")))
        await turn()
        gone, stays = asyncio.create_task(queue.submit(start("gone"))), asyncio.create_task(queue.submit(start("stays")))
        await turn()
        gone.cancel()
        await turn()
        link.gate.set()
        await asyncio.gather(first, stays)
    assert link.batches == [["0"], ["stays"]]


async def test_one_command_that_cannot_be_sent_does_not_take_the_others_with_it() -> None:
    link = Link()
    link.poison = "bad"
    link.gate.clear()
    async with running(link) as queue:
        first = asyncio.create_task(queue.submit(start("0")))
        await turn()
        tasks = [asyncio.create_task(queue.submit(start(name))) for name in ("a", "bad", "b")]
        await turn()
        link.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["Reply", "Reply", "ValueError", "Reply"]


async def test_an_error_of_ours_that_is_no_outage_goes_to_the_caller_at_once() -> None:
    link = Link()
    link.errors = [Forbidden("no")]
    async with running(link) as queue:
        with pytest.raises(Forbidden):
            await queue.submit(start("0"))
    assert len(link.batches) == 1


async def test_a_call_that_hangs_is_made_again() -> None:
    link = Link()
    link.gate.clear()
    async with running(link, call_timeout_s=0.05) as queue:
        task = asyncio.create_task(queue.submit(start("0")))
        async with asyncio.timeout(20):
            while len(link.batches) < 2:
                await asyncio.sleep(0.01)
        link.gate.set()
        assert (await task).status == "running"


@pytest.mark.parametrize("error", [StoreUnavailable("no store"), Unavailable("no supervisor")])
async def test_behind_the_deadline_the_caller_is_told_what_is_away(error: Exception) -> None:
    link = Link()
    link.errors = [error] * 100
    async with running(link, deadline_s=0.05) as queue:
        with pytest.raises(type(error), match="Nothing is lost"):
            await queue.submit(start("0"))


async def test_when_the_replica_stops_nobody_hangs() -> None:
    link = Link()
    link.gate.clear()
    async with running(link) as queue:
        tasks = [asyncio.create_task(queue.submit(start("0")))]
        await turn()
        tasks.append(asyncio.create_task(queue.submit(start("1"))))
        await turn()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]


# ------------------------------------------------------------------------------------------------- feed


class Pages:
    """A link that gives what a test puts in, one page or error a call."""

    def __init__(self) -> None:
        self.next: asyncio.Queue[Changes | Exception] = asyncio.Queue()
        self.asked: list[str] = []

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        self.asked.append(cursor)
        page = await self.next.get()
        if isinstance(page, Exception):
            raise page
        return page


@asynccontextmanager
async def feeding(link: Pages) -> AsyncIterator[ChangeFeed]:
    feed = ChangeFeed(link)  # type: ignore[arg-type]
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_change_wakes_its_own_waiters_only() -> None:
    link = Pages()
    async with feeding(link) as feed:
        with feed.subscribe("a") as mine, feed.subscribe("a") as too, feed.subscribe("b") as other:
            link.next.put_nowait(Changes("c1", ()))
            assert await mine.wait(20) and await too.wait(20) and await other.wait(20)  # the first page of a life wakes all
            mine.end_likely = too.end_likely = other.end_likely = False
            link.next.put_nowait(Changes("c2", (Change("a", 1, "running"),)))
            assert await mine.wait(20) and await too.wait(20)
            assert not mine.end_likely and not await other.wait(0.01)
            link.next.put_nowait(Changes("c3", (Change("a", 2, "completed"), Change("nobody", 1, "failed"))))
            assert await mine.wait(20) and mine.end_likely
        assert feed.waiting == 0
        assert link.asked == ["", "c1", "c2", "c3"]


async def test_a_resync_wakes_everybody() -> None:
    link = Pages()
    async with feeding(link) as feed:
        with feed.subscribe("a") as one, feed.subscribe("b") as two:
            link.next.put_nowait(Changes("c1", ()))
            assert await one.wait(20) and await two.wait(20)
            link.next.put_nowait(Changes("d1", (), resync=True))
            assert await one.wait(20) and await two.wait(20) and one.end_likely and two.end_likely


@pytest.mark.parametrize("error", [Unavailable("restarting"), TimeoutError()])
async def test_after_an_error_the_feed_goes_on_from_its_cursor(error: Exception) -> None:
    link = Pages()
    async with feeding(link) as feed:
        with feed.subscribe("a") as mine:
            link.next.put_nowait(Changes("c1", ()))
            assert await mine.wait(20)
            link.next.put_nowait(error)
            link.next.put_nowait(Changes("c2", (Change("a", 1, "completed"),)))
            assert await mine.wait(20)
    assert link.asked[:3] == ["", "c1", "c1"]


async def test_the_application_stops_although_a_link_drops_a_cancellation(make_world: Any) -> None:
    class Dropping(Pages):
        async def changes(self, cursor: str, wait_s: float) -> Changes:
            self.asked.append(cursor)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(self.asked) > 1:
                    raise
            return Changes("c1", ())

    link = Dropping()
    world = await make_world()
    app = build_app(replace(world.services, supervisor=link))
    async with asyncio.timeout(20):
        async with app.router.lifespan_context(app):
            while not link.asked:
                await asyncio.sleep(0)
    assert link.asked == ["", "c1"]
