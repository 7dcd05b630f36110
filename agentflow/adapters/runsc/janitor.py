"""Ends what an earlier, killed process of this node left: sandboxes, control groups, bundles, runsc's own notes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from agentflow.adapters.runsc import cgroup
from agentflow.adapters.runsc.bundle import PREFIX, owner_of
from agentflow.adapters.runsc.command import RunscCommand
from agentflow.adapters.runsc.sandbox import remove_state
from agentflow.engine.process_mark import is_alive


async def clean_up(command: RunscCommand, bundles: Path, cgroup_version: str, cgroup_parent: str) -> int:
    """How many sandboxes were found. Those whose maker still lives are left alone, also when that is not us."""
    living, dead = await asyncio.to_thread(_sort, bundles)
    grouped = await asyncio.to_thread(cgroup.children, cgroup_version, cgroup_parent) if cgroup_version else set()
    noted = {entry.name for entry in command.root.iterdir() if entry.is_dir()} if command.root.is_dir() else set()
    stray = {name for name in grouped | noted if name.startswith(PREFIX)} - living
    found = dead | stray
    async with asyncio.TaskGroup() as tasks:
        for sandbox_id in found:
            tasks.create_task(
                _end(command, bundles, sandbox_id, f"{cgroup_parent}/{sandbox_id}" if sandbox_id in grouped else "", cgroup_version)
            )
    if command.root.is_dir():
        for lock in command.root.glob(f"{PREFIX}*.lock"):
            if not any(lock.name.startswith(name) for name in living):
                lock.unlink(missing_ok=True)
    return len(found)


def _sort(bundles: Path) -> tuple[set[str], set[str]]:
    """Ids whose maker lives, and whose maker is gone. Half-made bundles of the dead are removed."""
    living: set[str] = set()
    dead: set[str] = set()
    for folder in bundles.iterdir() if bundles.is_dir() else ():
        alive = is_alive(owner_of(folder))
        if folder.name.startswith(f".{PREFIX}"):
            living.add(folder.name[1:])  # perhaps about to be made: if not, the next clean-up finds what there is
            if not alive and owner_of(folder):
                shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith(PREFIX):
            (living if alive else dead).add(folder.name)
    return living, dead


async def _end(command: RunscCommand, bundles: Path, sandbox_id: str, group_name: str, cgroup_version: str) -> None:
    group = cgroup.existing_group(cgroup_version, group_name) if group_name else None
    if group:
        await asyncio.to_thread(group.kill)
    else:
        await command.run("kill", "--all", sandbox_id, "KILL")
    await remove_state(command, sandbox_id)
    if group:
        await asyncio.to_thread(group.remove)
    await asyncio.to_thread(shutil.rmtree, bundles / sandbox_id, True)
