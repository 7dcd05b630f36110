"""A node's tool actor: owns its warm sandboxes, runs tool steps for the supervisor and tool calls for agents."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from agentflow.actors.home import Home
from agentflow.actors.links import RaySupervisorLink
from agentflow.actors.wiring import ActorConfig, Sandboxes, tool_runner_of
from agentflow.domain.dispatch import Dispatch, RecordedEffect, StepDone, StepError
from agentflow.engine import wire
from agentflow.engine.mailbox import Mailbox
from agentflow.engine.tool_runner import ToolRunner
from agentflow.errors import Busy, Unavailable
from agentflow.ports import WorkerNeed
from agentflow.telemetry.logs import log_as_json

logger = logging.getLogger(__name__)


class ToolActor:
    """A plain class; `remote.py` makes it a Ray actor. `max_restarts=0`: the supervisor replaces it, the new one cleans up."""

    def __init__(self, config: dict[str, Any], name: str, supervisor: str) -> None:
        self._config, self._name, self._supervisor = ActorConfig(**config), name, supervisor
        self._home = Home(f"tool actor {name}")
        self._mailbox: Mailbox | None = None
        self._runner: ToolRunner | None = None
        self._calls: dict[str, asyncio.Task[StepDone | StepError]] = {}
        self._sandboxes = Sandboxes(self._config)
        self._opening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to find out what this node can do; returns at once."""
        if self._home.settle():
            log_as_json(self._config.log_level, process=self._name)
            self._opening = asyncio.create_task(self._open())

    async def opened(self) -> None:
        """Returns when that is known, and calls are taken. Raises Unavailable before `start`."""
        if self._opening is None:
            raise Unavailable(f"tool actor {self._name} is starting")
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        self._runner = tool_runner_of(self._config, await self._sandboxes.open())
        link = RaySupervisorLink(self._supervisor)
        self._mailbox = Mailbox(self._name, self._runner, link.report, limit=self._config.tool_capacity)

    async def deliver(self, body: bytes) -> bytes:
        return wire.encode_delivered(*await self._ready().deliver(*wire.decode_deliver(body)))

    async def call(self, body: bytes) -> bytes:
        """One call for an agent. The same key asked again while it runs waits for the same call. Raises Busy, Unavailable."""
        self._ready()
        dispatches, _ = wire.decode_deliver(body)
        dispatch = dispatches[0]
        task = self._calls.get(dispatch.dispatch_id)
        if task is None:
            if len(self._calls) >= self._config.tool_capacity:
                raise Busy(f"{len(self._calls)} tool calls are under way on this node (setting sandbox_queue_limit)", retry_after_s=0.5)
            task = asyncio.create_task(self._call(dispatch))
            self._calls[dispatch.dispatch_id] = task
            task.add_done_callback(lambda _: self._calls.pop(dispatch.dispatch_id, None))
        result = await asyncio.shield(task)
        return wire.encode_delivered([result], ())

    async def _call(self, dispatch: Dispatch) -> StepDone | StepError:
        assert self._runner is not None
        return await self._runner.run(dispatch, _no_effects)

    # ------------------------------------------------------------------ group `control`

    async def cancel(self, dispatch_ids: bytes) -> None:
        await self._home.run(self._cancel(wire.decode_names(dispatch_ids)))

    async def _cancel(self, dispatch_ids: list[str]) -> None:
        self._ready().cancel(dispatch_ids)

    async def holding(self) -> bytes:
        return await self._home.run(self._holding())

    async def _holding(self) -> bytes:
        return wire.encode_holdings(self._mailbox.holding() if self._mailbox is not None else ())

    async def need(self) -> bytes:
        return wire.encode_need(WorkerNeed("tool"))

    async def capabilities(self) -> bytes:
        """JSON list of SandboxCapabilities: what this node can isolate with."""
        return msgspec.json.encode(self._sandboxes.capabilities)

    async def close(self) -> None:
        """End every sandbox, before the actor is ended on purpose."""
        await self._home.run(self._sandboxes.close())

    # ------------------------------------------------------------------ group `wait`

    async def live(self) -> None:
        """Never returns: whoever waits for it learns of this process's end at once."""
        await asyncio.Event().wait()

    def _ready(self) -> Mailbox:
        if self._mailbox is None:
            raise Unavailable(f"tool actor {self._name} is starting")
        return self._mailbox


async def _no_effects(effect: RecordedEffect) -> None:
    raise AssertionError("a tool has no effects")
