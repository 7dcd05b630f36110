"""Tools in plain processes, without isolation: for development where gVisor is not, and only when it is asked for by name."""

from agentflow.adapters.subprocess_unsafe.launcher import SubprocessLauncher

__all__ = ["SubprocessLauncher"]
