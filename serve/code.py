"""Which application code a new execution is pinned to: the hash of the folder as it is now, asked at most twice a second."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from agentflow.engine.tool_source import CodeHash

BELIEVE_S = 0.5


class PinnedCode:
    """One application folder; every tenant runs the code of the cluster it is on. One walk at a time, off the event loop."""

    def __init__(self, app_dir: Path) -> None:
        self._hash = CodeHash(app_dir)
        self._known = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self, tenant_id: str) -> str:
        """The hash. Raises InvalidRequest when the folder has too many files."""
        if time.monotonic() < self._until:
            return self._known
        async with self._lock:
            if time.monotonic() >= self._until:
                self._known = await asyncio.to_thread(self._hash.now)
                self._until = time.monotonic() + BELIEVE_S
            return self._known
