"""Runs an agent's steps: its context, its session's state, its timeout, and what its exceptions become."""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from agentflow.clock import utc_now
from agentflow.codec import decode_value, encode_value
from agentflow.domain.agent import Agent, snake_case
from agentflow.domain.dispatch import Dispatch, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine.effects import StepContext
from agentflow.engine.in_thread import in_thread
from agentflow.engine.mailbox import Record, Superseded
from agentflow.errors import AgentFlowError, NonDeterminism, StepFailed, Unavailable
from agentflow.ports import SessionReads, ToolCaller

logger = logging.getLogger(__name__)

THREADS = 8
"""Plain `run` functions at once; more wait. One that ignores its timeout keeps its thread."""
FINAL = frozenset({"non_determinism", "invalid_request", "not_yet"})
"""Codes that another attempt cannot mend."""
SESSION_RETRY_S = 0.5


class SessionMoved(Exception):
    """The session's version is not the one that the dispatch starts from."""


class AgentRunner:
    """Runs the steps of one agent instance, several at once."""

    def __init__(self, agent: Agent, *, sessions: SessionReads, tools: ToolCaller) -> None:
        self._agent, self._sessions, self._tools = agent, sessions, tools
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="agent")
        self._in_thread = not inspect.iscoroutinefunction(type(agent).run)

    async def run(self, dispatch: Dispatch, record: Record) -> StepDone | StepError:
        started_at = utc_now()
        try:
            before = await self._session_state(dispatch) if dispatch.session else b"{}"
        except SessionMoved as error:
            # somebody wrote it since this was dispatched: the supervisor sends the step again, with the version that holds
            failure = Failure.of("session_moved", str(error))
            return StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure, crashed=True)
        state = decode_value(before)
        loop = asyncio.get_running_loop()
        context = StepContext(dispatch, state=state, tools=self._tools, record=record, loop=loop, in_thread=self._in_thread)
        try:
            async with asyncio.timeout(dispatch.timeout_s) as clock:
                output = await self._call(context, decode_value(dispatch.input))
            self._check_replayed(context)
            await context.record_failure()
            value = encode_value(output)
            after = encode_value(context.state)
        except asyncio.CancelledError:
            context.mark_cancelled()
            raise
        except Superseded:
            context.mark_cancelled()
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 the top of a user's code: whatever it raises becomes the attempt's failure
            context.mark_cancelled()
            timed_out = isinstance(error, TimeoutError) and clock.expired()
            return self._failed(dispatch, started_at, error, timed_out=timed_out)
        return self._done(dispatch, started_at, value, before, after)

    async def _call(self, context: StepContext, value: Any) -> Any:
        if not self._in_thread:
            return await self._agent.run(context, value)
        return await asyncio.get_running_loop().run_in_executor(self._threads, in_thread, lambda: self._agent.run(context, value))

    @staticmethod
    def _check_replayed(context: StepContext) -> None:
        if left := context.unasked():
            raise NonDeterminism(
                f"step {context.step} ended without asking again for the recorded effect {left[0].path} ({left[0].effect} {left[0].name})",
                recorded=f"{left[0].effect} {left[0].name}",
                asked="",
            )

    def _failed(self, dispatch: Dispatch, started_at: datetime, error: Exception | SystemExit, *, timed_out: bool) -> StepError:
        if timed_out:
            failure = Failure.of("timeout", f"the attempt did not end within {dispatch.timeout_s} s")
        elif isinstance(error, AgentFlowError):
            retryable = error.code not in FINAL
            failure = Failure.of(error.code, str(error), retryable=retryable)
        else:
            failure = Failure.of(snake_case(type(error).__name__), f"{type(error).__name__}: {error}")
        level = logging.INFO if isinstance(error, StepFailed) or timed_out else logging.WARNING
        place = {"execution_id": dispatch.execution_id, "step": dispatch.step, "attempt": dispatch.attempt}
        logger.log(level, "step %s failed: %s", dispatch.step, failure.code, exc_info=error, extra=place)
        return StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure)

    def _done(self, dispatch: Dispatch, started_at: datetime, value: bytes, before: bytes, after: bytes) -> StepDone:
        if dispatch.session is None:
            return StepDone(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, value)
        changed, version = after if after != before else None, dispatch.session.version
        return StepDone(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, value, changed, version)

    async def _session_state(self, dispatch: Dispatch) -> bytes:
        """The state that the step starts from. Waits while the store cannot be reached. Raises SessionMoved."""
        session = dispatch.session
        assert session is not None
        while True:
            try:
                loaded = await self._sessions.load_session(dispatch.tenant_id, session.agent, session.session_id)
            except Unavailable as error:
                logger.info("session %s cannot be read now: %s", session.session_id, error)
                await asyncio.sleep(SESSION_RETRY_S)
                continue
            if loaded.version != session.version:
                raise SessionMoved(f"session {session.session_id} is at version {loaded.version}, the dispatch says {session.version}")
            return loaded.state
