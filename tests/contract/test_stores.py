"""What every store must do; the same suite runs on PostgreSQL and in memory."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from agentflow.adapters.inmemory import InMemoryStore
from agentflow.adapters.postgres import PostgresStore, migrate
from agentflow.domain import event as ev
from agentflow.domain.event import Line
from agentflow.domain.execution import ExecutionStatus
from agentflow.domain.failure import Failure
from agentflow.domain.workflow import StepDefinition, Workflow
from agentflow.errors import Conflict, Fenced
from agentflow.ids import new_execution_id, shard_of
from agentflow.ports import Append, CatalogueEntry, ExecutionRow, Principal, SessionWrite

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(params=["postgres", "inmemory"])
def url(request):
    """A fresh database's, or None for the store in memory."""
    return request.getfixturevalue("fresh_postgres_url") if request.param == "postgres" else None


@pytest.fixture
async def store(url):
    if url is None:
        yield InMemoryStore()
        return
    await migrate(url)
    async with PostgresStore(url) as opened:
        yield opened


def started(value=b"1"):
    return ev.ExecutionStarted("acme", "w", "1", "hash", "ada", value, ("/srv",))


def row(status, *, ended_at=None, wake_at=None):
    return ExecutionRow("w", "1", status, NOW, ended_at, "hash", None, None, wake_at)


def start(execution_id, *, events=None, status=ExecutionStatus.RUNNING, wake_at=None, tenant="acme"):
    return Append(execution_id, tenant, 1, NOW, events or [started()], row(status, wake_at=wake_at))


def new_id(n=0):
    return new_execution_id(NOW + timedelta(milliseconds=n))


async def take(store):
    return await store.journal.take_shards(range(16), "me")


async def test_what_was_appended_is_loaded_in_order_and_unchanged(store):
    tokens = await take(store)
    execution_id = new_id()
    events = [
        started(b'{"a":"\\u0000 \\ud800"}'),
        ev.StepExpanded("m", 2),
        ev.StepScheduled("m[0]", 1),
        ev.EffectRecorded("m[0]", "0", "tool", "t:x", "ab", b"[1]", None),
        ev.EffectRecorded("m[0]", "1", "tool", "t:x", "cd", b"null", Failure("sandbox_oom", "over")),
        ev.StepFailed("m[0]", 1, Failure.of("e", "bad \ud800 \0"), NOW + timedelta(seconds=1)),
        ev.StepCrashed("m[0]", 2, 1),
        ev.StepDelayed("m[0]", 2, "needs 4 CPUs"),
        ev.StepCompleted("m[0]", 2, NOW, b"x" * 100_000),
        ev.StepSkipped("n"),
        ev.ExecutionFailed(Failure("c", "m", False), "m"),
    ]
    assert (
        await store.journal.append(tokens, [Append(execution_id, "acme", 1, NOW, events, row(ExecutionStatus.FAILED, ended_at=NOW))]) == []
    )

    lines = (await store.journal.load([execution_id]))[execution_id]

    assert lines == [Line(seq, NOW, event) for seq, event in enumerate(events, 1)]


async def test_a_cancelled_execution_keeps_who_cancelled_it(store):
    tokens = await take(store)
    execution_id = new_id()
    await store.journal.append(tokens, [start(execution_id)])
    ending = Append(execution_id, "acme", 2, NOW, [ev.ExecutionCancelled("eve", "why not")], row(ExecutionStatus.CANCELLED, ended_at=NOW))
    await store.journal.append(tokens, [ending])

    assert (await store.journal.load([execution_id]))[execution_id][-1].event == ev.ExecutionCancelled("eve", "why not")


async def test_a_stale_token_writes_nothing_at_all(store):
    stale = await take(store)
    fresh = await store.journal.take_shards([3], "other")
    ids = [new_execution_id(NOW, shard=shard) for shard in (2, 3, 4)]

    with pytest.raises(Fenced):
        await store.journal.append(stale, [start(execution_id) for execution_id in ids])

    assert await store.journal.load(ids) == {}
    assert fresh[3] == stale[3] + 1
    await store.journal.append({**stale, **fresh}, [start(execution_id) for execution_id in ids])
    assert set(await store.journal.load(ids)) == set(ids)


async def test_a_holder_keeps_its_shards_under_new_tokens_and_its_earlier_appends_write_nothing(store):
    tokens = await take(store)
    fresh = await store.journal.keep_shards(range(16), "me")
    execution_id = new_id()

    assert all(fresh[shard] > tokens[shard] for shard in range(16))
    with pytest.raises(Fenced):
        await store.journal.append(tokens, [start(execution_id)])
    assert await store.journal.load([execution_id]) == {}
    assert await store.journal.append(fresh, [start(execution_id)]) == []


async def test_who_has_lost_one_shard_cannot_keep_the_others(store):
    tokens = await take(store)
    theirs = await store.journal.take_shards([3], "other")

    with pytest.raises(Fenced):
        await store.journal.keep_shards(range(16), "me")
    execution_id = new_execution_id(NOW, shard=3)
    assert await store.journal.append({**tokens, **theirs}, [start(execution_id)]) == []


