"""Numbered migrations with a checksum, under an advisory lock; and the partitions of the months to come."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentflow.adapters.postgres.connection import connect
from agentflow.errors import Conflict

LOCK = 0x6167656E74666C6F  # "agentflo"
MONTHS_AHEAD = 3
PARTITIONED = ("event", "execution")


async def migrate(url: str) -> list[str]:
    """Bring the database up to date; returns what was applied. Safe to run from several processes at once.

    Raises StoreUnavailable, and Conflict when an applied migration was changed afterwards or a newer version made the database.
    """
    connection = await connect(url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        try:
            applied = await _apply(connection)
            await make_partitions(connection, datetime.now(UTC))
            return applied
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    finally:
        await connection.close()


async def _apply(connection: Any) -> list[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migration "
        "(name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    known = {row["name"]: row["checksum"] for row in await connection.fetch("SELECT name, checksum FROM migration")}
    files = sorted((Path(__file__).parent / "migrations").glob("[0-9]*.sql"))
    if newer := sorted(known.keys() - {file.stem for file in files}):
        raise Conflict(f"the database has migration {newer[-1]}, which this version does not know: use a newer AgentFlow")
    applied = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if file.stem in known:
            if known[file.stem] != checksum:
                raise Conflict(f"migration {file.stem} was changed after it had been applied; migrations are never edited, add a new one")
            continue
        async with connection.transaction():
            await connection.execute(text)
            await connection.execute("INSERT INTO migration (name, checksum) VALUES ($1, $2)", file.stem, checksum)
        applied.append(file.stem)
    return applied


async def make_partitions(connection: Any, now: datetime) -> None:
    """One partition a month, for this month and those to come. A month whose rows are in the default partition already stays there."""
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    for _ in range(MONTHS_AHEAD + 1):
        after = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
        for table in PARTITIONED:
            name = f"{table}_{first:%Y_%m}"
            if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name):
                continue
            low, high = _lowest_id(first), _lowest_id(after)
            taken = await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM {table}_default WHERE execution_id >= $1 AND execution_id < $2)",
                low,
                high,
            )
            if not taken:
                await connection.execute(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ('{low}') TO ('{high}')")
        first = after


def _lowest_id(at: datetime) -> uuid.UUID:
    """The first UUIDv7 of a moment."""
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80)
