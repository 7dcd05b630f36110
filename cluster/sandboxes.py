"""The gVisor launcher of this node as the command line needs it: for a look (`doctor`) and for sweeping up (`down`)."""

from __future__ import annotations

import shutil

from agentflow.adapters.runsc import RunscLauncher
from agentflow.settings import Settings


def launcher_of(settings: Settings) -> RunscLauncher | None:
    """None when runsc is not installed or no tool actor has built a root filesystem here yet. Builds nothing."""
    folder = settings.node_dir / "rootfs"
    built = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")] if folder.is_dir() else []
    if not built or not shutil.which("runsc"):
        return None
    return RunscLauncher(settings.node_dir, max(built, key=lambda entry: entry.stat().st_mtime))
