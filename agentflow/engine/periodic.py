"""One loop for everything that happens every so often; tests call `tick` themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agentflow.errors import Unavailable

logger = logging.getLogger(__name__)


class Periodic:
    """Runs `tick` every `every_s` seconds, counted from its end. A tick that fails is logged and the loop goes on."""

    def __init__(self, name: str, tick: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        self._name, self._tick, self._every_s = name, tick, every_s

    async def run(self) -> None:
        while True:
            try:
                await self._tick()
            except Unavailable as error:
                logger.info("%s: %s", self._name, error)
            except Exception:
                logger.exception("%s failed; it goes on", self._name)
            await asyncio.sleep(self._every_s)
