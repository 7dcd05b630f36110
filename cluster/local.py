"""A cluster on this machine: up, down, status. Synchronous, and idempotent: each may be called again after anything.

What is ours is known by the processes (ray_head.MARK) and the home folder alone, so that `down` also works when `up` was killed
halfway, and when anything was ended by `kill -9`. The traps of Ray that this goes around stand in ray_head.py.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.cluster import ports as port_choice
from agentflow.cluster import ray_head, state
from agentflow.cluster.doctor import Check, doctor
from agentflow.cluster.ports import LOOPBACK, Ports
from agentflow.cluster.starter import Starter
from agentflow.cluster.state import ClusterAddress, Listener, read_address
from agentflow.errors import ClusterDown, Unavailable
from agentflow.ports import Principal
from agentflow.settings import Settings, load_settings

__all__ = ["Check", "ClusterAddress", "ClusterStatus", "doctor", "down", "read_address", "start_own", "status", "up"]

Progress = Callable[[str], None]
DRAIN_TIMEOUT_S = 600.0
GCS_TIMEOUT_S = 20.0
REQUEST_TIMEOUT_S = 5.0
POLL_S = 0.05
OPERATOR = Principal(name="operator", tenant_id="default", role="admin", any_mount=True)
"""Whoever can read the key file of this machine's home folder."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """`state`: stopped (nothing runs), ready, starting (alive, does not answer yet), broken (parts are gone: `up` repairs it)."""

    state: str
    address: ClusterAddress | None
    processes: int
    postgres_running: bool | None
    """None when the database is not ours."""
    message: str


def up(settings: Settings, *, app_dir: Path, progress: Progress) -> ClusterAddress:
    """Start the cluster and wait until it is ready. One that runs already is returned as it is (`fresh` is False).

    Raises Conflict (a port is taken, another `up` is at work), Unavailable, ClusterDown; then nothing of it is left running.
    """
    app_dir = app_dir.expanduser().absolute()
    if not app_dir.is_dir():
        raise Unavailable(f"The application folder {app_dir} is not there. Name one with --app-dir.")
    state.prepare_home(settings)
    with state.only_one(settings):
        found = read_address(settings)
        if found and _alive(settings, found):
            return found
        if found and (healed := _heal_gcs(settings, found, progress)):
            return healed
        if ray_head.processes(settings.home) or settings.cluster_file.exists():
            progress("clearing away what an earlier cluster left")
            _clear(settings)
        chosen = port_choice.choose(settings)
        try:
            return _Start(settings, chosen, app_dir=app_dir, progress=progress).run()
        except BaseException:
            progress("the start failed; undoing it")
            _keep_ray_logs(settings)
            _clear(settings)
            raise


def _heal_gcs(settings: Settings, address: ClusterAddress, progress: Progress) -> ClusterAddress | None:
    """When gcs_server alone is gone: bring it back, and everything goes on. None when that is not so, or did not help."""
    living = ray_head.core_pids(settings.home)
    if set(living) != {"raylet"} or living["raylet"] != address.pids.get("raylet"):
        return None
    progress("bringing Ray's GCS back")
    try:
        ray_head.restart_gcs(living["raylet"], address.gcs_command, log=settings.logs / "gcs-restart.log")
        _wait_ready(address.url, GCS_TIMEOUT_S, settings.logs)
    except (Unavailable, ClusterDown):
        return None
    healed = replace(address, pids=ray_head.core_pids(settings.home))
    if not _alive(settings, healed):
        return None
    state.write_address(settings, healed)
    return healed


