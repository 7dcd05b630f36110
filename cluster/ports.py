"""Which ports a local cluster takes, and who has one that it cannot have."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from agentflow.errors import Conflict, Unavailable
from agentflow.settings import Settings

LOOPBACK = "127.0.0.1"
REPLICA_PORTS = 100
_FIRST_REPLICA_PORTS = range(30_000, 32_000, REPLICA_PORTS)


@dataclass(frozen=True, slots=True)
class Ports:
    api: int
    dashboard: int
    proxy_stats: int
    proxy_metrics: int
    replica: int
    """First of REPLICA_PORTS."""
    gcs: int
    ray_client: int
    dashboard_agent: int
    fallback_proxy: int
    """Serve's own proxy, which HAProxy falls back on; Ray would take 8500."""


def choose(settings: Settings) -> Ports:
    """What the settings name, and free ports for the rest. Raises Conflict that says who has a named port."""
    _require(settings.host, settings.port, "the API", "AGENTFLOW_PORT")
    _require(LOOPBACK, settings.dashboard_port, "Ray's dashboard", "AGENTFLOW_DASHBOARD_PORT")
    _require(LOOPBACK, settings.proxy_stats_port, "HAProxy's statistics", "AGENTFLOW_PROXY_STATS_PORT")
    _require(LOOPBACK, settings.proxy_metrics_port, "HAProxy's metrics", "AGENTFLOW_PROXY_METRICS_PORT")
    free = iter(_free(8))
    return Ports(
        api=settings.port or next(free),
        dashboard=settings.dashboard_port or next(free),
        proxy_stats=settings.proxy_stats_port or next(free),
        proxy_metrics=settings.proxy_metrics_port or next(free),
        replica=settings.replica_port or _replica_port(),
        gcs=next(free),
        ray_client=next(free),
        dashboard_agent=next(free),
        fallback_proxy=next(free),
    )


def is_free(host: str, port: int) -> bool:
    """Raises Unavailable when the host is not one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except PermissionError:
            raise Unavailable(f"Port {port} needs root's rights. Choose one above 1023.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise Unavailable(f"{host} is not an address of this machine: {error}. See AGENTFLOW_HOST.") from error
    return True


def holder(port: int) -> str:
    """`pid 17 (nginx)` for whoever listens there; without rights to see it, a hint."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port and connection.pid:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "another process (as root, `ss -ltnp` names it)"


def _require(host: str, port: int, what: str, variable: str) -> None:
    if port and not is_free(host, port):
        raise Conflict(
            f"Port {port} for {what} is in use by {holder(port)}. Stop that, or name another port in {variable} (0 takes a free one).",
            port=port,
        )


def _free(count: int) -> Sequence[int]:
    """Different free ports. Another program may take one before we do; then the start fails and says so.

    Taken from below the kernel's own range, or an outgoing connection might hold one a moment later.
    """
    lowest = _ephemeral_start()
    found: list[int] = []
    for port in random.Random(os.urandom(8)).sample(range(10_000, min(lowest, 30_000)), 2_000):
        if is_free(LOOPBACK, port):
            found.append(port)
            if len(found) == count:
                return found
    raise Unavailable("There are no free ports between 10000 and 30000 on this machine.")


def _ephemeral_start() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            return max(12_500, int(file.read().split()[0]))
    except (OSError, ValueError):
        return 30_000


def _replica_port() -> int:
    for first in random.Random(os.urandom(8)).sample(_FIRST_REPLICA_PORTS, len(_FIRST_REPLICA_PORTS)):
        if all(is_free(LOOPBACK, port) for port in range(first, first + 10)):
            return first
    raise Unavailable("There is no free stretch of ports from 30000 to 32000. Name one in AGENTFLOW_REPLICA_PORT.")
