"""Calls between processes: the ports of supervisors, workers and tools over Ray actor handles. Ray's errors become ours here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from agentflow.actors.wiring import NAMESPACE
from agentflow.clock import utc_now
from agentflow.domain.command import Changes, Command, Reply, SupervisorStatus
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine import wire
from agentflow.errors import AgentFlowError, Busy, Unavailable

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 30.0
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 3.0
TOOL_LOSSES = 3
"""A call whose tool actor or sandbox was lost is asked again, under the same key, this often."""
CONTROL, WAIT = "control", "wait"


def supervisor_name(supervisor: str) -> str:
    return f"{NAMESPACE}:supervisor:{supervisor}"


def tool_name(node_id: str) -> str:
    return f"{NAMESPACE}:tool:{node_id}"


class ActorLink:
    """One named actor. The handle is looked up when first needed, in a thread (the look-up blocks), and again after the actor died."""

    def __init__(self, name: str, handle: Any = None) -> None:
        self._name = name
        self._handle = handle

    async def call(self, method: str, *arguments: Any, group: str | None = None, timeout_s: float | None = CALL_TIMEOUT_S) -> Any:
        """Raises our own errors as the actor raised them, and Unavailable for everything that Ray says."""
        handle = self._handle or await self._look_up()
        remote = getattr(handle, method)
        if group is not None:
            remote = remote.options(concurrency_group=group)
        try:
            async with asyncio.timeout(timeout_s):
                return await remote.remote(*arguments)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AgentFlowError):
                raise cause from None
            raise Unavailable(f"{self._name}.{method} failed: {type(cause).__name__}: {cause}") from error
        except RayActorError as error:
            died = isinstance(error, ActorDiedError)
            if died:
                self._handle = None
            raise Unavailable(f"{self._name} is not there now ({type(error).__name__})", died=died) from error
        except RayError as error:
            raise Unavailable(f"{self._name}.{method}: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise Unavailable(f"{self._name} did not answer {method} within {timeout_s} s") from error

    async def _look_up(self) -> Any:
        try:
            self._handle = await asyncio.wait_for(asyncio.to_thread(ray.get_actor, self._name, NAMESPACE), CALL_TIMEOUT_S)
        except (ValueError, RayError, TimeoutError) as error:
            raise Unavailable(f"there is no actor {self._name} now") from error
        return self._handle


class RaySupervisorLink:
    """`ports.SupervisorLink` of one supervisor. A supervisor that was killed serves again after 2 to 4 s, under the same handle."""

    def __init__(self, supervisor: str = "0") -> None:
        self._link = ActorLink(supervisor_name(supervisor))

    async def submit(self, commands: Sequence[Command]) -> Sequence[Reply]:
        return wire.decode_replies(await self._link.call("submit", wire.encode_submit(commands)))

    async def report(self, worker: str, results: Sequence[StepDone | StepError], effects: Sequence[EffectReport]) -> Sequence[str]:
        # While PostgreSQL is away the commit, and so this answer, waits; a timeout only sends the same again.
        return wire.decode_names(await self._link.call("report", wire.encode_report(worker, results, effects)))

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        body = await self._link.call("changes", cursor, wait_s, group=WAIT, timeout_s=wait_s + CALL_TIMEOUT_S)
        return wire.decode_changes(body)

    async def status(self) -> SupervisorStatus:
        return wire.decode_status(await self._link.call("status", group=CONTROL, timeout_s=10.0))

    async def metrics(self) -> bytes:
        body: bytes = await self._link.call("metrics", group=CONTROL, timeout_s=10.0)
        return body


class RayWorker:
    """`ports.Worker` over an actor handle."""

    def __init__(self, name: str, handle: Any) -> None:
        self._link = ActorLink(name, handle)
        self._handle = handle

    async def deliver(
        self, dispatches: Sequence[Dispatch], acknowledged: Sequence[str]
    ) -> tuple[Sequence[StepDone | StepError], Sequence[str]]:
        return wire.decode_delivered(await self._link.call("deliver", wire.encode_deliver(dispatches, acknowledged)))

    async def cancel(self, dispatch_ids: Sequence[str]) -> None:
        await self._link.call("cancel", wire.encode_names(dispatch_ids), group=CONTROL)

    async def holding(self) -> Sequence[Holding]:
        return wire.decode_holdings(await self._link.call("holding", group=CONTROL))

    async def gone(self) -> str:
        """Ray tells of a death within some 30 ms by failing the call that waits; a mere interruption is waited out."""
        while True:
            try:
                await self._handle.live.options(concurrency_group=WAIT).remote()
            except ActorDiedError as error:
                return str(error).partition("Worker exit detail:")[2].strip()[:300] or "its process died"
            except RayError as error:
                logger.info("waiting for the end of a worker was interrupted: %s", type(error).__name__)
            await asyncio.sleep(RETRY_FIRST_S)


class RayToolCaller:
    """`ports.ToolCaller`: the tool actor of this node."""

    def __init__(self) -> None:
        self._link: ActorLink | None = None

    async def call(
        self,
        *,
        tenant_id: str,
        uses: str,
        arguments: bytes,
        code_hash: str,
        key: str,
        mount_roots: tuple[str, ...] | None,
        timeout_s: float | None,
    ) -> StepDone | StepError:
        execution_id, _, step = key.partition("/")
        dispatch = Dispatch(
            key, tenant_id, execution_id, "", step, 1, "tool", uses, code_hash, arguments, timeout_s, mount_roots=mount_roots
        )
        if self._link is None:
            self._link = ActorLink(tool_name(ray.get_runtime_context().get_node_id()))
        started_at, losses, delay_s = utc_now(), 0, RETRY_FIRST_S
        while True:
            try:
                body = await self._link.call("call", wire.encode_deliver([dispatch], ()), timeout_s=None)
                (result,), _ = wire.decode_delivered(body)
            except Busy as error:
                await asyncio.sleep(float(error.facts.get("retry_after_s", RETRY_FIRST_S)))
                continue
            except Unavailable as error:
                # a tool that kills the tool actor must not do so for ever
                losses += bool(error.facts.get("died"))
                if losses < TOOL_LOSSES:
                    logger.info("tool %s waits: %s", uses, error)
                    await asyncio.sleep(delay_s)
                    delay_s = min(RETRY_MAX_S, delay_s * 2)
                    continue
            else:
                if not (isinstance(result, StepError) and result.crashed):
                    return result
                losses += 1
            if losses >= TOOL_LOSSES:
                failure = Failure.of("sandbox_lost", f"the tool actor or the sandbox of {uses} was lost {losses} times")
                return StepError(key, execution_id, step, started_at, failure)
