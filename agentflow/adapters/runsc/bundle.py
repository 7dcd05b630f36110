"""The folder that describes one sandbox to runsc (an OCI bundle), and whose it is."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentflow.domain.sandbox import Mount, Profile
from agentflow.engine.process_mark import own_mark
from agentflow.sandbox_guest import BOOT

PREFIX = "af-"
GUEST_FOLDER = "/usr/lib/agentflow"
MOUNT_POINTS = tuple(f"/mnt/{number}" for number in range(10))
"""In every root filesystem from the start: runsc would make missing ones in the real folder, on the host."""
NOBODY = 65534
_OWNER_FILE = "owner"


@dataclass(frozen=True, slots=True)
class Bundle:
    """`sandbox_id` is also the folder's name and that of the control group."""

    sandbox_id: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "runsc.log"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def make_bundle(
    bundles: Path, *, name: str, rootfs: Path, profile: Profile, mounts: tuple[Mount, ...], warm: bool, rootless: bool
) -> Bundle:
    """Write a bundle. Whose it is stands in it before it gets its real name, so a clean-up never meets one without owner."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[:24].strip("-") or "call"
    sandbox_id = f"{PREFIX}{readable}-{secrets.token_hex(4)}"
    under_way = bundles / f".{sandbox_id}"
    under_way.mkdir(parents=True, mode=0o700)
    (under_way / _OWNER_FILE).write_text(own_mark())
    (under_way / "config.json").write_text(json.dumps(_config(rootfs, profile, mounts, warm=warm, rootless=rootless)))
    under_way.rename(bundles / sandbox_id)
    return Bundle(sandbox_id, bundles / sandbox_id)


def owner_of(folder: Path) -> str:
    """The mark of the process that made this bundle; empty when it cannot be read."""
    try:
        return (folder / _OWNER_FILE).read_text()
    except OSError:
        return ""


def _config(rootfs: Path, profile: Profile, mounts: tuple[Mount, ...], *, warm: bool, rootless: bool) -> dict[str, Any]:
    user = 0 if rootless else _user_for(mounts)  # without root only one user exists inside, and it is the one outside
    mode = "warm" if warm else "cold"
    limits = {"RLIMIT_NOFILE": 256, "RLIMIT_NPROC": profile.processes, "RLIMIT_CORE": 0}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs), "readonly": True},
        "hostname": "sandbox",
        "process": {
            "terminal": False,
            "user": {"uid": user, "gid": user},
            "cwd": "/workspace",
            "noNewPrivileges": True,
            "args": ["/usr/bin/python3", "-I", "-S", "-B", "-c", BOOT, GUEST_FOLDER, mode],
            "env": ["PATH=/usr/bin:/bin", "HOME=/workspace", "LANG=C.UTF-8", "TMPDIR=/tmp", "PYTHONDONTWRITEBYTECODE=1"],
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [{"type": what, "soft": value, "hard": value} for what, value in limits.items()],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            _tmpfs("/dev", 1 << 20, "755"),
            _tmpfs("/dev/shm", 8 << 20, "1777"),
            _tmpfs("/tmp", profile.disk_bytes, "1777"),
            _tmpfs("/workspace", profile.disk_bytes, "1777"),
            *(_read_only(mount) for mount in mounts),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }


def _user_for(mounts: tuple[Mount, ...]) -> int:
    """Nobody; but who may mount a folder that only its owner can read means it to be read, so then that owner, without any capability."""
    for mount in mounts:
        found = os.stat(mount.source)
        if found.st_mode & 0o005 != 0o005:
            return found.st_uid
    return NOBODY


def _tmpfs(target: str, size_bytes: int, mode: str) -> dict[str, Any]:
    options = ["nosuid", "nodev", f"mode={mode}", f"size={max(4096, size_bytes)}"]
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _read_only(mount: Mount) -> dict[str, Any]:
    """Exactly that folder: `bind`, not `rbind`, so that what is mounted below it stays outside."""
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}


def mount_problem(mounts: tuple[Mount, ...]) -> str | None:
    """Why these mounts cannot be made, if they cannot.

    runsc opens the folder later, by its path: who may rename folders above it on the host can still put a link there in between.
    """
    targets = [mount.target for mount in mounts]
    if len(set(targets)) != len(targets):
        return "two mounts have the same target"
    for mount in mounts:
        if mount.target not in MOUNT_POINTS:
            return f"a mount's target must be one of {MOUNT_POINTS[0]} to {MOUNT_POINTS[-1]}, not {mount.target!r}"
        if os.path.realpath(mount.source) != mount.source or not os.path.isdir(mount.source):
            return f"the folder {mount.source!r} is not there, or its path goes through a link"
    return None
