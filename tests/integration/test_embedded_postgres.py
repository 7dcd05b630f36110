"""The embedded PostgreSQL: real processes, killed for real."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.embedded_postgres.place import SOCKET_PATH_LIMIT, place_of
from agentflow.errors import Unavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path / "home")
    yield postgres
    postgres.destroy()


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query, timeout=10)
    finally:
        await connection.close()


def in_another_process(home: Path, code: str) -> str:
    imports = "from pathlib import Path; from agentflow.adapters.embedded_postgres import EmbeddedPostgres"
    script = f"{imports}\nserver = EmbeddedPostgres(Path({str(home)!r}))\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


async def test_it_starts_and_commits_are_durable(server: EmbeddedPostgres) -> None:
    url = server.start()

    assert str(await ask(url, "show server_version")).startswith("18.")
    assert await ask(url, "select current_setting('synchronous_commit') || current_setting('fsync')") == "onon"


async def test_a_second_start_adopts_the_running_one(server: EmbeddedPostgres) -> None:
    url = server.start()
    pid = server.pid

    assert server.start() == url
    assert server.pid == pid


async def test_ten_starts_at_once_make_one_server(server: EmbeddedPostgres) -> None:
    urls = await asyncio.gather(*(asyncio.to_thread(server.start) for _ in range(10)))

    assert len(set(urls)) == 1
    assert await ask(urls[0], "select 1") == 1


async def test_it_outlives_the_process_that_started_it(tmp_path: Path, server: EmbeddedPostgres) -> None:
    pid = int(in_another_process(tmp_path / "home", "server.start(); print(server.pid)"))

    assert server.pid == pid
    assert await ask(server.url, "select 1") == 1


async def test_data_survive_stop_and_start(server: EmbeddedPostgres) -> None:
    await ask(server.start(), "create table kept as select 42 as answer")
    assert server.stop()
    assert not server.is_running()

    assert await ask(server.start(), "select answer from kept") == 42


def test_stop_is_idempotent_and_leaves_no_process(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.pid

    assert server.stop() is True
    assert server.stop() is False
    assert pid is not None and not _alive(pid)


async def test_a_killed_server_is_dead_at_once_and_starts_again_with_its_data(server: EmbeddedPostgres) -> None:
    await ask(server.start(), "create table kept as select 42 as answer")
    killed = server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await _until(lambda: not server.is_running())

    assert await ask(server.start(), "select answer from kept") == 42
    assert server.pid != killed


async def test_a_stale_pid_file_that_names_a_living_stranger_does_not_stop_the_start(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    place = place_of(server._home)
    pid_file = place.cluster / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n{place.cluster}\n1\n5432\n{place.sockets}\n\n1 1\nready\n")

    assert not server.is_running()
    assert await ask(server.start(), "select 1") == 1
    assert psutil.pid_exists(os.getppid())


async def test_an_initdb_that_was_interrupted_is_done_again(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (place_of(server._home).cluster / "PG_VERSION").unlink()

    assert await ask(server.start(), "select 1") == 1


async def test_a_wrong_password_is_refused(server: EmbeddedPostgres) -> None:
    url = server.start()
    password = url.split(":")[2].split("@")[0]

    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(url.replace(password, "wrong"), "select 1")


def test_nothing_listens_on_the_network_and_no_secret_is_readable_by_others(server: EmbeddedPostgres) -> None:
    server.start()
    place = place_of(server._home)
    assert server.pid is not None
    tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]

    assert [c for process in tree for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
    assert stat.S_IMODE(place.password.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.cluster.stat().st_mode) == 0o700
    assert place.password.read_text().strip() not in " ".join(psutil.Process(server.pid).cmdline())


def test_it_does_not_run_as_root_and_leaves_the_homes_permissions_alone(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    postgres = EmbeddedPostgres(locked / "home")
    try:
        postgres.start()
        assert postgres.pid is not None and psutil.Process(postgres.pid).uids().real != 0
        assert stat.S_IMODE(locked.stat().st_mode) == 0o700
    finally:
        postgres.destroy()


async def test_a_home_with_a_very_long_path_still_has_a_usable_socket(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / ("x" * 120) / "home")
    try:
        assert await ask(postgres.start(), "select 1") == 1
        assert len(str(place_of(postgres._home).sockets / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT
    finally:
        postgres.destroy()


def test_a_url_before_the_first_start_says_what_to_do(server: EmbeddedPostgres) -> None:
    with pytest.raises(Unavailable, match="agentflow up"):
        _ = server.url


def test_a_server_that_cannot_start_says_why(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (place_of(server._home).cluster / "postgresql.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(Unavailable, match="no_such_setting"):
        server.start()


def test_destroy_leaves_nothing(server: EmbeddedPostgres) -> None:
    server.start()
    place = place_of(server._home)
    server.destroy()

    assert not place.root.exists() and not place.sockets.exists()


def test_many_connections_fit(server: EmbeddedPostgres) -> None:
    url = server.start()

    async def open_many() -> int:
        connections = await asyncio.gather(*(asyncpg.connect(url, timeout=20) for _ in range(90)))
        for connection in connections:
            await connection.close()
        return len(connections)

    assert asyncio.run(open_many()) == 90


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