async def test_running_executions_are_listed_in_the_order_they_started(store):
    tokens = await take(store)
    ids = [new_id(n) for n in range(3)]
    for place, execution_id in enumerate((ids[2], ids[0], ids[1])):
        line = start(execution_id)
        line.row = dataclasses.replace(line.row, started_at=NOW + timedelta(seconds=place))
        await store.journal.append(tokens, [line])

    assert await store.journal.running(range(16)) == [ids[2], ids[0], ids[1]]


async def test_a_line_that_is_there_refuses_its_append_alone(store):
    tokens = await take(store)
    known, other = new_id(1), new_id(2)
    await store.journal.append(tokens, [start(known)])

    again = start(known, events=[started(b"2"), ev.StepScheduled("a", 1)])
    rejected = await store.journal.append(tokens, [again, start(other), Append(known, "acme", 3, NOW, [ev.StepSkipped("b")])])

    assert [(refusal.index, refusal.code) for refusal in rejected] == [(0, "exists"), (2, "content")]
    loaded = await store.journal.load([known, other])
    assert [line.event for line in loaded[known]] == [started(b"1")]
    assert len(loaded[other]) == 1


async def test_a_session_moves_by_one_version_or_its_append_is_refused(store):
    tokens = await take(store)
    first, second, stale = new_id(1), new_id(2), new_id(3)

    def write(execution_id, version, state):
        return Append(execution_id, "acme", 1, NOW, [started()], row(ExecutionStatus.RUNNING), SessionWrite("a:A", "s", version, state))

    assert await store.journal.append(tokens, [write(first, 1, b'{"n":1}')]) == []
    assert await store.journal.append(tokens, [write(second, 2, b'{"n":2}')]) == []
    rejected = await store.journal.append(tokens, [write(stale, 2, b'{"n":9}')])

    assert [refusal.code for refusal in rejected] == ["session_moved"]
    state = await store.sessions.load_session("acme", "a:A", "s")
    assert (state.version, state.state) == (2, b'{"n":2}')
    assert await store.journal.session_version("acme", "a:A", "s") == 2
    assert await store.journal.session_version("other", "a:A", "s") == 0
    assert await store.journal.load([stale]) == {}


async def test_a_takeover_finds_running_executions_and_due_timers_of_its_shards_only(store):
    tokens = await take(store)
    running, waiting, ended = new_execution_id(NOW, shard=1), new_execution_id(NOW, shard=2), new_execution_id(NOW, shard=1)
    wake = NOW + timedelta(seconds=30)
    await store.journal.append(tokens, [start(running), start(waiting, status=ExecutionStatus.WAITING, wake_at=wake), start(ended)])
    done = Append(ended, "acme", 2, NOW, [ev.ExecutionCompleted(b"1")], row(ExecutionStatus.COMPLETED, ended_at=NOW))
    await store.journal.append(tokens, [done])

    assert await store.journal.running([1, 2]) == [running]
    assert await store.journal.running([2, 3]) == []
    assert await store.journal.due([1, 2], NOW + timedelta(seconds=29), 10) == []
    assert [found.execution_id for found in await store.journal.due([1, 2], wake, 10)] == [waiting]
    assert await store.journal.due([1, 3], wake, 10) == []

    back = Append(waiting, "acme", 2, NOW, [ev.StepSkipped("a")], row(ExecutionStatus.RUNNING))
    await store.journal.append(tokens, [back])
    assert await store.journal.due([1, 2], wake, 10) == []
    assert set(await store.journal.running([1, 2])) == {running, waiting}


async def test_readers_see_their_own_tenant_only(store):
    tokens = await take(store)
    mine, theirs = new_id(1), new_id(2)
    rival = start(theirs, events=[ev.ExecutionStarted("rival", "w", "1", "h", "bob", b"1")], tenant="rival")
    await store.journal.append(tokens, [start(mine), rival])

    assert [view.execution_id for view in await store.executions.list("acme")] == [mine]
    assert await store.executions.get("acme", theirs) is None
    assert await store.executions.events("acme", theirs) == []
    assert (await store.executions.get("rival", theirs)).tenant_id == "rival"


async def test_get_shows_input_result_and_failure(store):
    tokens = await take(store)
    good, bad = new_id(1), new_id(2)
    ends = [ev.ExecutionCompleted(b"[42]"), ev.ExecutionFailed(Failure("boom", "it broke", False), "s")]
    for execution_id, ending, status in zip((good, bad), ends, (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED), strict=True):
        append = Append(execution_id, "acme", 1, NOW, [started(b'"in"'), ending], row(status, ended_at=NOW))
        await store.journal.append(tokens, [append])

    view = await store.executions.get("acme", good)
    assert (view.input, view.result, view.status, view.ended_at) == (b'"in"', b"[42]", ExecutionStatus.COMPLETED, NOW)
    view = await store.executions.get("acme", bad)
    assert (view.failure, view.failed_step, view.result) == (Failure("boom", "it broke", False), "s", None)
    assert (await store.executions.list("acme", status=ExecutionStatus.FAILED))[0].failure.code == "boom"


