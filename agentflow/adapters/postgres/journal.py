"""The journal in PostgreSQL: group commit with its fence and projections, and what a takeover reads."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from agentflow.adapters.postgres.connection import SHUTTING_DOWN, UNREACHABLE, Pool, connect, statement, unavailable
from agentflow.domain.event import Event, Line
from agentflow.engine.journal_codec import decode_event, encode_event
from agentflow.errors import CommitUnknown, Fenced, StoreUnavailable
from agentflow.ids import shard_of
from agentflow.ports import Append, Rejected, Wake

logger = logging.getLogger(__name__)

STORED_APART_BYTES = 16 << 10
"""Values over this are stored once by tenant and content hash, and referred to."""
LOAD_AT_ONCE = 200
FENCED = "another supervisor has taken a shard of this one; it must end"
CONTENT_CLASSES = frozenset({"22", "23", "54"})
"""SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded."""
REFUSED = "AF001"
"""SQLSTATE of `refuse()` in the migrations."""


class PostgresJournal:
    """See `ports.Journal`. Appends have a connection of their own: they never wait for a read."""

    def __init__(self, url: str, pool: Pool) -> None:
        self._url, self._pool = url, pool
        self._writer: asyncpg.Connection[Any] | None = None
        self._append: Any = None
        self._written = False

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close(timeout=2)

    async def take_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        rows = await self._pool.fetch("take_shards", list(shards), holder)
        return {row["shard"]: row["token"] for row in rows}

    async def keep_shards(self, shards: Sequence[int], holder: str) -> Mapping[int, int]:
        rows = await self._pool.fetch("keep_shards", list(shards), holder)
        if len(rows) != len(shards):
            raise Fenced(FENCED)
        return {row["shard"]: row["token"] for row in rows}

    async def append(self, tokens: Mapping[int, int], batch: Sequence[Append]) -> Sequence[Rejected]:
        rejected: list[Rejected] = []
        self._written = False
        try:
            await self._append_part(tokens, list(enumerate(batch)), rejected, set())
        except StoreUnavailable as error:
            if self._written:  # a part of it is durable, so it must not go again as it is
                raise CommitUnknown(f"PostgreSQL went away when a part of the batch was written: {error}") from error
            raise
        return sorted(rejected, key=lambda refusal: refusal.index)

    async def _append_part(
        self, tokens: Mapping[int, int], part: list[tuple[int, Append]], rejected: list[Rejected], fallen: set[str]
    ) -> None:
        """Write a part; when its content is refused, halve it until only the guilty execution (`fallen`) is left out."""
        for index, append in part:
            if append.execution_id in fallen:
                # it builds on an append that was left out
                rejected.append(Rejected(index, "content", "an earlier append of this execution was refused"))
        part = [(index, append) for index, append in part if append.execution_id not in fallen]
        if not part:
            return
        try:
            await self._write(tokens, [append for _, append in part])
            self._written = True
        except (asyncpg.PostgresError, UnicodeError) as error:
            if not _is_content(error):
                raise unavailable(error) from error
            if len(part) > 1:
                middle = len(part) // 2
                await self._append_part(tokens, part[:middle], rejected, fallen)
                await self._append_part(tokens, part[middle:], rejected, fallen)
                return
            rejected.append(Rejected(part[0][0], _code_of(error), str(error)))
            fallen.add(part[0][1].execution_id)

    async def _write(self, tokens: Mapping[int, int], batch: Sequence[Append]) -> None:
        """One statement, one commit. Raises Fenced, StoreUnavailable, CommitUnknown, PostgresError (refused content)."""
        arguments = columns(tokens, batch)
        if self._writer is None or self._writer.is_closed():
            # nothing was sent yet: a failure here is a plain "not written"
            writer = await connect(self._url)
            try:
                self._append = await writer.prepare(statement("append"))
            except (*UNREACHABLE, *SHUTTING_DOWN, asyncpg.PostgresError) as error:
                writer.terminate()
                raise unavailable(error) from error
            self._writer = writer
        try:
            row = await self._append.fetchrow(*arguments)
        except (*UNREACHABLE, *SHUTTING_DOWN, asyncio.CancelledError) as error:
            writer, self._writer = self._writer, None
            writer.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise CommitUnknown(f"the connection to PostgreSQL was lost while a commit was under way ({type(error).__name__})") from error
        if not row[0]:
            raise Fenced(FENCED)

    # ------------------------------------------------------------------ reads

    async def load(self, execution_ids: Sequence[str]) -> Mapping[str, Sequence[Line]]:
        found: dict[str, list[Line]] = {}
        for start in range(0, len(execution_ids), LOAD_AT_ONCE):
            for row in await self._pool.fetch("load", list(execution_ids[start : start + LOAD_AT_ONCE])):
                found.setdefault(str(row["execution_id"]), []).append(line_of(row))
        return found

    async def running(self, shards: Sequence[int]) -> Sequence[str]:
        return [str(row["execution_id"]) for row in await self._pool.fetch("running", list(shards))]

    async def due(self, shards: Sequence[int], until: datetime, limit: int) -> Sequence[Wake]:
        rows = await self._pool.fetch("due", list(shards), until, limit)
        return [Wake(str(row["execution_id"]), row["wake_at"]) for row in rows]

    async def session_version(self, tenant_id: str, agent: str, session_id: str) -> int:
        row = await self._pool.fetchrow("session_version", tenant_id, agent, session_id)
        return 0 if row is None else int(row["version"])


def line_of(row: Any) -> Line:
    """A journal line from a row of `load` or `events`."""
    return Line(row["seq"], row["at"], decode_event(row["kind"], row["body"], row["value"]))


def _is_content(error: Exception) -> bool:
    """True when PostgreSQL, or the driver, refused these very data. Anything else (a deadlock, a full disk, a server that is read-only
    or lacks a table) is the server's own trouble: the statement wrote nothing, and the same batch goes again."""
    state = getattr(error, "sqlstate", None)
    return state is None or state == REFUSED or state[:2] in CONTENT_CLASSES


