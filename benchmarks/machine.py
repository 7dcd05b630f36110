"""What the figures were measured on: said at the top of every run, since they mean nothing without it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil


def facts(packages: Sequence[str]) -> dict[str, str]:
    """The machine, what else runs on it, and the versions of Python and of `packages`."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {psutil.virtual_memory().total >> 30} GiB, Linux {platform.release()}",
        "load": f"{load} (1, 5, 15 minutes) when the run began; other work on the machine shows in every figure",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in packages)]),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