class _Start:
    """One start. The slow parts overlap: Ray, the imports of the starter, PostgreSQL with its migrations."""

    def __init__(self, settings: Settings, ports: Ports, *, app_dir: Path, progress: Progress) -> None:
        self._settings = settings
        self._ports = ports
        self._app_dir = app_dir
        self._progress = progress
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._embedded = settings.database_url is None

    def run(self) -> ClusterAddress:
        settings, ports = self._settings, self._ports
        folder = state.make_run_folder(settings)
        token_file = settings.home / "ray-token"
        state.secret_of(token_file)
        if settings.haproxy:
            ray_head.write_haproxy(folder, ports)
        env = ray_head.environment(settings, ports, folder=folder, token_file=token_file)
        ray_log = settings.logs / "ray-start.log"
        self._progress("starting Ray and PostgreSQL" if self._embedded else "starting Ray")
        starting = ray_head.start(settings, ports, folder=folder, env=env, log=ray_log)
        starter = Starter(env=env, log=settings.logs / "start.log")
        with ThreadPoolExecutor(1) as pool:
            try:
                url = pool.submit(self._database)
                with self._timed("ray"):
                    while starting.poll() is None and self._left() > 1 and not _failed(url):
                        time.sleep(POLL_S)
                    if not _failed(url):
                        ray_head.wait_started(starting, log=ray_log, timeout_s=self._left())
                deployed = settings.model_copy(update={"port": ports.api, "dashboard_port": ports.dashboard})
                database_url = url.result(self._left())
                self._progress("starting the actors and the API")
                with self._timed("application"):
                    starter.deploy(deployed, app_dir=self._app_dir, database_url=database_url, timeout_s=self._left())
            finally:
                starter.close()
                if starting.poll() is None:
                    starting.kill()
                    starting.wait()
        self._progress("waiting until it is ready")
        with self._timed("ready"):
            _wait_ready(self._url(), self._left(), settings.logs)
        self._seconds["total"] = round(time.monotonic() - self._began, 2)
        address = self._address(folder, token_file)
        state.write_address(settings, address)
        return replace(address, fresh=True)

    def _database(self) -> str:
        """PostgreSQL started, migrated, and with the operator's key in it; its url."""
        with self._timed("database"):
            if self._settings.database_url:
                url = self._settings.database_url.get_secret_value()
            else:
                url = EmbeddedPostgres(self._settings.home).start()
            asyncio.run(_prepare_database(url, state.secret_of(self._settings.key_file)))
            return url

    def _left(self) -> float:
        return max(0.1, self._settings.start_timeout_s - (time.monotonic() - self._began))

    @contextmanager
    def _timed(self, part: str) -> Any:
        began = time.monotonic()
        yield
        self._seconds[part] = round(time.monotonic() - began, 2)

    def _url(self) -> str:
        host = self._settings.host
        host = LOOPBACK if host in ("0.0.0.0", "::") else host
        return f"http://[{host}]:{self._ports.api}" if ":" in host else f"http://{host}:{self._ports.api}"

    def _address(self, folder: Path, token_file: Path) -> ClusterAddress:
        settings, ports = self._settings, self._ports
        pids = ray_head.core_pids(settings.home)
        listeners = [
            Listener("API", settings.host, ports.api),
            Listener("Ray dashboard", LOOPBACK, ports.dashboard),
            Listener("Ray GCS", LOOPBACK, ports.gcs),
            Listener("API replicas (the first of up to 100 ports)", LOOPBACK, ports.replica),
        ]
        if settings.haproxy:
            listeners += [
                Listener("HAProxy statistics", LOOPBACK, ports.proxy_stats),
                Listener("HAProxy metrics", LOOPBACK, ports.proxy_metrics),
            ]
        return ClusterAddress(
            url=self._url(),
            dashboard_url=f"http://{LOOPBACK}:{ports.dashboard}",
            ray_address=f"{LOOPBACK}:{ports.gcs}",
            ray_environment=ray_head.driver_environment(settings, token_file),
            run_folder=str(folder),
            pids=pids,
            gcs_command=tuple(psutil.Process(pids["gcs_server"]).cmdline()),
            listeners=tuple(listeners),
            app_dir=str(self._app_dir),
            key_file=str(settings.key_file),
            token_file=str(token_file),
            embedded_postgres=self._embedded,
            versions={name: importlib.metadata.version(name) for name in ("agentflow", "ray")},
            started_at=datetime.now(UTC),
            seconds=dict(self._seconds),
        )


def _failed(work: Future[str]) -> bool:
    return work.done() and work.exception() is not None


async def _prepare_database(url: str, key: str) -> None:
    from agentflow.adapters.postgres import PostgresStore, migrate

    await migrate(url)
    async with PostgresStore(url) as store:
        await store.api_keys.add(key, OPERATOR)


def down(settings: Settings, *, drain: bool, progress: Progress) -> bool:
    """Stop everything of this home folder's cluster; False when nothing ran. `drain` first waits until no execution is running.

    Raises Conflict (an `up` is at work), Unavailable (a process does not end, or executions still run after 10 minutes).
    """
    if not settings.home.exists():
        return False
    with state.only_one(settings):
        found = read_address(settings)
        if drain and found and _alive(settings, found):
            _drain(settings, found, progress)
        return _clear(settings, progress)


