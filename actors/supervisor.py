"""The supervisor's actor: bytes in, bytes out, around `engine.supervisor`. A plain class; `remote.py` makes it a Ray actor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import generate_latest

from agentflow.actors.catalogue import scan
from agentflow.actors.home import Home
from agentflow.actors.metrics import SupervisorMetrics
from agentflow.actors.wiring import TENANT, ActorConfig, end_process, store_of
from agentflow.engine import wire
from agentflow.engine.periodic import Periodic
from agentflow.engine.rules import StoredRules
from agentflow.engine.supervisor import Supervisor
from agentflow.engine.tool_source import CodeHash
from agentflow.errors import InvalidRequest, Unavailable
from agentflow.ids import SHARD_COUNT
from agentflow.ports import WorkerPool
from agentflow.telemetry.logs import log_as_json

logger = logging.getLogger(__name__)

CATALOGUE_TICK_S = 15.0
MAINTENANCE_TICK_S = 6 * 3600.0


class BackgroundPool(WorkerPool, Protocol):
    """A pool with work of its own."""

    async def keep_warm(self) -> None:
        """Runs for ever."""


class SupervisorActor:
    """Holds all shards (M = 1). Its constructor does nothing that can fail; `start` connects with back-off."""

    def __init__(self, config: dict[str, Any], name: str, make_pool: Callable[[ActorConfig, str], BackgroundPool]) -> None:
        """`make_pool`: what makes worker actors, which only `remote.py` knows how to."""
        self._config, self._name = ActorConfig(**config), name
        self._make_pool = partial(make_pool, self._config, name)
        self._home = Home(f"supervisor {name}")
        self._supervisor: Supervisor | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._scanned = ""

    async def start(self) -> None:
        """Begin to serve; returns at once. Called by the actor itself whenever Ray (re)starts it."""
        if not self._home.settle():
            return
        log_as_json(self._config.log_level, process=f"supervisor-{self._name}")
        self._store = store_of(self._config)
        self._metrics = SupervisorMetrics(self._name)
        pool = self._make_pool()
        self._supervisor = Supervisor(
            self._name,
            shards=range(SHARD_COUNT),
            journal=self._store.journal,
            pool=pool,
            rules=StoredRules(self._store.workflows, self._config.limits),
            capacity={"agent": self._config.agent_mailbox_limit, "tool": self._config.tool_capacity},
            on_fenced=end_process,
            observer=self._metrics.observe,
            idle_s=self._config.agent_idle_s,
        )
        self._code_hash = CodeHash(Path(self._config.app_dir))
        work = [
            self._supervise(),
            pool.keep_warm(),
            Periodic("catalogue", self._tick_catalogue, every_s=CATALOGUE_TICK_S).run(),
            Periodic("partitions", self._tick_partitions, every_s=MAINTENANCE_TICK_S).run(),
        ]
        self._tasks = [asyncio.create_task(coroutine) for coroutine in work]

    async def _supervise(self) -> None:
        """A supervisor whose loops end by an error is a dead one: the process goes, Ray starts another, nothing is lost."""
        assert self._supervisor is not None
        try:
            await self._supervisor.run()
        except asyncio.CancelledError:
            raise
        except BaseException:
            logger.critical("the supervisor failed; its process ends and is started again", exc_info=True)
            end_process()

    async def _tick_catalogue(self) -> None:
        """Look at the application folder again when its code has changed."""
        code_hash = await asyncio.to_thread(self._code_hash.now)
        if code_hash == self._scanned:
            return
        try:
            entries = await scan(Path(self._config.app_dir), code_hash)
        except InvalidRequest as error:
            logger.warning("the application folder cannot be read: %s", error)
            return
        await self._store.catalogue.replace(TENANT, entries)
        self._scanned = code_hash

    async def _tick_partitions(self) -> None:
        await self._store.make_partitions()

    # ------------------------------------------------------------------ default group

    async def submit(self, body: bytes) -> bytes:
        return wire.encode_replies(await self._running().submit(wire.decode_submit(body)))

    async def report(self, body: bytes) -> bytes:
        return wire.encode_names(await self._running().report(*wire.decode_report(body)))

    # ------------------------------------------------------------------ groups `wait` and `control`

    async def changes(self, cursor: str, wait_s: float) -> bytes:
        return await self._home.run(self._changes(cursor, wait_s))

    async def _changes(self, cursor: str, wait_s: float) -> bytes:
        return wire.encode_changes(await self._running().changes(cursor, wait_s))

    async def status(self) -> bytes:
        return await self._home.run(self._status())

    async def _status(self) -> bytes:
        return wire.encode_status(await self._running().status())

    async def metrics(self) -> bytes:
        return await self._home.run(self._exposition())

    async def _exposition(self) -> bytes:
        self._metrics.gauge(await self._running().status())
        return generate_latest(self._metrics.registry)

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise Unavailable(f"supervisor {self._name} is starting")
        return self._supervisor
