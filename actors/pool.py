"""Makes, finds and ends worker actors: a few generic agent actors kept warm, and the one tool actor of a node."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from agentflow.actors.links import CALL_TIMEOUT_S, ActorLink, RayWorker, tool_name
from agentflow.actors.wiring import NAMESPACE, ActorConfig
from agentflow.engine import wire
from agentflow.errors import Unavailable
from agentflow.ports import WorkerNeed

logger = logging.getLogger(__name__)

ACTIVATE_TIMEOUT_S = 60.0
"""From the moment the process is there: importing an agent's module."""
WARM_TICK_S = 1.0
RESOURCES_TICK_S = 10.0


class RayWorkerPool:
    """`ports.WorkerPool`. One event loop; whatever blocks in Ray runs in a thread."""

    def __init__(self, config: ActorConfig, supervisor: str, *, create_agent: Callable[..., Any], create_tool: Callable[..., Any]) -> None:
        """`create_agent`, `create_tool`: those of remote.py; they block."""
        self._config, self._supervisor = config, supervisor
        self._create_agent, self._create_tool = create_agent, create_tool
        self._prefix = f"{NAMESPACE}:agent:{supervisor}:"
        self._warm: list[tuple[str, Any]] = []
        self._actors: dict[str, tuple[str, Any]] = {}
        """Seat name to (actor name, handle): a warm actor keeps the name it was made with."""
        self._names = (f"{self._prefix}{os.urandom(3).hex()}-{number}" for number in itertools.count(1))
        self._cluster: dict[str, float] = {}
        self._tool: Any = None
        self._tool_changed = asyncio.Condition()

    # ------------------------------------------------------------------ WorkerPool

    async def acquire(self, name: str, need: WorkerNeed) -> RayWorker:
        if need.kind == "tool":
            return await self._tool_worker(name)
        generic = not need.cpu and not need.memory_bytes
        actor_name, handle = self._warm.pop() if generic and self._warm else await self._create(need.cpu, need.memory_bytes)
        self._actors[name] = (actor_name, handle)
        try:
            # without a limit until the process is there: a placement may take as long as the autoscaler does
            await ActorLink(actor_name, handle).call("start", timeout_s=None)
            await ActorLink(actor_name, handle).call("activate", wire.encode_need(need), timeout_s=ACTIVATE_TIMEOUT_S)
        except BaseException:
            await self.release(name)
            raise
        return RayWorker(actor_name, handle)

    async def survivors(self) -> Mapping[str, tuple[WorkerNeed, RayWorker]]:
        found: dict[str, tuple[WorkerNeed, RayWorker]] = {}
        try:
            named = await asyncio.wait_for(asyncio.to_thread(ray.util.list_named_actors, True), CALL_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            raise Unavailable(f"Ray's list of actors cannot be read: {error}") from error
        for entry in named:
            name = entry["name"]
            if entry["namespace"] == NAMESPACE and name.startswith(self._prefix):
                await self._look_at(name, found)
        tool = tool_name(_node_id())
        if any(entry["name"] == tool for entry in named):
            self._tool = await asyncio.to_thread(_get, tool)
            if self._tool is not None:
                self._actors[tool] = (tool, self._tool)
                found[tool] = (WorkerNeed("tool"), RayWorker(tool, self._tool))
        return found

    async def _look_at(self, name: str, found: dict[str, tuple[WorkerNeed, RayWorker]]) -> None:
        handle = await asyncio.to_thread(_get, name)
        if handle is None:
            return
        try:
            need = wire.decode_need(await ActorLink(name, handle).call("need", group="control", timeout_s=10.0))
        except Unavailable as error:
            logger.warning("actor %s of an earlier life does not answer and is ended: %s", name, error)
            await asyncio.to_thread(_kill, handle)
            return
        self._actors[name] = (name, handle)
        if need.kind:
            found[name] = (need, RayWorker(name, handle))
        else:
            self._warm.append((name, handle))

    async def release(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        if actor is not None:
            await asyncio.to_thread(_kill, actor[1])

    def missing(self, need: WorkerNeed) -> str:
        have_cpu, have_memory = self._cluster.get("CPU", 0.0), self._cluster.get("memory", 0.0)
        if need.cpu > have_cpu:
            return f"agent {need.uses} asks for {need.cpu:g} CPUs and the cluster has {have_cpu:g}"
        if need.memory_bytes > have_memory:
            return f"agent {need.uses} asks for {need.memory_bytes >> 20} MiB of memory and the cluster has {int(have_memory) >> 20} MiB"
        if need.cpu or need.memory_bytes:
            return f"agent {need.uses} waits for {need.cpu:g} CPUs and {need.memory_bytes >> 20} MiB of memory that others hold"
        return ""

    # ------------------------------------------------------------------ background

    async def keep_warm(self) -> None:
        """Keep generic actors ready, the tool actor alive, and the picture of the cluster's resources fresh. For ever."""
        tool = asyncio.create_task(self._keep_tool())
        asked_at = 0.0
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    if loop.time() - asked_at >= RESOURCES_TICK_S:
                        asked_at = loop.time()
                        self._cluster = await asyncio.to_thread(ray.cluster_resources)
                    if self._tool is not None and len(self._warm) < self._config.warm_agents:
                        await self._make_warm()
                except Exception:  # the top of this loop: while the GCS is away Ray says all sorts of things
                    logger.exception("keeping agent actors ready failed; trying again")
                await asyncio.sleep(WARM_TICK_S)
        finally:
            tool.cancel()

    async def _make_warm(self) -> None:
        name, handle = await self._create(0, 0)
        try:
            await ActorLink(name, handle).call("start", timeout_s=ACTIVATE_TIMEOUT_S)
        except Unavailable as error:
            logger.warning("a warm agent actor did not start and is ended: %s", error)
            await asyncio.to_thread(_kill, handle)  # it is detached: nobody else would ever end it
            return
        self._warm.append((name, handle))

    async def _create(self, cpu: float, memory_bytes: int) -> tuple[str, Any]:
        name = next(self._names)
        handle = await asyncio.to_thread(self._create_agent, self._config, name, self._supervisor, cpu=cpu, memory_bytes=memory_bytes)
        return name, handle

    async def _keep_tool(self) -> None:
        name = tool_name(_node_id())
        delay_s = 0.1
        while True:
            try:
                handle = await asyncio.to_thread(_get, name)
                if handle is None:
                    handle = await asyncio.to_thread(self._create_tool, self._config, name, self._supervisor, node_id=_node_id())
                link = ActorLink(name, handle)
                await link.call("start", timeout_s=None)
                await link.call("opened", timeout_s=None)
            except Exception as error:  # noqa: BLE001 the top of this loop: without it no tool would ever run again on this node
                # the name of one that has just died is still taken for a moment
                logger.info("the tool actor is not there yet: %s: %s", type(error).__name__, error)
                await asyncio.sleep(delay_s)
                delay_s = min(3.0, delay_s * 2)
                continue
            delay_s = 0.1
            await self._set_tool(handle)
            reason = await RayWorker(name, handle).gone()
            logger.warning("the tool actor is gone and is made again: %s", reason)
            await self._set_tool(None)

    async def _set_tool(self, handle: Any) -> None:
        async with self._tool_changed:
            self._tool = handle
            self._tool_changed.notify_all()

    async def _tool_worker(self, name: str) -> RayWorker:
        async with self._tool_changed:
            await self._tool_changed.wait_for(lambda: self._tool is not None)
            handle = self._tool
        # one that hangs is ended by its seat's name, and made again by `_keep_tool`
        self._actors[name] = (tool_name(_node_id()), handle)
        # it may have died since, and nobody has noticed: the roster's own watch will
        return RayWorker(tool_name(_node_id()), handle)


def _node_id() -> str:
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def _get(name: str) -> Any:
    try:
        return ray.get_actor(name, NAMESPACE)
    except ValueError:
        return None


def _kill(handle: Any) -> None:
    try:
        ray.kill(handle, no_restart=True)
    except (ValueError, RayError) as error:
        logger.info("an actor could not be ended, or had ended: %s", error)
