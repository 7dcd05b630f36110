"""One gVisor sandbox: start it, run its one call, find out how it ended, and leave nothing of it on the host."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass, field

from agentflow.adapters.runsc.bundle import Bundle
from agentflow.adapters.runsc.cgroup import Group
from agentflow.adapters.runsc.command import RunscCommand, environment
from agentflow.domain.sandbox import Outcome, OutcomeKind, SandboxCall
from agentflow.engine.sandbox_channel import Answer, BadAnswer, GuestEnded, await_ready, cpu_budget_s, exchange
from agentflow.engine.sandbox_output import Output
from agentflow.errors import Unavailable

_ENTER = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 125; shift; n=$((n-1)); done; exec "$@"'
"""A shell enters the control group and becomes runsc: no code of ours runs between fork and exec."""
_BOOT_TEXT_BYTES = 16 << 10


@dataclass(slots=True, eq=False)
class RunscSandbox:
    """`runsc run` in the foreground, tied to the thread that started it: when that thread dies, so does the sandbox."""

    command: RunscCommand
    bundle: Bundle
    group: Group | None
    output: Output
    track: Callable[[asyncio.Task[None]], None]
    """Keeps a task that ends a sandbox in the background until it is done."""
    process: Process | None = None
    _given: bool = False
    _answered: bool = False
    _ending: asyncio.Task[None] | None = field(default=None)

    async def boot(self, *, deadline_s: float) -> None:
        """Start it and wait until its guest is ready. Raises Unavailable, and then nothing is left of it."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._start()
                assert self.process is not None and self.process.stdout is not None
                await await_ready(self.process.stdout)
        except TimeoutError:
            reason = f"it was not ready within {deadline_s:g} s"
        except BadAnswer as bad:
            reason = f"its guest began with {bad}"
        except GuestEnded:
            reason = f"runsc ended with status {await self._exit_status(2.0)}"
        except OSError as error:
            reason = f"runsc could not be started: {error}"
        except asyncio.CancelledError:
            await self.close()
            raise
        else:
            self.output.restart(_BOOT_TEXT_BYTES)
            return
        said = self.output.restart(0).decode("utf-8", "replace").strip()[-600:]
        await self.close()
        raise Unavailable(f"a gVisor sandbox did not start: {reason}{f'; it said: {said}' if said else ''}")

    async def _start(self) -> None:
        entries = [str(path) for path in self.group.entries] if self.group else []
        run = self.command.line(
            f"--log={self.bundle.log}", "--log-format=json", "run", "--bundle", str(self.bundle.folder), self.bundle.sandbox_id
        )
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self.process = await asyncio.create_subprocess_exec(
            *["/bin/sh", "-c", _ENTER, "sh", str(len(entries)), *entries, *tie, *run],
            stdin=PIPE,
            stdout=PIPE,
            stderr=self.output.writing,
            env=environment(),
            cwd="/",
        )
        self.output.started()

    async def run(self, call: SandboxCall) -> Outcome:
        if self._given or self._ending is not None:
            return Outcome(OutcomeKind.LOST, message="this sandbox has served its one call")
        self._given = True
        process = self.process
        if process is None or process.stdin is None or process.stdout is None or process.returncode is not None or process.stdout.at_eof():
            return Outcome(OutcomeKind.START_FAILED, message="the sandbox had ended before it got the call")
        self.output.restart(call.profile.output_bytes)
        if self.group:
            self.group.set_cpu(call.profile.cpu)
        started, cpu_before = time.monotonic(), self.group.cpu_s() if self.group else None
        answer: Answer | None = None
        try:
            answer = await exchange(process.stdout, process.stdin, call)
            self._answered = True
            ended = Outcome(
                answer.kind, value=answer.value, message=answer.message, exit_code=answer.exit_code, error_type=answer.error_type
            )
        except TimeoutError:
            ended = Outcome(OutcomeKind.TIMEOUT, message=f"the call did not end within {call.profile.wall_s:g} s")
        except GuestEnded:
            ended = await self._why_ended(call, cpu_before, time.monotonic() - started)
        except BadAnswer as bad:
            ended = Outcome(self._killed_by_limit() or OutcomeKind.CRASH, message=f"the sandbox answered with {bad}")
        except asyncio.CancelledError:
            self.end_soon()
            raise
        return self._with_figures(ended, answer, time.monotonic() - started, cpu_before)

    def _with_figures(self, ended: Outcome, answer: Answer | None, wall_s: float, cpu_before: float | None) -> Outcome:
        """Add output and resources; the control group's figures hold runsc's own share too, the guest's do not."""
        cpu_after = self.group.cpu_s() if self.group else None
        cpu_s = answer.cpu_s if answer else None
        if cpu_before is not None and cpu_after is not None:
            cpu_s = cpu_after - cpu_before
        peak = self.group.memory_peak_bytes() if self.group else (answer.memory_peak_bytes if answer else None)
        return Outcome(
            ended.kind,
            value=ended.value,
            message=ended.message,
            exit_code=ended.exit_code,
            error_type=ended.error_type,
            output=self.output.text(),
            output_truncated=self.output.truncated,
            wall_s=wall_s,
            cpu_s=cpu_s,
            memory_peak_bytes=peak,
        )

    async def _why_ended(self, call: SandboxCall, cpu_before: float | None, wall_s: float) -> Outcome:
        """The guest ended without an answer. Exit codes say little (sandbox.md, section 4); our counters say more."""
        status = await self._exit_status(3.0)
        profile = call.profile
        kind = self._killed_by_limit()
        if kind is OutcomeKind.OOM:
            return Outcome(
                kind, exit_code=status, message=f"the sandbox went over its {profile.memory_bytes} bytes of memory and was killed"
            )
        if kind is OutcomeKind.PIDS:
            return Outcome(kind, exit_code=status, message="the sandbox ran out of processes on the host and ended")
        cpu_s = self.group.cpu_s() if self.group else None
        used = cpu_s - cpu_before if cpu_s is not None and cpu_before is not None else wall_s
        if status in (128 + signal.SIGKILL, 128 + signal.SIGXCPU) and used >= cpu_budget_s(profile):
            return Outcome(
                OutcomeKind.CPU, exit_code=status, message=f"the tool used up its {cpu_budget_s(profile):g} s of CPU time and was killed"
            )
        return Outcome(OutcomeKind.CRASH, exit_code=status, message=f"the tool's process ended without an answer: {_explain(status)}")

    def _killed_by_limit(self) -> OutcomeKind | None:
        if self.group and self.group.oom_kills():
            return OutcomeKind.OOM
        if self.group and self.group.task_refusals():
            return OutcomeKind.PIDS
        return None

    async def _exit_status(self, within_s: float) -> int | None:
        """The status of `runsc run`, which is the guest's: 128 + n for signal n. None when it does not end."""
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
            self._ending = asyncio.create_task(self._end(), name=f"end {self.bundle.sandbox_id}")
            self.track(self._ending)
        return self._ending

    async def close(self) -> None:
        await asyncio.shield(self.end_soon())

    async def _end(self) -> None:
        """In the order of sandbox.md: ask runsc first, since what is killed from outside leaves state that takes a second to delete."""
        process = self.process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()  # a guest that waits for its call ends by itself
            if process.returncode is None and (self._answered or not self._given):
                await self._exit_status(1.0)
            if process.returncode is None:
                await self.command.run("kill", "--all", self.bundle.sandbox_id, "KILL")
                await self._exit_status(2.0)
            if process.returncode is None:
                process.kill()
                await self._exit_status(2.0)
        if self.group:
            await asyncio.to_thread(self.group.kill)
        self.output.close()
        await remove_state(self.command, self.bundle.sandbox_id)
        if self.group:
            await asyncio.to_thread(self.group.remove)
        await asyncio.to_thread(self.bundle.remove)


async def remove_state(command: RunscCommand, sandbox_id: str) -> None:
    """What runsc itself has noted about a sandbox; `run` removes it when it ends in peace, but for the lock files."""
    left = [entry for entry in command.root.glob(f"{sandbox_id}*") if entry.suffix != ".lock"]
    if left:
        await command.run("delete", "--force", sandbox_id, deadline_s=10.0)
    for entry in command.root.glob(f"{sandbox_id}*"):
        if entry.is_dir():
            await asyncio.to_thread(shutil.rmtree, entry, True)
        else:
            entry.unlink(missing_ok=True)


def _explain(status: int | None) -> str:
    if status is None:
        return "it does not end"
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exit status {status}"
