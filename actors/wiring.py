"""The composition root: what each actor is made of. Plain classes come in, adapters are chosen here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.postgres import PostgresStore
from agentflow.adapters.runsc import RunscLauncher, build_rootfs
from agentflow.adapters.subprocess_unsafe import SubprocessLauncher
from agentflow.domain.sandbox import Isolation, SandboxCapabilities
from agentflow.engine.decide import Limits
from agentflow.engine.sandbox_pool import SandboxPool
from agentflow.engine.tool_runner import SandboxRun, ToolRunner
from agentflow.engine.tool_source import ToolSource
from agentflow.settings import Settings

logger = logging.getLogger(__name__)

NAMESPACE = "agentflow"
TENANT = "default"


@dataclass(frozen=True, slots=True)
class ActorConfig:
    """What actors need of the settings. Travels as constructor arguments, never in a runtime_env: Ray shows those to everybody."""

    database_url: str = field(repr=False)
    app_dir: str
    state_dir: str
    """Of this node: root filesystems, bundles."""
    warm_agents: int = 1
    sandbox_pool_size: int = 2
    sandbox_queue_limit: int = 256
    agent_mailbox_limit: int = 1_024
    agent_idle_s: float = 300.0
    execution_event_limit: int = 50_000
    step_crash_limit: int = 3
    output_limit_bytes: int = 16 << 20
    unsafe_subprocess_tools: bool = False
    log_level: str = "INFO"

    @staticmethod
    def of(settings: Settings, app_dir: Path, *, database_url: str | None = None) -> ActorConfig:
        """What the settings say, with the embedded PostgreSQL's URL when neither they nor the caller name one."""
        named = settings.database_url.get_secret_value() if settings.database_url else ""
        url = database_url or named or EmbeddedPostgres(settings.home).url
        return ActorConfig(
            database_url=url,
            app_dir=str(app_dir.absolute()),
            state_dir=str(settings.home / "node"),
            warm_agents=settings.warm_agents,
            sandbox_pool_size=settings.sandbox_pool_size,
            sandbox_queue_limit=settings.sandbox_queue_limit,
            agent_mailbox_limit=settings.agent_mailbox_limit,
            agent_idle_s=settings.agent_idle_s,
            execution_event_limit=settings.execution_event_limit,
            step_crash_limit=settings.step_crash_limit,
            output_limit_bytes=settings.output_limit_bytes,
            unsafe_subprocess_tools=settings.unsafe_subprocess_tools,
            log_level=settings.log_level,
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.execution_event_limit, self.step_crash_limit, self.output_limit_bytes)

    @property
    def tool_capacity(self) -> int:
        """Tool calls that a tool actor holds at once, queue included; the supervisor holds the rest."""
        return max(4, self.sandbox_queue_limit)

    def as_mapping(self) -> dict[str, Any]:
        return asdict(self)


def store_of(config: ActorConfig) -> PostgresStore:
    """Connects when it is first used."""
    return PostgresStore(config.database_url)


class Sandboxes:
    """What this node can isolate with: probed once, pooled. `close` ends every sandbox."""

    def __init__(self, config: ActorConfig) -> None:
        self._config = config
        self._pools: dict[Isolation, SandboxPool] = {}
        self._launchers: list[RunscLauncher | SubprocessLauncher] = []
        self.capabilities: list[SandboxCapabilities] = []

    async def open(self) -> Mapping[Isolation, SandboxRun]:
        """Find out what works here and fill the pools. What does not work is left out, with its reason in `capabilities`."""
        if self._config.unsafe_subprocess_tools:
            logger.warning("unsafe_subprocess_tools is on: tools run WITHOUT ISOLATION, as plain processes of this user")
            await self._add(Isolation.SUBPROCESS, SubprocessLauncher(Path(self._config.state_dir)))
        else:
            await self._add_runsc()
        return {isolation: pool.call for isolation, pool in self._pools.items()}

    async def _add_runsc(self) -> None:
        state_dir = Path(self._config.state_dir)
        try:
            rootfs = await asyncio.to_thread(build_rootfs, state_dir)
        except Exception as error:
            logger.exception("the sandboxes' root filesystem could not be built")
            self.capabilities.append(SandboxCapabilities("runsc", False, f"no root filesystem: {error}"))
            return
        await self._add(Isolation.GVISOR, RunscLauncher(state_dir, rootfs))

    async def _add(self, isolation: Isolation, launcher: RunscLauncher | SubprocessLauncher) -> None:
        self._launchers.append(launcher)
        removed = await launcher.clean_up()
        if removed:
            logger.warning("%d sandboxes of an earlier process were ended", removed)
        found = await launcher.probe()
        self.capabilities.append(found)
        if not found.available:
            logger.error("no %s sandboxes on this node: %s", isolation.value, found.reason)
            return
        size, queue = self._config.sandbox_pool_size, self._config.sandbox_queue_limit
        pool = self._pools[isolation] = SandboxPool(launcher, size=size, max_queue=queue)
        pool.start()

    async def close(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()), return_exceptions=True)
        await asyncio.gather(*(launcher.close() for launcher in self._launchers), return_exceptions=True)


def tool_runner_of(config: ActorConfig, sandboxes: Mapping[Isolation, SandboxRun]) -> ToolRunner:
    return ToolRunner(ToolSource(Path(config.app_dir)), sandboxes, unsafe_subprocess=config.unsafe_subprocess_tools)


def end_process() -> None:
    """A fenced supervisor ends so: Ray restarts after an exit like this, and only after one like this (design 6)."""
    os._exit(1)
