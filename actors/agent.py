"""An agent's actor: generic until it is activated, then one agent of one tenant and code hash for life."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from agentflow.actors.home import Home
from agentflow.actors.links import RaySupervisorLink, RayToolCaller
from agentflow.actors.wiring import ActorConfig, store_of
from agentflow.engine import wire
from agentflow.engine.agent_runner import AgentRunner
from agentflow.engine.load_agent import load_agent
from agentflow.engine.mailbox import Mailbox
from agentflow.errors import InvalidRequest, Unavailable
from agentflow.ports import WorkerNeed
from agentflow.telemetry.logs import log_as_json

logger = logging.getLogger(__name__)


class AgentActor:
    """A plain class; `remote.py` makes it a Ray actor. `max_restarts=0`: its supervisor replaces it."""

    def __init__(self, config: dict[str, Any], name: str, supervisor: str) -> None:
        self._config, self._name, self._supervisor = ActorConfig(**config), name, supervisor
        self._home = Home(f"agent actor {name}")
        self._mailbox: Mailbox | None = None
        self._need = WorkerNeed("")

    async def start(self) -> None:
        if self._home.settle():
            log_as_json(self._config.log_level, process=self._name)

    async def activate(self, need: bytes) -> None:
        """Become an agent. Raises InvalidRequest when its code cannot be imported, or when it is another already."""
        wanted = wire.decode_need(need)
        if self._mailbox is not None:
            if wanted != self._need:
                raise InvalidRequest(f"actor {self._name} is {self._need.uses} for life, it cannot become {wanted.uses}")
            return
        agent = load_agent(wanted.uses, app_dir=Path(self._config.app_dir))
        runner = AgentRunner(agent, sessions=store_of(self._config).sessions, tools=RayToolCaller())
        link = RaySupervisorLink(self._supervisor)
        self._need = wanted
        self._mailbox = Mailbox(self._name, runner, link.report, limit=self._config.agent_mailbox_limit)
        logger.info("actor %s is agent %s", self._name, wanted.uses, extra={"uses": wanted.uses, "tenant_id": wanted.tenant_id})

    async def deliver(self, body: bytes) -> bytes:
        return wire.encode_delivered(*await self._active().deliver(*wire.decode_deliver(body)))

    # ------------------------------------------------------------------ group `control`

    async def cancel(self, dispatch_ids: bytes) -> None:
        await self._home.run(self._cancel(wire.decode_names(dispatch_ids)))

    async def _cancel(self, dispatch_ids: list[str]) -> None:
        self._active().cancel(dispatch_ids)

    async def holding(self) -> bytes:
        return await self._home.run(self._holding())

    async def _holding(self) -> bytes:
        return wire.encode_holdings(self._mailbox.holding() if self._mailbox is not None else ())

    async def need(self) -> bytes:
        """What it is; a need of kind "" while it is generic."""
        return wire.encode_need(self._need)

    # ------------------------------------------------------------------ group `wait`

    async def live(self) -> None:
        """Never returns: whoever waits for it learns of this process's end at once."""
        await asyncio.Event().wait()

    def _active(self) -> Mailbox:
        if self._mailbox is None:
            raise Unavailable(f"actor {self._name} is not activated")
        return self._mailbox
