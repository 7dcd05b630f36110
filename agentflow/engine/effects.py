"""What an agent's code does to the world inside its step: each effect runs once, is recorded, and is replayed after that."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from datetime import datetime
from typing import Any

from agentflow.clock import utc_now
from agentflow.codec import NULL, decode_value, encode_value
from agentflow.domain.dispatch import Dispatch, RecordedEffect, StepDone
from agentflow.domain.state import recorded
from agentflow.domain.tool import Tool
from agentflow.errors import InvalidRequest, NonDeterminism, NotYet, StepFailed
from agentflow.ports import ToolCaller

agent_logger = logging.getLogger("agentflow.agent")

LATER = frozenset({"chat", "ask", "tell", "sleep", "approval", "child", "gather", "now", "random", "uuid", "remember", "forget", "recall"})
"""Documented members of the context that later versions bring."""


def arguments_hash(arguments: dict[str, Any]) -> str:
    """Of the canonical form: sorted keys, no spaces, ASCII. Raises TypeError for what JSON cannot hold."""
    encode_value(arguments)
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


class StepContext:
    """The `Context` of one attempt. Effects are numbered in the order they are asked: `0`, `1`, `2` …"""

    def __init__(
        self,
        dispatch: Dispatch,
        *,
        state: MutableMapping[str, Any],
        tools: ToolCaller,
        record: Callable[[RecordedEffect], Awaitable[None]],
        loop: asyncio.AbstractEventLoop,
        in_thread: bool,
    ) -> None:
        self.execution_id, self.workflow = dispatch.execution_id, dispatch.workflow
        self.step, self.attempt, self.tenant_id = dispatch.step, dispatch.attempt, dispatch.tenant_id
        self.session_id = dispatch.session.session_id if dispatch.session else None
        self.state = state
        self._dispatch, self._tools, self._record, self._loop, self._in_thread = dispatch, tools, record, loop, in_thread
        self._recorded = recorded(dispatch.effects)
        self._asked = 0
        self._busy = False
        self._failed: RecordedEffect | None = None
        self._cancelled = False
        self._started_at = utc_now()

    def __getattr__(self, name: str) -> Any:
        if name in LATER:
            raise NotYet(f"context.{name} is not in this version yet; there are context.tool, context.state and context.log")
        raise AttributeError(f"the context has no attribute {name!r}")

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def started_at(self) -> datetime:
        return self._started_at

    def mark_cancelled(self) -> None:
        """Tell code that runs in a thread, and cannot be interrupted, that nobody waits for it any more."""
        self._cancelled = True

    def log(self, message: str, /, **fields: Any) -> None:
        place = {"execution_id": self.execution_id, "step": self.step, "attempt": self.attempt, "tenant_id": self.tenant_id}
        agent_logger.info("%s", message, extra={**place, "fields": fields})

    def tool(self, function: Callable[..., Any] | str, /, **arguments: Any) -> Any:
        """A coroutine for `async def run`; in a plain `run`, which has a thread of its own, it blocks and returns the result."""
        work = self._tool(function, arguments)
        if not self._in_thread:
            return work
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def unasked(self) -> Sequence[RecordedEffect]:
        """Recorded effects that this run did not ask for: its code has taken another way than before."""
        return [effect for path, effect in self._recorded.items() if int(path) >= self._asked]

    async def record_failure(self) -> None:
        """Record a failed effect once the code has shown that it lives with it: by its next effect, or by its result.

        A failure that ends the attempt is not recorded: the next attempt asks the world again, and may have more luck.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            await self._record(failed)

    async def _tool(self, function: Callable[..., Any] | str, arguments: dict[str, Any]) -> Any:
        uses = function if isinstance(function, str) else getattr(function, "uses", "")
        if not isinstance(function, (str, Tool)) or ":" not in uses:
            raise InvalidRequest(f"context.tool takes a @tool function or its import path 'module:function', not {function!r}")
        try:
            digest = arguments_hash(arguments)
        except TypeError as error:
            raise InvalidRequest(f"the arguments of {uses} are {error}") from None
        if self._cancelled:
            # a plain function whose step was cancelled or timed out still runs in its thread, and nobody waits for what it does
            raise asyncio.CancelledError(f"step {self.step} was ended; nobody waits for its effects any more")
        if self._busy:
            raise NotYet("await each effect before the next: effects side by side (context.gather) are not in this version yet")
        self._busy = True
        try:
            return await self._effect("tool", uses, digest, lambda: self._call_tool(uses, arguments))
        finally:
            self._busy = False

    async def _effect(self, effect: str, name: str, digest: str, run: Callable[[], Awaitable[RecordedEffect]]) -> Any:
        await self.record_failure()
        path = str(self._asked)
        self._asked += 1
        known = self._recorded.get(path)
        if known is None:
            known = await run()
            known = RecordedEffect(path, effect, name, digest, known.value, known.failure)
            if known.failure is None:
                # durable before the code sees it: what it does next may leave this process
                await self._record(known)
            else:
                self._failed = known
        elif (known.effect, known.name, known.arguments_hash) != (effect, name, digest):
            raise NonDeterminism(
                f"effect {path} of step {self.step} was {known.effect} {known.name} (arguments {known.arguments_hash[:8]}) when it was "
                f"recorded and is {effect} {name} (arguments {digest[:8]}) now; a replayed agent must ask for the same effects",
                recorded=f"{known.effect} {known.name}",
                asked=f"{effect} {name}",
            )
        if known.failure is not None:
            failure = {"code": known.failure.code, "message": known.failure.message}
            raise StepFailed(f"{name}: {known.failure.message}", error=failure)
        return decode_value(known.value)

    async def _call_tool(self, uses: str, arguments: dict[str, Any]) -> RecordedEffect:
        dispatch = self._dispatch
        result = await self._tools.call(
            tenant_id=dispatch.tenant_id,
            uses=uses,
            arguments=encode_value(arguments),
            code_hash=dispatch.code_hash,
            key=f"{dispatch.key}/{self._asked - 1}",
            mount_roots=dispatch.mount_roots,
            timeout_s=dispatch.timeout_s,
        )
        if isinstance(result, StepDone):
            return RecordedEffect("", "tool", uses, "", result.value)
        return RecordedEffect("", "tool", uses, "", NULL, result.failure)
