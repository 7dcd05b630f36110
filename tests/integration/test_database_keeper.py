"""The actor class that keeps the embedded PostgreSQL alive, without Ray."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentflow.actors.database import BACKOFF_S, STEADY_S, DatabaseKeeper
from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.embedded_postgres.place import place_of


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    found = EmbeddedPostgres(tmp_path)
    found.start()
    yield found
    found.destroy()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that the keeper asked for; they are not waited for."""
    delays: list[float] = []
    at_once = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        await at_once(0)

    monkeypatch.setattr("agentflow.actors.database.asyncio.sleep", sleep)
    return delays


def kill(postgres: EmbeddedPostgres) -> None:
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    while postgres.pid is not None:  # bounded by the test's timeout
        pass


async def test_it_leaves_a_living_server_alone(tmp_path: Path, postgres: EmbeddedPostgres, slept: list[float]) -> None:
    keeper, pid = DatabaseKeeper(str(tmp_path)), postgres.pid
    await keeper.tick(0.0)

    assert postgres.pid == pid
    assert (keeper.restarts, slept) == (0, [])


async def test_it_starts_a_killed_one_at_once(tmp_path: Path, postgres: EmbeddedPostgres, slept: list[float]) -> None:
    keeper = DatabaseKeeper(str(tmp_path))
    kill(postgres)
    await keeper.tick(0.0)

    assert postgres.is_running()
    assert (keeper.restarts, slept) == (1, [0.0])


async def test_one_that_cannot_start_is_tried_with_growing_delays_and_comes_back(
    tmp_path: Path, postgres: EmbeddedPostgres, slept: list[float]
) -> None:
    keeper = DatabaseKeeper(str(tmp_path))
    configuration = place_of(tmp_path).cluster / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "no_such_setting = 1\n")
    kill(postgres)
    for now_s in range(3):
        await keeper.tick(float(now_s))
    assert (keeper.restarts, slept) == (0, list(BACKOFF_S[:3]))

    configuration.write_text(good)
    await keeper.tick(10.0)
    assert postgres.is_running()
    assert slept == list(BACKOFF_S[:4])


async def test_after_a_steady_time_the_first_delay_counts_again(tmp_path: Path, postgres: EmbeddedPostgres, slept: list[float]) -> None:
    keeper = DatabaseKeeper(str(tmp_path))
    kill(postgres)
    await keeper.tick(0.0)
    await keeper.tick(1.0)
    await keeper.tick(1.0 + STEADY_S + 1.0)
    kill(postgres)
    await keeper.tick(100.0)

    assert slept == [BACKOFF_S[0], BACKOFF_S[0]]