async def test_list_pages_newest_first_and_filters(store):
    tokens = await take(store)
    ids = [new_id(n) for n in range(7)]
    await store.journal.append(tokens, [start(execution_id) for execution_id in ids])

    first = await store.executions.list("acme", limit=3)
    second = await store.executions.list("acme", limit=10, before=first[-1].execution_id)

    assert [view.execution_id for view in [*first, *second]] == sorted(ids, reverse=True)
    assert await store.executions.list("acme", workflow="other") == []
    assert len(await store.executions.list("acme", workflow="w", status=ExecutionStatus.RUNNING)) == 7


async def test_event_pages_resume_by_seq_and_are_bounded_in_lines_and_bytes(store):
    tokens = await take(store)
    execution_id = new_id()
    events = [started(), *[ev.StepCompleted(f"s{n}", 1, NOW, b"v" * 1_000) for n in range(9)]]
    await store.journal.append(tokens, [Append(execution_id, "acme", 1, NOW, events, row(ExecutionStatus.RUNNING))])

    async def page(**kwargs):
        return [line.seq for line in await store.executions.events("acme", execution_id, **kwargs)]

    assert await page() == list(range(1, 11))
    assert await page(after=8) == [9, 10]
    assert await page(after=2, limit=3) == [3, 4, 5]
    assert await page(after=1, max_bytes=2_500) == [2, 3]
    assert await page(after=1, max_bytes=1) == [2]
    assert await page(after=10) == []


def workflow(source="x", version="1", name="w"):
    return Workflow(name, version, (StepDefinition("a", tool="m:f"),), source=source)


async def test_a_workflow_version_never_changes(store):
    assert await store.workflows.put("acme", workflow("one"), "ada") is True
    assert await store.workflows.put("acme", workflow("one"), "bob") is False
    with pytest.raises(Conflict):
        await store.workflows.put("acme", workflow("two"), "ada")
    assert (await store.workflows.get("acme", "w")).source == "one"
    assert await store.workflows.get("rival", "w") is None


async def test_the_latest_workflow_is_the_one_stored_last(store):
    for version in ("2", "10", "1"):
        await store.workflows.put("acme", workflow(version, version), "ada")
    await store.workflows.put("acme", workflow("other", name="a"), "ada")

    assert (await store.workflows.get("acme", "w")).version == "1"
    assert (await store.workflows.get("acme", "w", "10")).source == "10"
    assert await store.workflows.get("acme", "w", "3") is None
    assert [stored.version for stored in await store.workflows.versions("acme", "w")] == ["1", "10", "2"]
    assert [(stored.name, stored.version) for stored in await store.workflows.list("acme")] == [("a", "1"), ("w", "1")]
    assert [stored.name for stored in await store.workflows.list("acme", after="a")] == ["w"]


async def test_the_first_claim_of_a_key_holds_even_when_many_come_at_once(store):
    claims = await asyncio.gather(*(store.idempotency.claim("acme", "start", "k", f"body{n}", new_id(n)) for n in range(8)))

    assert sum(claim.fresh for claim in claims) == 1
    winner = next(claim for claim in claims if claim.fresh)
    assert {(claim.execution_id, claim.body_hash) for claim in claims} == {(winner.execution_id, winner.body_hash)}
    assert (await store.idempotency.claim("rival", "start", "k", "b", new_id(9))).fresh
    assert (await store.idempotency.claim("acme", "other", "k", "b", new_id(9))).fresh


async def test_keys_are_found_by_their_text_and_never_stored_as_it(store):
    principal = Principal("ada", "acme", "admin", True)
    await store.api_keys.add("secret", principal)
    await store.api_keys.add("secret", Principal("eve", "acme", "viewer"))

    assert await store.api_keys.find("secret") == principal
    assert await store.api_keys.find("Secret") is None


async def test_the_catalogue_is_what_the_last_scan_found(store):
    first = CatalogueEntry("agent", "b", "m:B", "does b", None, "h1")
    second = CatalogueEntry("tool", "t", "m:t", "", {"type": "object"}, "h2", {"wall_s": 1.0})
    await store.catalogue.replace("acme", [first, CatalogueEntry("agent", "a", "m:A", "", None, "h1")])
    assert [entry.name for entry in await store.catalogue.list("acme", "agent")] == ["a", "b"]
    await store.catalogue.replace("acme", [second])

    assert await store.catalogue.list("acme", "agent") == []
    assert await store.catalogue.list("acme", "tool") == [second]
    assert await store.catalogue.list("rival", "tool") == []


def test_the_shard_of_an_id_is_its_last_byte():
    assert {shard_of(new_execution_id(NOW, shard=shard)) for shard in range(16)} == set(range(16))
