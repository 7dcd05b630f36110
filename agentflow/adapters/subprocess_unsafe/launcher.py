"""Starts guests as plain child processes of this one, on this host's Python."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from agentflow.adapters.subprocess_unsafe.sandbox import SubprocessSandbox
from agentflow.domain.sandbox import SandboxCall, SandboxCapabilities
from agentflow.engine.process_mark import is_alive, own_mark
from agentflow.engine.sandbox_channel import BadAnswer, GuestEnded, await_ready
from agentflow.engine.sandbox_output import Output
from agentflow.errors import SandboxRefused, Unavailable
from agentflow.sandbox_guest import BOOT

_PACKAGES = Path(__file__).resolve().parents[2]
_PREFIX = "af-"
_OWNER_FILE = ".owner"


class SubprocessLauncher:
    """SandboxLauncher that isolates nothing: the tool runs as this user, sees its files and its network.

    What still holds: one process a call, its address space, CPU time, file size, wall time, output and reply are bounded, and
    its process group is killed at the end. A process that leaves the group lives on. Mounts are not made: arguments that
    name a mount's target are given as its source, so the tool reads (and may write) the folder itself.
    """

    def __init__(self, state_dir: Path, *, python: str = sys.executable, boot_timeout_s: float = 20.0) -> None:
        self._folders = Path(os.path.abspath(state_dir)) / "subprocess"
        self._python = python
        self._boot_timeout_s = boot_timeout_s
        self._endings: set[asyncio.Task[None]] = set()

    async def probe(self) -> SandboxCapabilities:
        try:
            async with asyncio.timeout(9.5):
                sandbox = await self.launch(None, name="probe")
                await sandbox.close()
        except (SandboxRefused, Unavailable, TimeoutError) as error:
            return SandboxCapabilities(name="subprocess", available=False, reason=str(error) or "no answer within 9.5 s", isolates=False)
        return SandboxCapabilities(
            name="subprocess", available=True, version=platform.python_version(), platform=sys.platform, isolates=False
        )

    async def launch(self, call: SandboxCall | None, *, name: str) -> SubprocessSandbox:
        folder = self._folders / f"{_PREFIX}{secrets.token_hex(6)}"
        try:
            folder.mkdir(parents=True, mode=0o700)
            (folder / _OWNER_FILE).write_text(own_mark())
        except OSError as error:
            raise Unavailable(f"a tool's process did not start: {error}") from None
        sandbox = SubprocessSandbox(folder, Output(16 << 10), self._track)
        reason = ""
        try:
            async with asyncio.timeout(self._boot_timeout_s):
                sandbox.process = await asyncio.create_subprocess_exec(
                    *[self._python, "-I", "-S", "-B", "-c", BOOT, str(_PACKAGES), "bare"],
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=sandbox.output.writing,
                    env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"},
                    cwd=folder,
                    start_new_session=True,
                )
                sandbox.output.started()
                assert sandbox.process.stdout is not None
                await await_ready(sandbox.process.stdout)
        except TimeoutError:
            reason = f"it was not ready within {self._boot_timeout_s:g} s"
        except (GuestEnded, BadAnswer) as error:
            reason = f"it ended or answered badly before it was ready {error}: {sandbox.output.text()[-600:]}"
        except OSError as error:
            reason = str(error)
        except asyncio.CancelledError:
            await sandbox.close()
            raise
        if reason:
            await sandbox.close()
            raise Unavailable(f"a tool's process did not start: {reason}")
        return sandbox

    async def clean_up(self) -> int:
        """Folders of processes whose starter is gone (the processes end with their starter)."""
        return await asyncio.to_thread(self._clean_up)

    async def close(self) -> None:
        """Wait until the processes that are being ended are gone."""
        while self._endings:
            await asyncio.wait(self._endings, timeout=30.0)

    def _clean_up(self) -> int:
        found = 0
        for folder in self._folders.glob(f"{_PREFIX}*") if self._folders.is_dir() else ():
            try:
                owner = (folder / _OWNER_FILE).read_text()
            except OSError:
                owner = ""
            if owner and not is_alive(owner):
                found += 1
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def _track(self, task: asyncio.Task[None]) -> None:
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
