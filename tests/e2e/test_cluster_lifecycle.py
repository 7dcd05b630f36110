"""`up`, `down` and `doctor` on real processes: what runs, what listens, and what is left after kill -9."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.cluster import local, ray_head, state
from agentflow.errors import ClusterDown, Conflict, Unavailable
from agentflow.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "repository_review"

pytestmark = [pytest.mark.ray, pytest.mark.runsc, pytest.mark.timeout(300)]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = Settings(home=tmp_path / "home", port=0, dashboard_port=0, warm_agents=0, sandbox_pool_size=0)
    yield found
    local.down(found, drain=False, progress=print)
    EmbeddedPostgres(found.home).destroy()


def up(settings: Settings) -> local.ClusterAddress:
    return local.up(settings, app_dir=EXAMPLE, progress=print)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def test_one_cluster_from_up_to_down(settings: Settings, wait_until: Callable[..., None]) -> None:
    """One start (a second after raylet is killed) for all that needs no other: each takes half a minute on a busy machine."""
    first = up(settings)
    assert first.fresh
    assert local.status(settings).state == "ready"
    _assert_only_the_loopback_is_open_and_secrets_are_kept(settings, first)

    again = up(settings)
    assert not again.fresh
    assert again.pids == first.pids

    _assert_postgres_comes_back(settings, wait_until)
    assert local.read_address(settings) == replace(first, fresh=False)

    os.kill(first.pids["gcs_server"], signal.SIGKILL)
    wait_until(lambda: local.status(settings).state == "broken", "the loss of the GCS is seen")
    repaired = up(settings)
    assert not repaired.fresh
    assert repaired.pids["raylet"] == first.pids["raylet"] and repaired.pids["gcs_server"] != first.pids["gcs_server"]

    key = settings.key_file.read_text()
    os.kill(first.pids["raylet"], signal.SIGKILL)
    assert local.status(settings).state == "broken"
    healed = up(settings)
    assert healed.fresh and healed.pids["raylet"] != first.pids["raylet"]
    assert settings.key_file.read_text() == key
    assert b"ready" in get(f"{healed.url}/ready")

    processes = ray_head.processes(settings.home)
    assert local.down(settings, drain=True, progress=print) is True
    _assert_nothing_is_left(settings, processes)
    assert local.down(settings, drain=False, progress=print) is False
    assert local.status(settings).state == "stopped"


def _assert_only_the_loopback_is_open_and_secrets_are_kept(settings: Settings, address: local.ClusterAddress) -> None:
    processes = ray_head.processes(settings.home)
    listening = [c for process in processes for c in _connections(process) if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 5
    assert {c.laddr[0] for c in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, "something listens beyond the loopback"
    taken = {c.laddr[1] for c in listening}
    replicas = next(listener.port for listener in address.listeners if "replicas" in listener.what)
    assert {listener.port for listener in address.listeners} - {replicas} <= taken, "what `up` prints is not what listens"
    assert len(taken & set(range(replicas, replicas + 100))) == settings.http_replicas

    for secret in (settings.key_file, settings.home / "ray-token", settings.cluster_file):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    logs = "".join(path.read_text(errors="replace") for path in settings.logs.glob("*.log"))
    arguments = "".join(_arguments(process) for process in processes)
    for word in (settings.key_file.read_text().strip(), (settings.home / "ray-token").read_text().strip()):
        assert word not in logs + settings.cluster_file.read_text() + arguments


def _connections(process: psutil.Process) -> list[Any]:
    """None for a process that has ended meanwhile: Ray's short-lived ones come and go."""
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def _arguments(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _assert_postgres_comes_back(settings: Settings, wait_until: Callable[..., None]) -> None:
    postgres = EmbeddedPostgres(settings.home)
    killed = postgres.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: postgres.pid not in (None, killed) and postgres.is_running(), "PostgreSQL runs again")
    wait_until(lambda: local.status(settings).state == "ready", "the cluster is ready again")


def _assert_nothing_is_left(settings: Settings, processes: list[psutil.Process]) -> None:
    assert len(processes) > 10
    assert [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert ray_head.processes(settings.home) == []
    assert not EmbeddedPostgres(settings.home).is_running()
    assert not state.run_folder(settings.home).exists()


def test_down_clears_away_an_up_that_was_killed_halfway(settings: Settings, wait_until: Callable[..., None]) -> None:
    code = (
        "from pathlib import Path; from agentflow.cluster import local; from agentflow.settings import Settings\n"
        f"local.up(Settings(home={str(settings.home)!r}, port=0, dashboard_port=0), app_dir=Path({str(EXAMPLE)!r}), progress=print)"
    )
    starting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    wait_until(lambda: len(ray_head.core_pids(settings.home)) == 2, "Ray runs")
    starting.kill()
    starting.wait()
    assert local.status(settings).state == "broken"

    assert local.down(settings, drain=False, progress=print) is True
    assert ray_head.processes(settings.home) == []


def test_a_port_that_is_taken_is_named_with_its_holder_and_nothing_is_started(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(Conflict, match=rf"Port {port} .* pid {os.getpid()} .*AGENTFLOW_PORT"):
            up(settings.model_copy(update={"port": port}))

    assert ray_head.processes(settings.home) == []


def test_a_database_that_cannot_be_reached_is_said_and_everything_is_undone(settings: Settings) -> None:
    from pydantic import SecretStr

    wrong = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody:secret-word@127.0.0.1:9/none")})
    with pytest.raises(Unavailable) as failed:
        up(wrong)

    assert "PostgreSQL" in str(failed.value)
    assert "secret-word" not in str(failed.value)
    assert ray_head.processes(settings.home) == []
    assert not settings.cluster_file.exists()


def test_a_ray_that_does_not_start_is_said_with_its_log(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head, "OBJECT_STORE_BYTES", "nonsense")

    with pytest.raises(ClusterDown, match=r"ray-start\.log"):
        up(settings)

    assert ray_head.processes(settings.home) == []
    assert not EmbeddedPostgres(settings.home).is_running()


def test_an_application_folder_that_is_not_there_is_said_at_once(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="--app-dir"):
        local.up(settings, app_dir=Path("/nowhere"), progress=print)


def test_two_ups_at_once_make_one_cluster_or_a_clear_refusal(settings: Settings) -> None:
    state.prepare_home(settings)
    with state.only_one(settings), pytest.raises(Conflict, match="at work"):
        up(settings)


def test_doctor_changes_nothing_and_knows_every_part(settings: Settings) -> None:
    checks = {check.name: check for check in local.doctor(settings)}

    assert not settings.home.exists()
    assert {"python", "ray", "haproxy", "sandboxes", "postgresql", "API port", "cluster"} <= checks.keys()
    assert [check for check in checks.values() if check.status == "fail"] == []


def test_doctor_says_what_is_wrong_and_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        checks = {check.name: check for check in local.doctor(settings.model_copy(update={"port": taken.getsockname()[1]}))}

    assert checks["sandboxes"].status == "fail" and "AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS" in checks["sandboxes"].advice
    assert checks["API port"].status == "fail" and str(os.getpid()) in checks["API port"].message