def _code_of(error: Exception) -> str:
    state = getattr(error, "sqlstate", "")
    if state == asyncpg.UniqueViolationError.sqlstate:
        return "exists"
    return "session_moved" if state == REFUSED else "content"


def columns(tokens: Mapping[int, int], batch: Sequence[Append]) -> list[Any]:
    """The parameters of append.sql: one list a column. Of several rows for one execution the last counts."""
    shards = sorted({shard_of(append.execution_id) for append in batch})
    events: list[tuple[Any, ...]] = []
    apart: dict[tuple[str, bytes], bytes] = {}
    rows: dict[str, tuple[Any, ...]] = {}
    timers: dict[str, tuple[Any, ...]] = {}
    no_timers: set[str] = set()
    sessions: dict[tuple[str, str, str], tuple[Any, ...]] = {}
    for append in batch:
        execution_id, tenant_id = append.execution_id, append.tenant_id
        for seq, event in enumerate(append.events, append.first_seq):
            kind, body, value, value_hash = _event_columns(event, tenant_id, apart)
            events.append((execution_id, seq, tenant_id, append.at, kind, body, value, value_hash))
        if (row := append.row) is not None:
            shard = shard_of(execution_id)
            end_seq = append.first_seq + len(append.events) - 1 if row.status.ended else None
            names = (row.workflow, row.version, row.status.value, row.started_at, row.ended_at, end_seq, row.code_hash)
            rows[execution_id] = (execution_id, tenant_id, shard, *names, row.session_agent, row.session_id)
            timers.pop(execution_id, None)
            no_timers.discard(execution_id)
            if row.wake_at is not None:
                timers[execution_id] = (execution_id, shard, row.wake_at)
            elif append.first_seq > 1:
                no_timers.add(execution_id)
        if (session := append.session) is not None:
            key = (tenant_id, session.agent, session.session_id)
            sessions[key] = (*key, session.version, session.state, append.at)
    return [
        shards,
        [tokens[shard] for shard in shards],
        *_lists(events, 8),
        *_lists([(tenant_id, digest, value) for (tenant_id, digest), value in apart.items()], 3),
        *_lists(list(rows.values()), 12),
        *_lists(list(timers.values()), 3),
        list(no_timers),
        *_lists(list(sessions.values()), 6),
    ]


def _event_columns(event: Event, tenant_id: str, apart: dict[tuple[str, bytes], bytes]) -> tuple[str, bytes, bytes | None, bytes | None]:
    kind, body, value = encode_event(event)
    if value is None or len(value) <= STORED_APART_BYTES:
        return kind, body, value, None
    digest = hashlib.sha256(value).digest()
    apart[(tenant_id, digest)] = value
    return kind, body, None, digest


def _lists(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
