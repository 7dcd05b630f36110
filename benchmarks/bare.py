"""The physical limits that durable steps stand on: one Ray call between processes, one commit in PostgreSQL."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import ray


class Echo:
    """An empty async actor."""

    async def ping(self, body: bytes) -> bytes:
        return body


class Call:
    """A call to an empty actor in another process, with a body as small as a step's."""

    def __init__(self) -> None:
        decorate: Any = ray.remote(num_cpus=0, max_concurrency=1_000)  # type: ignore[call-overload]  # Ray's stubs do not know it
        self._actor = decorate(Echo).remote()

    async def __call__(self) -> None:
        await self._actor.ping.remote(b"x" * 200)


class Commit:
    """Rows of an event's size committed by one statement on one connection: what group commit can reach."""

    def __init__(self, connection: asyncpg.Connection[Any], rows: int) -> None:
        self._connection, self._rows = connection, rows

    @staticmethod
    async def prepare(url: str) -> asyncpg.Connection[Any]:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE IF NOT EXISTS bare (id uuid, seq integer, body bytea, PRIMARY KEY (id, seq))")
        return connection

    async def __call__(self) -> None:
        ids, numbers, bodies = [uuid.uuid4()] * self._rows, list(range(self._rows)), [b"x" * 150] * self._rows
        await self._connection.execute(
            "INSERT INTO bare SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bytea[])", ids, numbers, bodies
        )


async def one_by_one(work: Callable[[], Awaitable[None]], *, seconds: float) -> list[float]:
    """How long each took, in seconds, one after another for so long."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        async with asyncio.timeout(30):
            await work()
        latencies.append(time.perf_counter() - began)
    return latencies
