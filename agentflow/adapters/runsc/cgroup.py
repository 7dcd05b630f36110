"""A control group of our own for each sandbox: its hard limits, and the counters that tell how it ended.

runsc can manage control groups itself but removes its own when it exits, and with it the counter that says whether the
kernel ran out of memory (sandbox.md, section 4). So runsc is started inside ours, with --ignore-cgroups.
The functions block for some milliseconds (the kernel waits for RCU): call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path("/sys/fs/cgroup")
_V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_PERIOD_US = 100_000
REMOVE_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class GroupLimits:
    memory_bytes: int
    tasks: int
    """Processes and threads of the host, runsc's own included. Reaching it kills the sandbox: leave it room."""


class Group(Protocol):
    """One sandbox's control group."""

    @property
    def entries(self) -> list[Path]:
        """The files into which a process writes 0 to enter."""

    def set_cpu(self, cores: float) -> None: ...
    def cpu_s(self) -> float | None:
        """CPU time used by all in it so far."""

    def memory_peak_bytes(self) -> int | None: ...
    def oom_kills(self) -> int: ...
    def task_refusals(self) -> int:
        """How often a new task was refused because of the limit."""

    def kill(self) -> None:
        """SIGKILL all in it."""

    def remove(self) -> bool:
        """Remove it once it is empty, waiting up to REMOVE_WITHIN_S; False when it is not."""


def find_version(root: Path = ROOT) -> str:
    """`v1` or `v2` when groups can be made here, else empty. Tries it: containers often show the tree read-only."""
    for version in ("v2", "v1"):
        if _exists(version, root) and os.geteuid() == 0:
            trial = f"agentflow/probe-{os.getpid()}"
            try:
                make_group(version, trial, GroupLimits(memory_bytes=64 << 20, tasks=64), root=root).remove()
            except OSError:
                continue
            return version
    return ""


def make_group(version: str, name: str, limits: GroupLimits, *, root: Path = ROOT) -> Group:
    """Make the group `name` (a relative path) with its limits. Raises OSError, and then leaves nothing."""
    group = _V2(root, name) if version == "v2" else _V1(root, name)
    try:
        group.make(limits)
    except OSError:
        group.remove()
        raise
    return group


def children(version: str, parent: str, *, root: Path = ROOT) -> set[str]:
    """Names of the groups under `parent`."""
    folders = [root / parent] if version == "v2" else [root / controller / parent for controller in _V1_CONTROLLERS]
    return {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.is_dir()}


def remove_parent(version: str, parent: str, *, root: Path = ROOT) -> None:
    """Remove the folders above our groups, if nobody else has groups in them."""
    for folder in [root / parent] if version == "v2" else [root / controller / parent for controller in _V1_CONTROLLERS]:
        if _rmdir(folder):
            _rmdir(folder.parent)


def existing_group(version: str, name: str, *, root: Path = ROOT) -> Group:
    """A group that an earlier process made, to end and remove it."""
    return _V2(root, name) if version == "v2" else _V1(root, name)


def _exists(version: str, root: Path) -> bool:
    return (root / "cgroup.controllers").exists() if version == "v2" else (root / "memory" / "cgroup.procs").exists()


class _V1:
    """One folder a controller; cpu and cpuacct are often the same one under two names."""

    def __init__(self, root: Path, name: str) -> None:
        self._folders = {controller: root / controller / name for controller in _V1_CONTROLLERS}

    def make(self, limits: GroupLimits) -> None:
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        memory = self._folders["memory"]
        _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
        if (memory / "memory.memsw.limit_in_bytes").exists():
            _write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(self._folders["pids"] / "pids.max", limits.tasks)

    @property
    def entries(self) -> list[Path]:
        return [folder / "cgroup.procs" for folder in self._folders.values()]

    def set_cpu(self, cores: float) -> None:
        _write(self._folders["cpu"] / "cpu.cfs_period_us", _PERIOD_US)
        _write(self._folders["cpu"] / "cpu.cfs_quota_us", max(1000, int(cores * _PERIOD_US)))

    def cpu_s(self) -> float | None:
        usage = _number(self._folders["cpuacct"] / "cpuacct.usage")
        return None if usage is None else usage / 1e9

    def memory_peak_bytes(self) -> int | None:
        return _number(self._folders["memory"] / "memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        return _field(self._folders["memory"] / "memory.oom_control", "oom_kill") or 0

    def task_refusals(self) -> int:
        return _field(self._folders["pids"] / "pids.events", "max") or 0

    def kill(self) -> None:
        _kill_all(self._folders["pids"] / "cgroup.procs")

    def remove(self) -> bool:
        return _remove(self._folders.values())


class _V2:
    """One folder. Parents hand the controllers down; the root may have processes, other parents may not."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._folder = root, root / name

    def make(self, limits: GroupLimits) -> None:
        parents = [parent for parent in reversed(self._folder.parents) if parent.is_relative_to(self._root)]
        for parent in parents:
            parent.mkdir(exist_ok=True)
            _write(parent / "cgroup.subtree_control", "+memory +pids +cpu")
        self._folder.mkdir(exist_ok=True)
        _write(self._folder / "memory.max", limits.memory_bytes)
        if (self._folder / "memory.swap.max").exists():
            _write(self._folder / "memory.swap.max", 0)
        _write(self._folder / "memory.oom.group", 1)
        _write(self._folder / "pids.max", limits.tasks)

    @property
    def entries(self) -> list[Path]:
        return [self._folder / "cgroup.procs"]

    def set_cpu(self, cores: float) -> None:
        _write(self._folder / "cpu.max", f"{max(1000, int(cores * _PERIOD_US))} {_PERIOD_US}")

    def cpu_s(self) -> float | None:
        usage = _field(self._folder / "cpu.stat", "usage_usec")
        return None if usage is None else usage / 1e6

    def memory_peak_bytes(self) -> int | None:
        """Linux before 5.19 does not keep the peak; what is used now is a lower bound of it."""
        peak = _number(self._folder / "memory.peak")
        return peak if peak is not None else _number(self._folder / "memory.current")

    def oom_kills(self) -> int:
        return _field(self._folder / "memory.events", "oom_kill") or 0

    def task_refusals(self) -> int:
        return _field(self._folder / "pids.events", "max") or 0

    def kill(self) -> None:
        try:
            _write(self._folder / "cgroup.kill", 1)
        except OSError:  # Linux before 5.14
            _kill_all(self._folder / "cgroup.procs")

    def remove(self) -> bool:
        return _remove([self._folder])


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, key: str) -> int | None:
    try:
        fields = dict(line.split(None, 1) for line in path.read_text().splitlines())
        return int(fields[key])
    except (OSError, ValueError, KeyError):
        return None


def _kill_all(path: Path) -> None:
    """Until none is left: a process may fork while we read the list."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        try:
            pids = [int(line) for line in path.read_text().split()]
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _remove(folders: Iterable[Path]) -> bool:
    deadline = time.monotonic() + REMOVE_WITHIN_S
    left = list(folders)
    while left:
        left = [folder for folder in left if not _rmdir(folder)]
        if left and time.monotonic() > deadline:
            return False
        if left:
            time.sleep(0.01)
    return True


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
