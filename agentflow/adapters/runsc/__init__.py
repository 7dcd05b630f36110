"""Sandboxes by gVisor's runsc: one for each call, with a root filesystem of their own and no network."""

from agentflow.adapters.runsc.launcher import RunscLauncher
from agentflow.adapters.runsc.rootfs import build_rootfs

__all__ = ["RunscLauncher", "build_rootfs"]
