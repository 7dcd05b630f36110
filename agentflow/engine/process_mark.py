"""Says which process made something on this machine, and whether that process still lives."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def own_mark() -> str:
    """A line of text for this process; different for every process since the machine was built."""
    return _mark(os.getpid()) or f"? {os.getpid()} ?"


def is_alive(mark: str) -> bool:
    """True while the process that wrote `mark` runs. A pid that was given to another process since does not count."""
    try:
        pid = int(mark.split()[1])
    except (IndexError, ValueError):
        return False
    return _mark(pid) == mark.strip()


def _mark(pid: int) -> str | None:
    if sys.platform != "linux":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return f"? {pid} ?"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name in brackets may contain anything
    return None if fields[0] in ("Z", "X") else f"{boot} {pid} {fields[19]}"
