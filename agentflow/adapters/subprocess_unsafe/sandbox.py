"""One tool call in a plain process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentflow.codec import decode_value, encode_value
from agentflow.domain.sandbox import Mount, Outcome, OutcomeKind, SandboxCall
from agentflow.engine.sandbox_channel import Answer, BadAnswer, GuestEnded, cpu_budget_s, exchange
from agentflow.engine.sandbox_output import Output


@dataclass(slots=True, eq=False)
class SubprocessSandbox:
    folder: Path
    output: Output
    track: Callable[[asyncio.Task[None]], None]
    """Keeps a task that ends a process in the background until it is done."""
    process: Process | None = None
    _given: bool = False
    _ending: asyncio.Task[None] | None = field(default=None)

    async def run(self, call: SandboxCall) -> Outcome:
        if self._given or self._ending is not None:
            return Outcome(OutcomeKind.LOST, message="this sandbox has served its one call")
        self._given = True
        process = self.process
        if process is None or process.stdin is None or process.stdout is None or process.returncode is not None or process.stdout.at_eof():
            return Outcome(OutcomeKind.START_FAILED, message="the process had ended before it got the call")
        self.output.restart(call.profile.output_bytes)
        started = time.monotonic()
        answer: Answer | None = None
        try:
            answer = await exchange(process.stdout, process.stdin, _with_sources(call), file_bytes=call.profile.disk_bytes)
            ended = Outcome(
                answer.kind, value=answer.value, message=answer.message, exit_code=answer.exit_code, error_type=answer.error_type
            )
        except TimeoutError:
            ended = Outcome(OutcomeKind.TIMEOUT, message=f"the call did not end within {call.profile.wall_s:g} s")
        except GuestEnded:
            ended = await self._why_ended(call, time.monotonic() - started)
        except BadAnswer as bad:
            ended = Outcome(OutcomeKind.CRASH, message=f"the process answered with {bad}")
        except asyncio.CancelledError:
            self.end_soon()
            raise
        return replace(
            ended,
            output=self.output.text(),
            output_truncated=self.output.truncated,
            wall_s=time.monotonic() - started,
            cpu_s=answer.cpu_s if answer else None,
            memory_peak_bytes=answer.memory_peak_bytes if answer else None,
        )

    async def _why_ended(self, call: SandboxCall, wall_s: float) -> Outcome:
        status = await self._exit_status(3.0)
        if status in (-signal.SIGXCPU, -signal.SIGKILL) and wall_s >= cpu_budget_s(call.profile):
            return Outcome(
                OutcomeKind.CPU,
                exit_code=128 - status,
                message=f"the tool used up its {cpu_budget_s(call.profile):g} s of CPU time and was killed",
            )
        text = "it does not end" if status is None else f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        code = 128 - status if status is not None and status < 0 else status
        return Outcome(OutcomeKind.CRASH, exit_code=code, message=f"the tool's process ended without an answer: {text}")

    async def _exit_status(self, within_s: float) -> int | None:
        if self.process is None:
            return None
        try:
            async with asyncio.timeout(within_s):
                return await self.process.wait()
        except TimeoutError:
            return None

    def end_soon(self) -> asyncio.Task[None]:
        """Begin to end it, in the background."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name=f"end {self.folder.name}")
            self.track(self._ending)
        return self._ending

    async def close(self) -> None:
        await asyncio.shield(self.end_soon())

    async def _end(self) -> None:
        process = self.process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its group is its own (start_new_session) and outlives its leader
            await self._exit_status(2.0)
            if process.stdin is not None:
                process.stdin.close()
        self.output.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, True)


def _with_sources(call: SandboxCall) -> SandboxCall:
    """There is no file system of its own to mount into: arguments that name a mount's target are given its source."""
    if not call.mounts:
        return call
    try:
        arguments = encode_value(_replace_targets(decode_value(call.arguments), call.mounts))
    except (ValueError, TypeError):
        return call
    return replace(call, arguments=arguments)


def _replace_targets(value: Any, mounts: tuple[Mount, ...]) -> Any:
    if isinstance(value, str):
        for mount in mounts:
            if value == mount.target or value.startswith(mount.target + "/"):
                return mount.source + value[len(mount.target) :]
        return value
    if isinstance(value, list):
        return [_replace_targets(item, mounts) for item in value]
    if isinstance(value, dict):
        return {key: _replace_targets(item, mounts) for key, item in value.items()}
    return value
