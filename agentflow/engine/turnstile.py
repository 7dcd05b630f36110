"""Lets a fixed number in at a time: first the urgent in their order, then the others in theirs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turnstile:
    """Like a semaphore with two queues. For one event loop."""

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"a turnstile needs at least one place, not {places}")
        self._free = places
        self._places = places
        self._queues: tuple[deque[asyncio.Future[None]], deque[asyncio.Future[None]]] = (deque(), deque())

    @property
    def free(self) -> int:
        return self._free

    @property
    def inside(self) -> int:
        return self._places - self._free

    @property
    def waiting(self) -> int:
        return sum(not waiter.done() for queue in self._queues for waiter in queue)

    @asynccontextmanager
    async def pass_through(self, *, urgent: bool = False) -> AsyncIterator[None]:
        await self._enter(urgent)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgent: bool) -> None:
        if self._free and not self.waiting:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[not urgent].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave()  # the place was given to us just now: pass it on
            raise

    def _leave(self) -> None:
        for queue in self._queues:
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self._free += 1
