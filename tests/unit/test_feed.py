"""The change feed: who reads what by which cursor, and who is told to look everything up."""

from __future__ import annotations

import asyncio

import pytest

from agentflow.domain.command import Change, Changes
from agentflow.engine.feed import FEED_LINES, PAGE_LINES, Feed


def change(number):
    return Change(f"x{number}", number, "running")


def filled(count):
    feed = Feed("e1")
    for number in range(count):
        feed.add(change(number))
    return feed


async def read(feed, cursor, wait_s=5.0):
    return await asyncio.wait_for(feed.read(cursor, wait_s=wait_s), 5)


async def test_an_empty_cursor_reads_from_now_on_and_misses_nothing_after():
    feed = filled(3)
    now = await read(feed, "")
    assert now == Changes("e1:3", ())
    feed.add(change(3))

    assert await read(feed, now.cursor) == Changes("e1:4", (change(3),))


@pytest.mark.parametrize("cursor", ["old:1", "e1:4", "e1:-1", "e1:", "e1", ":1", "e1:x", "e1:1.0", "e1:²", "e1:٣", "nonsense"])
async def test_a_cursor_that_says_nothing_here_is_told_to_look_everything_up(cursor):
    assert await read(filled(3), cursor) == Changes("e1:3", (), resync=True)


async def test_who_fell_behind_the_ring_is_told_to_look_everything_up():
    feed = filled(FEED_LINES + 5)

    assert (await read(feed, "e1:4")).resync
    kept = await read(feed, "e1:5")
    assert (kept.resync, kept.changes[0], len(kept.changes)) == (False, change(5), PAGE_LINES)


async def test_pages_follow_each_other_without_a_gap():
    count = 2 * PAGE_LINES + 7
    feed, cursor, seen = filled(count), "e1:0", []
    while len(seen) < count:
        page = await read(feed, cursor)
        assert page.changes and not page.resync
        seen += page.changes
        cursor = page.cursor

    assert seen == [change(number) for number in range(count)]


async def test_who_waits_is_woken_by_the_next_change_and_so_is_everybody_else():
    feed = filled(1)
    readers = [asyncio.create_task(read(feed, "e1:1")) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    feed.add(change(1))

    assert await asyncio.gather(*readers) == [Changes("e1:2", (change(1),))] * 5


async def test_a_reader_that_comes_back_at_once_does_not_take_the_news_from_another():
    feed = filled(0)
    slow = asyncio.create_task(read(feed, "e1:0"))
    await asyncio.sleep(0)
    feed.add(change(0))
    quick = await read(feed, "e1:0")
    again = asyncio.create_task(read(feed, quick.cursor))
    await asyncio.sleep(0)

    assert (await slow).changes == (change(0),)
    feed.add(change(1))
    assert (await again).changes == (change(1),)


async def test_without_news_the_wait_ends_with_the_same_cursor():
    assert await read(filled(2), "e1:2", wait_s=0.0) == Changes("e1:2", ())


async def test_a_ring_that_runs_over_while_one_waits_says_so():
    feed = filled(0)
    waiting = asyncio.create_task(read(feed, "e1:0"))
    await asyncio.sleep(0)
    for number in range(FEED_LINES + 1):
        feed.add(change(number))

    assert (await waiting).resync
