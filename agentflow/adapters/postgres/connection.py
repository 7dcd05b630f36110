"""Connections to PostgreSQL: one place that names the statements and translates errors."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from agentflow.errors import StoreUnavailable

CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 30.0
POOL_SIZE = 4

UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
)
"""What asyncpg raises when the server is away, restarting, or the connection broke."""
SHUTTING_DOWN = (asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.TooManyConnectionsError, asyncpg.DiskFullError)

TROUBLED = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
)
"""The server is there and could not do it now; nothing was written."""


@functools.cache
def statement(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (Path(__file__).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")


async def connect(url: str) -> asyncpg.Connection[Any]:
    """One connection. Raises StoreUnavailable."""
    try:
        return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S, server_settings=SERVER_SETTINGS)
    except (*UNREACHABLE, *SHUTTING_DOWN) as error:
        raise unavailable(error) from error


SERVER_SETTINGS = {"application_name": "agentflow", "jit": "off", "timezone": "UTC"}


def unavailable(error: BaseException) -> StoreUnavailable:
    """The error for callers; the URL, which may hold a password, is not in it."""
    what = f"{type(error).__name__}: {error}"
    return StoreUnavailable(f"PostgreSQL cannot be reached ({what}); check that it runs and that the database URL is right")


class Pool:
    """A few connections for reads and small writes, opened when first needed, so that nothing fails while PostgreSQL is away."""

    def __init__(self, url: str, *, size: int = POOL_SIZE) -> None:
        self._url, self._size = url, size
        self._pool: asyncpg.Pool[Any] | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT_S)
            except TimeoutError:
                pool.terminate()

    async def _opened(self) -> asyncpg.Pool[Any]:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._url,
                        min_size=0,
                        max_size=self._size,
                        timeout=CONNECT_TIMEOUT_S,
                        command_timeout=STATEMENT_TIMEOUT_S,
                        server_settings=SERVER_SETTINGS,
                    )
        return self._pool

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A connection. Raises StoreUnavailable, also when it breaks while it is used."""
        try:
            pool = await self._opened()
            async with pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection:
                yield connection
        except (*UNREACHABLE, *SHUTTING_DOWN, *TROUBLED) as error:
            raise unavailable(error) from error

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        async with self.acquire() as connection:
            rows: list[Any] = await connection.fetch(statement(name), *arguments)
            return rows

    async def fetchrow(self, name: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchrow(statement(name), *arguments)
