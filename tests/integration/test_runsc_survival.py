"""What is left of gVisor sandboxes when the process that made them is killed, and how the next one cleans up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agentflow.adapters.runsc import RunscLauncher, build_rootfs
from agentflow.domain.sandbox import OutcomeKind, Profile, SandboxCall

pytestmark = pytest.mark.runsc
ROOTFS_CACHE = Path.home() / ".cache" / "agentflow" / "tests"

OWNER = """
import asyncio, sys
from pathlib import Path
from agentflow.adapters.runsc import RunscLauncher
from agentflow.domain.sandbox import Profile, SandboxCall

async def main():
    launcher = RunscLauncher(Path(sys.argv[1]), Path(sys.argv[2]))
    idle = await launcher.launch(None, name="idle")
    busy = await launcher.launch(None, name="busy")
    source = "import os, time\\ndef f():\\n    os.setsid() if os.fork() == 0 else None\\n    print('working')\\n    while True: pass"
    running = asyncio.create_task(busy.run(SandboxCall(source, "m", "f", b"{}", Profile(wall_s=600.0))))
    while "working" not in busy.output.text():
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await running

asyncio.run(main())
"""


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def processes_of(state_dir: Path) -> list[int]:
    """Processes whose command line names this state folder: runsc, its sentries and gofers."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(state_dir) in part for part in process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return found


def tasks_in_groups(launcher: RunscLauncher) -> list[str]:
    """Every process in a control group of this launcher; the platform's stubs are not named after anything."""
    return [
        pid
        for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids"))
        for path in root.glob(f"{launcher.cgroup_parent}/*/cgroup.procs")
        for pid in path.read_text().split()
    ]


def groups(launcher: RunscLauncher) -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [path for path in (*root.glob(f"*/{launcher.cgroup_parent}/*"), *root.glob(f"{launcher.cgroup_parent}/*")) if path.is_dir()]


async def test_nothing_outlives_a_killed_owner_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    rootfs = await asyncio.to_thread(build_rootfs, ROOTFS_CACHE)
    launcher = RunscLauncher(tmp_path, rootfs)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), str(rootfs)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert await asyncio.wait_for(asyncio.to_thread(owner.stdout.readline), 60) == "ready\n"
        assert await launcher.clean_up() == 0, "its owner lives"
        assert len(processes_of(tmp_path)) > 2
        assert tasks_in_groups(launcher)
    finally:
        owner.kill()
        owner.wait(10)
        owner.stdout.close()
    await until(lambda: not [pid for pid in processes_of(tmp_path) if pid != owner.pid] and not tasks_in_groups(launcher))
    assert len(list((tmp_path / "bundles").iterdir())) == 2
    assert await launcher.clean_up() == 2
    assert list((tmp_path / "bundles").iterdir()) == list((tmp_path / "runsc").iterdir()) == groups(launcher) == []
    assert await launcher.clean_up() == 0
    assert (await launcher.probe()).available
    assert list((tmp_path / "bundles").iterdir()) == groups(launcher) == []


async def test_cleaning_up_leaves_the_living_alone(tmp_path: Path) -> None:
    rootfs = await asyncio.to_thread(build_rootfs, ROOTFS_CACHE)
    launcher = RunscLauncher(tmp_path, rootfs)
    sandbox = await launcher.launch(None, name="mine")
    try:
        assert await RunscLauncher(tmp_path, rootfs).clean_up() == 0
        outcome = await sandbox.run(SandboxCall("def f(): return 1", "m", "f", b"{}", Profile()))
        assert outcome.kind is OutcomeKind.OK
    finally:
        await sandbox.close()


async def test_half_made_and_forgotten_things_are_cleaned_up(tmp_path: Path) -> None:
    """A bundle whose maker died before it was named, state of runsc without a bundle, and lock files."""
    launcher = RunscLauncher(tmp_path, await asyncio.to_thread(build_rootfs, ROOTFS_CACHE))
    gone = "00000000-0000-0000-0000-000000000000 1 1"
    for name in (".af-half-1", "af-dead-2"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / "owner").write_text(gone)
    (tmp_path / "runsc" / "af-stray-3").mkdir(parents=True)
    (tmp_path / "runsc" / "af-old.lock").touch()
    (tmp_path / "runsc" / "someone-elses").mkdir()
    assert await launcher.clean_up() == 2
    assert list((tmp_path / "bundles").iterdir()) == []
    assert [entry.name for entry in (tmp_path / "runsc").iterdir()] == ["someone-elses"]
