"""One event loop for an actor: Ray gives each concurrency group a loop of its own, and our objects live in one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from agentflow.errors import Unavailable

T = TypeVar("T")


class Home:
    """The loop that the actor's objects live in: that of its default group, where `settle` is called first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def settle(self) -> bool:
        """Make the running loop the home; False when there is one already (`start` may be called more than once)."""
        if self._loop is not None:
            return False
        self._loop = asyncio.get_running_loop()
        return True

    @property
    def settled(self) -> bool:
        return self._loop is not None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` in the home loop, from whichever loop this is called in. Raises Unavailable before `settle`."""
        if self._loop is None:
            work.close()
            raise Unavailable(f"{self._name} is starting")
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
