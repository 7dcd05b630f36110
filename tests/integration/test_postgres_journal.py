"""The journal's promises that only a real PostgreSQL can show: its fence under a race, and connections cut under load."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime

import asyncpg
import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.adapters.postgres import PostgresStore, migrate
from agentflow.adapters.postgres.connection import statement
from agentflow.adapters.postgres.journal import columns
from agentflow.clock import utc_now
from agentflow.codec import encode_value
from agentflow.domain import event as ev
from agentflow.domain.agent import Agent
from agentflow.domain.command import Start
from agentflow.domain.execution import ExecutionStatus
from agentflow.errors import Conflict, Fenced, StoreUnavailable
from agentflow.ids import new_execution_id
from agentflow.ports import Append, ExecutionRow
from agentflow.testing.runtime import LocalRuntime, result_of

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)

CHAIN = """
apiVersion: agentflow/v1
name: chain
agents: {add: {uses: "t:Add"}}
steps:
  - {name: a, agent: add, input: "${ input }"}
  - {name: b, agent: add, input: "${ steps.a.output }"}
  - {name: c, agent: add, input: "${ steps.b.output }"}
"""


class Add(Agent):
    async def run(self, context, input):
        await asyncio.sleep(0)
        return input + 1


@pytest.fixture
async def store(fresh_postgres_url):
    await migrate(fresh_postgres_url)
    async with PostgresStore(fresh_postgres_url) as opened:
        yield opened


@pytest.fixture
async def aside(fresh_postgres_url):
    """A connection of the test's own."""
    connection = await asyncpg.connect(fresh_postgres_url)
    yield connection
    await connection.close()


def append(execution_id):
    started = ev.ExecutionStarted("acme", "w", "1", "h", "ada", b"1")
    row = ExecutionRow("w", "1", ExecutionStatus.RUNNING, NOW, None, "h")
    return Append(execution_id, "acme", 1, NOW, [started], row)


async def waits_for_a_lock(connection, task):
    """True once some backend waits for a lock; the task must not be done by then."""
    async with asyncio.timeout(10):
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"):
            assert not task.done()
            await asyncio.sleep(0.01)


async def test_a_takeover_waits_for_an_append_under_way_and_then_sees_what_it_wrote(store, aside, fresh_postgres_url):
    tokens = await store.journal.take_shards([0], "old")
    execution_id = new_execution_id(NOW, shard=0)
    writer = await asyncpg.connect(fresh_postgres_url)
    transaction = writer.transaction()
    await transaction.start()
    row = await writer.fetchrow(statement("append"), *columns(tokens, [append(execution_id)]))
    assert row[0] is True

    takeover = asyncio.create_task(store.journal.take_shards([0], "new"))
    await waits_for_a_lock(aside, takeover)
    await transaction.commit()
    await writer.close()
    await asyncio.wait_for(takeover, 10)

    # whoever has taken over reads everything that the old one could still write: nothing comes after
    assert await store.journal.running([0]) == [execution_id]


async def test_an_append_that_meets_a_takeover_under_way_is_fenced(store, aside):
    tokens = await store.journal.take_shards([0], "old")
    execution_id = new_execution_id(NOW, shard=0)
    async with aside.transaction():
        await aside.execute("UPDATE shard SET token = token + 1 WHERE shard = 0")
        stale = asyncio.create_task(store.journal.append(tokens, [append(execution_id)]))
        async with asyncio.timeout(10):
            while not await aside.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not stale.done()
                await asyncio.sleep(0.01)

    with pytest.raises(Fenced):
        await asyncio.wait_for(stale, 10)
    assert await store.journal.load([execution_id]) == {}


async def test_keeping_the_shards_waits_for_a_lost_append_that_still_runs(store, aside, fresh_postgres_url):
    tokens = await store.journal.take_shards([0], "me")
    execution_id = new_execution_id(NOW, shard=0)
    lost = await asyncpg.connect(fresh_postgres_url)
    transaction = lost.transaction()
    await transaction.start()
    await lost.fetchrow(statement("append"), *columns(tokens, [append(execution_id)]))

    settled = asyncio.create_task(store.journal.keep_shards([0], "me"))
    await waits_for_a_lock(aside, settled)
    await transaction.commit()
    await lost.close()
    await asyncio.wait_for(settled, 10)

    assert await store.journal.running([0]) == [execution_id]


async def test_migrations_are_applied_once_even_by_many_at_a_time(fresh_postgres_url, aside):
    applied = await asyncio.gather(*(migrate(fresh_postgres_url) for _ in range(4)))

    assert sorted(map(len, applied)) == [0, 0, 0, len(max(applied, key=len))]
    assert await aside.fetchval("SELECT count(*) FROM shard") == 16


