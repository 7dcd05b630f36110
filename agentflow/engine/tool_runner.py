"""Runs tool calls: checks arguments and mounts, chooses the isolation that the profile asks for, turns outcomes into results."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from agentflow.clock import utc_now
from agentflow.codec import decode_value, encode_value
from agentflow.domain.agent import snake_case
from agentflow.domain.dispatch import Dispatch, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.domain.sandbox import Isolation, Mount, Outcome, OutcomeKind, SandboxCall
from agentflow.domain.tool import Tool
from agentflow.engine.in_thread import in_thread
from agentflow.engine.mailbox import Record
from agentflow.engine.tool_source import LoadedTool, ToolSource
from agentflow.errors import AgentFlowError, InvalidRequest, MountForbidden, SandboxRefused

logger = logging.getLogger(__name__)

INLINE_THREADS = 8
RETRYABLE = {
    OutcomeKind.TIMEOUT,
    OutcomeKind.CPU,
    OutcomeKind.OOM,
    OutcomeKind.MEMORY,
    OutcomeKind.PIDS,
    OutcomeKind.CRASH,
    OutcomeKind.EXIT,
    OutcomeKind.ERROR,
    OutcomeKind.START_FAILED,
}

SandboxRun = Callable[[SandboxCall], Awaitable[Outcome]]
"""`SandboxPool.call`."""


class ToolRunner:
    """Runs tool steps, and the calls that agents make. `sandboxes` maps an isolation to what runs it here; what is not there is refused."""

    def __init__(self, source: ToolSource, sandboxes: Mapping[Isolation, SandboxRun], *, unsafe_subprocess: bool = False) -> None:
        """`unsafe_subprocess`: the operator said that gVisor tools run as plain processes on this node (development only)."""
        self._source, self._sandboxes, self._unsafe = source, sandboxes, unsafe_subprocess
        self._threads = ThreadPoolExecutor(INLINE_THREADS, thread_name_prefix="inline-tool")

    async def run(self, dispatch: Dispatch, record: Record) -> StepDone | StepError:
        """See `mailbox.Runner`; a tool has no effects of its own."""
        started_at = utc_now()
        try:
            loaded = self._source.load(dispatch.uses, dispatch.code_hash)
            arguments = decode_value(dispatch.input)
            if arguments is None:
                arguments = {}
            outcome = await self._call(loaded, arguments, dispatch)
        except AgentFlowError as error:
            failure = Failure.of(error.code, str(error), retryable=error.retryable)
            return StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure)
        if outcome.kind is OutcomeKind.OK:
            return StepDone(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, outcome.value or b"null")
        failure = failure_of(outcome)
        logger.info("tool %s ended as %s", dispatch.uses, failure.code, extra={"step": dispatch.step, "duration_s": outcome.wall_s})
        lost = outcome.kind is OutcomeKind.LOST
        return StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure, crashed=lost)

    async def _call(self, loaded: LoadedTool, arguments: Any, dispatch: Dispatch) -> Outcome:
        tool = loaded.tool
        bound = bind(tool, arguments)
        mounts = mounts_of(tool, bound, dispatch.mount_roots)
        # links are resolved: what was checked is what is opened
        bound.update({name: mount.source for name, mount in mounts.items()})
        if tool.profile.isolation is Isolation.INLINE:
            return await self._inline(tool, bound, dispatch.timeout_s)
        profile = tool.profile
        if dispatch.timeout_s is not None:
            profile = replace(profile, wall_s=min(profile.wall_s, dispatch.timeout_s))
        isolation = Isolation.SUBPROCESS if self._unsafe and profile.isolation is Isolation.GVISOR else profile.isolation
        run = self._sandboxes.get(isolation)
        if run is None:
            raise SandboxRefused(
                f"tool {tool.name} asks for isolation {isolation.value!r}, which this node does not have: see `agentflow doctor`"
            )
        if isolation is not Isolation.SUBPROCESS:
            bound.update({name: mount.target for name, mount in mounts.items()})
        call = SandboxCall(loaded.source, loaded.module, loaded.function, encode_value(bound), profile, tuple(mounts.values()))
        return await run(call)

    async def _inline(self, tool: Tool[Any, Any], arguments: dict[str, Any], timeout_s: float | None) -> Outcome:
        limit_s = tool.profile.wall_s if timeout_s is None else min(tool.profile.wall_s, timeout_s)
        try:
            async with asyncio.timeout(limit_s) as clock:
                if inspect.iscoroutinefunction(tool.function):
                    value = await tool.function(**arguments)
                else:
                    value = await asyncio.get_running_loop().run_in_executor(self._threads, in_thread, lambda: tool.function(**arguments))
            return Outcome(OutcomeKind.OK, encode_value(value))
        except SystemExit as error:
            return Outcome(OutcomeKind.EXIT, message=f"it called exit: {error}", exit_code=error.code if isinstance(error.code, int) else 1)
        except Exception as error:  # noqa: BLE001 the top of a tool's own code
            if isinstance(error, TimeoutError) and clock.expired():
                return Outcome(OutcomeKind.TIMEOUT, message=f"the call did not end within {limit_s} s")
            return Outcome(OutcomeKind.ERROR, message=f"{type(error).__name__}: {error}", error_type=type(error).__name__)


def bind(tool: Tool[Any, Any], arguments: Any) -> dict[str, Any]:
    """The arguments by name. Raises InvalidRequest that names what is missing or unknown."""
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"tool {tool.name} takes an object of named arguments, not {json.dumps(arguments)[:100]}")
    try:
        inspect.signature(tool.function).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(tool.function).parameters) or "none"
        raise InvalidRequest(f"tool {tool.name}: {error} (its arguments: {known})") from None
    return dict(arguments)


def mounts_of(tool: Tool[Any, Any], arguments: Mapping[str, Any], roots: tuple[str, ...] | None) -> dict[str, Mount]:
    """The folders that a call may see, by argument. Links are resolved before the check against `roots` (None: any folder).

    Raises MountForbidden, InvalidRequest.
    """
    mounts: dict[str, Mount] = {}
    for index, name in enumerate(tool.mounts):
        folder = arguments.get(name)
        if folder is None:
            continue
        if not isinstance(folder, str) or not os.path.isabs(folder) or not _is_file_name(folder):
            raise InvalidRequest(f"tool {tool.name}: argument {name!r} must be the absolute path of a folder, not {str(folder)[:200]!r}")
        real = os.path.realpath(folder)
        if not inside(real, roots):
            raise MountForbidden(f"tool {tool.name}: {folder!r} is outside the folders that this execution may mount (setting mount_roots)")
        if not os.path.isdir(real):
            raise InvalidRequest(f"tool {tool.name}: {folder!r} is not a folder on this node")
        mounts[name] = Mount(real, f"/mnt/{index}")
    return mounts


def _is_file_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def inside(real: str, roots: tuple[str, ...] | None) -> bool:
    """True when `real` (links resolved) is one of `roots` or below it; None allows any."""
    if roots is None:
        return True
    return any(os.path.commonpath([real, os.path.realpath(root)]) == os.path.realpath(root) for root in roots)


def failure_of(outcome: Outcome) -> Failure:
    """`sandbox_<kind>`; for an exception of the tool's code, that exception's own name in snake_case."""
    code = f"sandbox_{outcome.kind.value}"
    if outcome.kind is OutcomeKind.ERROR and outcome.error_type:
        code = snake_case(outcome.error_type.rpartition(".")[2])
    return Failure.of(code, outcome.message or f"the call ended as {outcome.kind.value}", retryable=outcome.kind in RETRYABLE)
