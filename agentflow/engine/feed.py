"""The change feed: which executions have committed something new. A bounded ring that readers follow by cursor."""

from __future__ import annotations

import asyncio
from collections import deque

from agentflow.domain.command import Change, Changes

FEED_LINES = 20_000
"""A reader that falls further behind is told to look everything up (`resync`)."""
PAGE_LINES = 2_000


class Feed:
    """Single writer, many readers, one loop. `epoch` tells a restarted supervisor's cursors from the old ones."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._lines: deque[Change] = deque(maxlen=FEED_LINES)
        self._end = 0
        self._news = asyncio.Event()

    def add(self, change: Change) -> None:
        self._lines.append(change)
        self._end += 1
        self._news.set()

    async def read(self, cursor: str, *, wait_s: float) -> Changes:
        """What came after `cursor`; waits for something up to `wait_s`. An unknown cursor reads from now on, with `resync`."""
        epoch, _, index = cursor.rpartition(":")
        start = self._end - len(self._lines)
        if epoch != self._epoch or not (index.isascii() and index.isdigit()) or not start <= int(index) <= self._end:
            return Changes(f"{self._epoch}:{self._end}", (), resync=bool(cursor))
        position = int(index)
        if position == self._end:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                return Changes(cursor, ())
        start = self._end - len(self._lines)
        if position < start:
            return Changes(f"{self._epoch}:{self._end}", (), resync=True)
        page = tuple(self._lines[i] for i in range(position - start, min(position - start + PAGE_LINES, len(self._lines))))
        return Changes(f"{self._epoch}:{position + len(page)}", page)
