"""Starts gVisor sandboxes on this node, says whether it can, and cleans up after a killed predecessor."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Coroutine
from pathlib import Path

from agentflow.adapters.runsc import cgroup, janitor
from agentflow.adapters.runsc.bundle import Bundle, make_bundle, mount_problem
from agentflow.adapters.runsc.command import RunscCommand, run_bounded
from agentflow.adapters.runsc.sandbox import RunscSandbox
from agentflow.domain.sandbox import Mount, Outcome, OutcomeKind, Profile, SandboxCall, SandboxCapabilities
from agentflow.engine.sandbox_output import Output
from agentflow.errors import SandboxRefused, Unavailable

_HOW_TO_INSTALL = "install it with: apt-get install -y --no-install-recommends runsc"
_PROBE_MODULES = ("ast", "json", "re", "sqlite3", "ssl")
_PROBE = SandboxCall(
    source=f"def probe():\n    import {', '.join(_PROBE_MODULES)}\n    return True\n",
    module="agentflow_probe",
    function="probe",
    arguments=b"{}",
    profile=Profile(wall_s=8.0),
)


_Prepared = tuple[Bundle, cgroup.Group | None]


class RunscLauncher:
    """SandboxLauncher on gVisor's `runsc`. Everything that it makes on disk is under `state_dir`; control groups are named
    after it. Use it from one event loop, whose thread must live as long as the sandboxes: they are killed when it ends.

    `rootfs`: what `rootfs.build_rootfs` made. `platform`: ptrace; kvm hangs where the device exists but does not work.
    Without root runsc runs rootless: then no control group bounds a call, only the guest's own limits, and `probe` says so.
    """

    def __init__(
        self, state_dir: Path, rootfs: Path, *, program: str = "runsc", platform: str = "ptrace", boot_timeout_s: float = 20.0
    ) -> None:
        self._state_dir = Path(os.path.abspath(state_dir))
        self._rootfs = Path(os.path.abspath(rootfs))
        self._program = program
        self._platform = platform
        self._boot_timeout_s = boot_timeout_s
        self._cgroup: str | None = None
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def bundles(self) -> Path:
        """A folder for each sandbox that is there."""
        return self._state_dir / "bundles"

    @property
    def cgroup_parent(self) -> str:
        """Relative to the root of a hierarchy; one for each state_dir, so that two clusters on a node do not meet."""
        return f"agentflow/{hashlib.sha256(str(self._state_dir).encode()).hexdigest()[:12]}"

    async def probe(self) -> SandboxCapabilities:
        version = ""
        try:
            async with asyncio.timeout(9.5):
                version = await self._version()
                await self._try()
        except (SandboxRefused, Unavailable) as error:
            return self._unavailable(error.message, version)
        except TimeoutError:
            return self._unavailable("a trial sandbox did not answer within 9.5 s: is this machine overloaded?", version)
        except OSError as error:
            return self._unavailable(f"a trial sandbox could not be made: {error}", version)
        cgroup_version = await self._cgroup_version()
        return SandboxCapabilities(name="gvisor", available=True, version=version, platform=self._platform, cgroup=cgroup_version)

    async def launch(self, call: SandboxCall | None, *, name: str) -> RunscSandbox:
        profile, mounts = (call.profile, call.mounts) if call else (Profile(), ())
        command = self._command()
        if problem := mount_problem(mounts):
            raise SandboxRefused(f"the sandbox cannot be made: {problem}")
        version = await self._cgroup_version()
        try:
            bundle, group = await self._unless_cancelled(
                asyncio.to_thread(self._prepare, name, profile, mounts, call is None, command.rootless, version)
            )
        except OSError as error:
            raise Unavailable(f"a gVisor sandbox did not start: its folder or control group could not be made: {error}") from None
        sandbox = RunscSandbox(command, bundle, group, Output(16 << 10), self._track)
        await sandbox.boot(deadline_s=self._boot_timeout_s)
        return sandbox

    async def clean_up(self) -> int:
        try:
            command = self._command()
        except SandboxRefused:
            return 0  # without runsc nothing of it runs; `probe` says what is missing
        found = await janitor.clean_up(command, self.bundles, await self._cgroup_version(), self.cgroup_parent)
        await self._remove_parent()
        return found

    async def close(self) -> None:
        """Wait until the sandboxes that are being ended are gone."""
        while self._endings:
            await asyncio.wait(self._endings, timeout=30.0)
        await self._remove_parent()

    async def _remove_parent(self) -> None:
        if version := await self._cgroup_version():
            await asyncio.to_thread(cgroup.remove_parent, version, self.cgroup_parent)

    def _track(self, task: asyncio.Task[None]) -> None:
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def _command(self) -> RunscCommand:
        program = shutil.which(self._program)
        if sys.platform != "linux" or program is None:
            raise SandboxRefused(f"gVisor's runsc is not here: {_HOW_TO_INSTALL}")
        if not (self._rootfs / "usr/bin/python3").exists():
            raise SandboxRefused(f"the sandboxes' root filesystem {self._rootfs} is not there: build it with build_rootfs")
        return RunscCommand(program, self._state_dir / "runsc", self._platform, rootless=os.geteuid() != 0)

    async def _version(self) -> str:
        code, text = await run_bounded([self._command().program, "--version"], deadline_s=5.0)
        if code != 0:
            raise SandboxRefused(f"`{self._program} --version` failed with status {code}: {text.strip()[:200]}")
        return text.split("\n", 1)[0].removeprefix("runsc version ").strip()

    async def _try(self) -> None:
        sandbox = await self.launch(None, name="probe")
        try:
            outcome: Outcome = await sandbox.run(_PROBE)
        finally:
            await sandbox.close()
        if outcome.kind is not OutcomeKind.OK:
            raise SandboxRefused(f"a trial sandbox ended with {outcome.kind}: {outcome.message[:300]}")

    def _unavailable(self, reason: str, version: str) -> SandboxCapabilities:
        return SandboxCapabilities(name="gvisor", available=False, reason=reason, version=version, platform=self._platform)

    async def _cgroup_version(self) -> str:
        if self._cgroup is None:
            self._cgroup = await asyncio.to_thread(cgroup.find_version)
        return self._cgroup

    async def _unless_cancelled(self, preparing: Coroutine[None, None, _Prepared]) -> _Prepared:
        """What a thread prepared; when nobody waits for it any more, it is removed again."""
        task = asyncio.ensure_future(preparing)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._track(asyncio.ensure_future(_discard(task)))
            raise

    def _prepare(self, name: str, profile: Profile, mounts: tuple[Mount, ...], warm: bool, rootless: bool, version: str) -> _Prepared:
        """Make the bundle and the control group, or raise OSError and leave nothing. Blocks."""
        for folder in (self._state_dir, self.bundles, self._state_dir / "runsc"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        bundle = make_bundle(self.bundles, name=name, rootfs=self._rootfs, profile=profile, mounts=mounts, warm=warm, rootless=rootless)
        if not version:
            return bundle, None
        # ptrace needs up to 6.2 host tasks for each guest process, and about 26 of its own
        limits = cgroup.GroupLimits(memory_bytes=profile.memory_bytes, tasks=128 + 16 * profile.processes)
        try:
            group = cgroup.make_group(version, f"{self.cgroup_parent}/{bundle.sandbox_id}", limits)
            group.set_cpu(max(1.0, profile.cpu))  # booting is ours; the call gets its own share when it starts
        except OSError:
            bundle.remove()
            raise
        return bundle, group


async def _discard(preparing: asyncio.Future[_Prepared]) -> None:
    try:
        bundle, group = await preparing
    except OSError:
        return
    if group:
        await asyncio.to_thread(group.remove)
    await asyncio.to_thread(bundle.remove)