def _clear(settings: Settings, progress: Progress = lambda message: None) -> bool:
    """Processes first: the one that restarts PostgreSQL is among them."""
    if running := ray_head.processes(settings.home):
        progress(f"stopping {len(running)} processes")
        ray_head.end_all(settings.home)
    settings.cluster_file.unlink(missing_ok=True)
    _remove_sandboxes(settings)
    postgres = EmbeddedPostgres(settings.home)
    stopped = False
    if settings.database_url is None or postgres.is_running():
        stopped = postgres.stop()
    state.remove_run_folder(settings)
    return bool(running) or stopped


def _remove_sandboxes(settings: Settings) -> None:
    """What tool actors that were killed left: gVisor's processes are not in the cluster's environment."""
    from agentflow.cluster.sandboxes import launcher_of

    if (settings.node_dir / "bundles").is_dir() and (launcher := launcher_of(settings)):
        asyncio.run(launcher.clean_up())


def status(settings: Settings) -> ClusterStatus:
    """What runs now; changes nothing."""
    address = read_address(settings)
    count = len(ray_head.processes(settings.home))
    postgres = EmbeddedPostgres(settings.home).is_running() if settings.database_url is None else None
    if address is None and count == 0:
        return ClusterStatus("stopped", None, 0, postgres, "no cluster runs; start one with `agentflow up`")
    if address is None:
        return ClusterStatus("broken", None, count, postgres, "an `up` is at work, or was killed; `agentflow down` clears it away")
    if not _alive(settings, address):
        return ClusterStatus("broken", address, count, postgres, "parts of the cluster are gone; `agentflow up` starts it anew")
    if (reason := _not_ready(address.url)) is not None:
        return ClusterStatus("starting", address, count, postgres, reason)
    return ClusterStatus("ready", address, count, postgres, "")


def start_own(
    *, home: str | os.PathLike[str] | None = None, app_dir: str | os.PathLike[str] | None = None
) -> tuple[str, str, Callable[[], None]]:
    """For `agentflow.connect(start=True)`: url, key, and what ends the cluster (nothing, if it ran before)."""
    settings = load_settings(home=home)
    address = up(settings, app_dir=Path(app_dir or settings.app_dir or Path.cwd()), progress=lambda message: None)

    def stop() -> None:
        if address.fresh:
            down(settings, drain=False, progress=lambda message: None)

    return address.url, settings.key_file.read_text("utf-8").strip(), stop


def _alive(settings: Settings, address: ClusterAddress) -> bool:
    """Whether Ray's two core processes are the ones that `up` started."""
    return len(address.pids) == 2 and ray_head.core_pids(settings.home) == dict(address.pids)


def _wait_ready(url: str, timeout_s: float, logs: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while (reason := _not_ready(url)) is not None:
        if time.monotonic() > deadline:
            raise ClusterDown(f"The cluster started but is not ready: {reason}. Logs are in {logs}.")
        time.sleep(POLL_S)


def _not_ready(url: str) -> str | None:
    """None when /ready answers 200, else why not."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=REQUEST_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{url}/ready answers {error.code}: {error.read(500).decode('utf-8', 'replace').strip()}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"


def _drain(settings: Settings, address: ClusterAddress, progress: Progress) -> None:
    """Wait until nothing runs. New executions are still accepted: whoever drains stops sending first."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    shown = -1
    while count := _running_executions(settings, address):
        if count != shown:
            progress(f"waiting for {count if count < 200 else 'many'} running executions to end")
            shown = count
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{count} executions still run after {DRAIN_TIMEOUT_S:.0f} s; nothing was stopped. They go on after the next `up` too."
            )
        time.sleep(0.5)


def _running_executions(settings: Settings, address: ClusterAddress) -> int:
    """Up to 200 of them. Raises Unavailable when the API does not answer."""
    key = settings.key_file.read_text("utf-8").strip()
    query = urllib.parse.urlencode({"status": "running", "limit": 200})
    request = urllib.request.Request(f"{address.url}/v1/executions?{query}", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return len(json.load(answer)["executions"])
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        raise Unavailable(f"The API does not say what runs ({error}); nothing was stopped. Stop without --drain.") from error


def _keep_ray_logs(settings: Settings) -> None:
    """Ray's logs lie in the folder that is about to go."""
    logs = state.run_folder(settings.home) / "ray" / "session_latest" / "logs"
    kept = settings.logs / "ray-last-failure"
    shutil.rmtree(kept, ignore_errors=True)
    if logs.is_dir():
        shutil.copytree(logs, kept, ignore_dangling_symlinks=True)
