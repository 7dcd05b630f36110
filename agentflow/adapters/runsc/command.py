"""Short runs of the runsc program, each with a deadline: it can hang, and then nothing but SIGKILL ends it."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunscCommand:
    """How runsc is called here. `root`: its own state folder."""

    program: str
    root: Path
    platform: str
    rootless: bool

    def line(self, *arguments: str) -> list[str]:
        """The command line. --network=none always: the default needs a kernel before 6.11 (gVisor #10704) and a network is
        not wanted; --ignore-cgroups: the control group is ours."""
        options = ["--network=none", f"--platform={self.platform}", "--ignore-cgroups", "--host-uds=none"]
        if self.rootless:
            options.append("--rootless")
        return [self.program, f"--root={self.root}", *options, *arguments]

    async def run(self, *arguments: str, deadline_s: float = 5.0) -> tuple[int, str]:
        """Exit status (-9 when it had to be killed) and what it wrote."""
        return await run_bounded(self.line(*arguments), deadline_s=deadline_s)


async def run_bounded(line: list[str], *, deadline_s: float) -> tuple[int, str]:
    """Run a program for at most `deadline_s`; its exit status and what it wrote. Raises OSError when it cannot be started."""
    process = await asyncio.create_subprocess_exec(*line, stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT, env=environment())
    try:
        async with asyncio.timeout(deadline_s):
            written, _ = await process.communicate()
    except TimeoutError:
        written = b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode if process.returncode is not None else -9, written.decode("utf-8", "replace")


def environment() -> dict[str, str]:
    """What runsc may see of ours: where to find programs."""
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")}