async def test_a_migration_that_was_changed_afterwards_is_refused(fresh_postgres_url, aside):
    await migrate(fresh_postgres_url)
    await aside.execute("UPDATE migration SET checksum = 'other'")

    with pytest.raises(Conflict, match="changed after"):
        await migrate(fresh_postgres_url)


async def test_rows_land_in_the_partition_of_their_month(store, aside):
    tokens = await store.journal.take_shards(range(16), "me")
    now = datetime.now(UTC)
    await store.journal.append(tokens, [append(new_execution_id(now))])

    assert await aside.fetchval("SELECT tableoid::regclass::text FROM event") == f"event_{now:%Y_%m}"
    assert await aside.fetchval("SELECT count(*) FROM event_default") == 0


async def test_a_large_value_is_stored_once_however_often_it_occurs(store, aside):
    tokens = await store.journal.take_shards(range(16), "me")
    big = b'"' + b"x" * 50_000 + b'"'
    execution_id = new_execution_id(NOW)
    lines = [append(execution_id)]
    lines[0].events = [*lines[0].events, *[ev.StepCompleted(f"s{n}", 1, NOW, big) for n in range(5)]]
    await store.journal.append(tokens, lines)

    assert await aside.fetchval("SELECT count(*) FROM stored_value") == 1
    loaded = (await store.journal.load([execution_id]))[execution_id]
    assert [line.event.value for line in loaded[1:]] == [big] * 5


@pytest.mark.parametrize("name", ["running", "due", "load", "events", "execution_list", "execution_get"])
async def test_hot_reads_use_an_index(store, aside, name):
    arguments = {
        "running": ([1, 2],),
        "due": ([1, 2], NOW, 10),
        "load": ([new_execution_id(NOW)],),
        "events": ("acme", new_execution_id(NOW), 0, 10, 1_000),
        "execution_list": ("acme", None, None, None, 10),
        "execution_get": ("acme", new_execution_id(NOW)),
    }[name]
    # an empty table is read whole whatever its indexes are: what counts is that an index can answer
    await aside.execute("SET enable_seqscan = off")
    plan = await aside.fetch("EXPLAIN " + statement(name), *arguments)
    text = "\n".join(row[0] for row in plan)

    assert "Index" in text
    assert "Seq Scan on event" not in text and "Seq Scan on execution" not in text, text


async def test_connections_cut_under_load_lose_nothing_and_repeat_nothing(store, aside, caplog):
    caplog.set_level(logging.CRITICAL)
    async with LocalRuntime(store=store, agents={"t:Add": Add()}) as runtime:
        ids = [await runtime.start(CHAIN, 0)]
        cuts = 0

        async def cut():
            # a bounded number of times: commits that are cut faster than they can end would never end
            nonlocal cuts
            while cuts < 12:
                cuts += await aside.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await asyncio.sleep(0.05)

        cutter = asyncio.create_task(cut())

        async def one(n):
            execution_id = new_execution_id(utc_now())
            command = Start(execution_id, "default", "t", "chain", "1", encode_value(n), "testing")
            while True:
                reply = await runtime.submit(command)
                if not reply.error_code:
                    return execution_id
                assert reply.error_code in ("unavailable", "store_unavailable"), reply
                await asyncio.sleep(0.01)

        ids += await asyncio.gather(*(one(n) for n in range(200)))
        await asyncio.wait_for(cutter, 60)
        views = [await runtime.ended(execution_id) for execution_id in ids]
        journals = await store.journal.load(ids)

    assert [result_of(view) for view in views] == [3, *[n + 3 for n in range(200)]]
    for execution_id, lines in journals.items():
        completed = Counter(line.event.step for line in lines if isinstance(line.event, ev.StepCompleted))
        assert completed == {"a": 1, "b": 1, "c": 1}, execution_id
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))


async def test_a_restart_of_postgres_makes_executions_wait_and_go_on(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    server = EmbeddedPostgres(tmp_path / "home")
    try:
        await migrate(await asyncio.to_thread(server.start))
        async with PostgresStore(server.url) as store, LocalRuntime(store=store, agents={"t:Add": Add()}) as runtime:
            ids = [await runtime.start(CHAIN, n) for n in range(20)]
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailable):
                await store.ping()
            await asyncio.to_thread(server.start)
            views = [await runtime.ended(execution_id) for execution_id in ids]
            ids.append(await runtime.start(CHAIN, 100))
            views.append(await runtime.ended(ids[-1]))
    finally:
        await asyncio.to_thread(server.destroy)

    assert [result_of(view) for view in views] == [*[n + 3 for n in range(20)], 103]
