"""What all tests share: the order of the tiers, one PostgreSQL and one cluster a session, missing services, leaked processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import asyncpg
import psutil
import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.embedded_postgres.place import ROOT_STATE
from agentflow.settings import Settings

if TYPE_CHECKING:
    from agentflow.cluster.local import ClusterAddress

TIERS = ("unit", "contract", "simulation", "integration", "packaging", "actors", "e2e", "chaos")
"""Folders of tests/ in the order they run: what is quick and needs nothing comes first, what kills processes last."""
TESTS = Path(__file__).parent
EXAMPLE = TESTS.parent / "examples" / "repository_review"
SESSION_MARK = "AGENTFLOW_TEST_SESSION"
"""Inherited by every process that a test starts, so that a leaked one is told from other people's."""

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ[SESSION_MARK] = secrets.token_hex(8)


# ---------------------------------------------------------------------------------------------------- order and services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_tier)  # stable: within a tier, files and tests keep their order


def _tier(item: pytest.Item) -> tuple[bool, bool, int]:
    folder = item.path.relative_to(TESTS).parts[0]
    if folder not in TIERS:
        raise pytest.UsageError(f"{item.path} is in no tier: tests stand in tests/{{{','.join(TIERS)}}}")
    if "cluster" in getattr(item, "fixturenames", ()) and item.get_closest_marker("ray") is None:
        item.add_marker(pytest.mark.ray)
    return item.get_closest_marker("chaos") is not None, item.get_closest_marker("ray") is not None, TIERS.index(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for service, is_missing in (("runsc", _runsc_missing), ("docker", _docker_missing), ("redis", _redis_missing)):
        if item.get_closest_marker(service) and (reason := is_missing()):
            # a laptop may lack a service; where CI lacks one, the tests would be green for nothing
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


def _runsc_missing() -> str:
    return "" if shutil.which("runsc") else "runsc is not installed (Debian package `runsc`)"


@cache
def _docker_missing() -> str:
    if not shutil.which("docker"):
        return "docker is not installed"
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    return "" if done.returncode == 0 else "the Docker daemon does not answer"


def _redis_missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed"


# ---------------------------------------------------------------------------------------------------- waiting


class WaitUntil(Protocol):
    """Waits for a condition, polling; fails the test with `what` when it does not come."""

    def __call__(self, condition: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None: ...


@pytest.fixture
def wait_until() -> WaitUntil:
    def wait(condition: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {timeout_s:g} s")
            time.sleep(0.05)

    return wait


# ---------------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="session")
def postgres_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's own PostgreSQL; tests take `postgres_url` or `fresh_postgres_url` and have a database to themselves."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.start()
    finally:
        server.destroy()


@pytest.fixture(scope="session", autouse=True)
def _no_database_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With root, embedded databases lie outside of the test's folder: those of homes in it are removed; none may still run."""
    yield
    folder = tmp_path_factory.getbasetemp().resolve()
    running = []
    for note in ROOT_STATE.glob("*/home"):
        home = Path(note.read_text().strip())
        if home.is_relative_to(folder):
            running += [home] if EmbeddedPostgres(home).is_running() else []
            EmbeddedPostgres(home).destroy()
    assert not running, f"PostgreSQL was left running for {running}"


@pytest.fixture(scope="module")
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database for this test module."""
    yield from _database(postgres_server_url)


@pytest.fixture
def fresh_postgres_url(postgres_server_url: str) -> Iterator[str]:
    """An empty database for this one test."""
    yield from _database(postgres_server_url)


@pytest.fixture
async def postgres_pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A small pool on the module's database."""
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=8) as pool:
        yield pool


def _database(server_url: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    _run(server_url, f"CREATE DATABASE {name} STRATEGY wal_log")
    try:
        yield server_url.replace("/postgres?", f"/{name}?")
    finally:
        _run(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _run(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(run())


# ---------------------------------------------------------------------------------------------------- cluster


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """The session's local cluster, with the example application and tests/app. Tests that stop or break it start one of their own."""

    settings: Settings
    address: ClusterAddress
    key: str

    @property
    def url(self) -> str:
        return self.address.url


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Made by `up` at the first use, ended by `down` when the session ends. Mark such tests with `ray`."""
    from agentflow.cluster import local

    app_dir = tmp_path_factory.mktemp("app")
    for folder in (EXAMPLE, TESTS / "app"):
        shutil.copytree(folder, app_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = Settings(home=tmp_path_factory.mktemp("cluster") / "home", port=0, dashboard_port=0)
    address = local.up(settings, app_dir=app_dir, progress=print)
    try:
        yield RunningCluster(settings, address, settings.key_file.read_text().strip())
    finally:
        local.down(settings, drain=False, progress=print)
        EmbeddedPostgres(settings.home).destroy()


# ---------------------------------------------------------------------------------------------------- leaks


def pytest_sessionfinish(session: pytest.Session) -> None:
    left = _leaked()
    session.config.stash[_LEAKS] = [f"{process.pid} {' '.join(process.cmdline())[:200]}" for process in left if process.is_running()]
    for process in left:
        process.kill()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if leaks := config.stash.get(_LEAKS, []):
        terminalreporter.section("leaked processes (killed now; the run counts as failed)", red=True)
        for line in leaks:
            terminalreporter.line(line)


_LEAKS = pytest.StashKey[list[str]]()


def _leaked() -> list[psutil.Process]:
    """Living processes of this session, this one apart; a process that ends by itself gets a moment for it."""
    mark = os.environ[SESSION_MARK]

    def living() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(SESSION_MARK) == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    found = living()
    if found:
        psutil.wait_procs(found, timeout=5)
        found = living()
    return found
