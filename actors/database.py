"""Keeps the embedded PostgreSQL of the head node alive: starts it again, with back-off, when it died."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from agentflow.actors.home import Home
from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.errors import Unavailable

logger = logging.getLogger(__name__)

CHECK_S = 0.5
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the n-th try in a row; the last one from then on."""
STEADY_S = 60.0
"""A server that ran this long was healthy: the next try begins with the first delay again."""


class DatabaseKeeper:
    """One loop for ever. `down` ends this actor before it stops PostgreSQL, so nothing here knows about stopping."""

    def __init__(self, home: str, *, check_s: float = CHECK_S) -> None:
        self._postgres = EmbeddedPostgres(Path(home))
        self._check_s = check_s
        self._home = Home("the database keeper")
        self._task: asyncio.Task[None] | None = None
        self._tries = 0
        self._running_since: float | None = None
        self.restarts = 0

    async def start(self) -> None:
        """Begin to look after it; returns at once."""
        if self._home.settle():
            self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                await self.tick(asyncio.get_running_loop().time())
            except Exception:  # the top of this actor: it must go on whatever happens
                logger.exception("looking after PostgreSQL failed; trying again")
            await asyncio.sleep(self._check_s)

    async def restart_count(self) -> int:
        return self.restarts

    async def tick(self, now_s: float) -> None:
        """Look once; start PostgreSQL when it is dead. `now_s`: a monotonic clock."""
        if await asyncio.to_thread(self._postgres.is_running):
            if self._running_since is None:
                self._running_since = now_s
            elif now_s - self._running_since > STEADY_S:
                self._tries = 0
            return
        self._running_since = None
        delay_s = BACKOFF_S[min(self._tries, len(BACKOFF_S) - 1)]
        self._tries += 1
        logger.warning("PostgreSQL does not run; starting it in %.1f s (try %d)", delay_s, self._tries)
        await asyncio.sleep(delay_s)
        try:
            await asyncio.to_thread(self._postgres.start)
        except Unavailable as error:
            logger.error("%s", error)
            return
        self.restarts += 1
        logger.warning("PostgreSQL runs again")
