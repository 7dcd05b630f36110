"""The journal over HTTP: JSON pages, and server-sent events that are live, resumable and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentflow.client.following import Place
from agentflow.client.views import Event
from agentflow.domain.event import EffectRecorded, StepCompleted, StepFailed, StepScheduled
from agentflow.domain.failure import Failure
from agentflow.serve import wire

AT = datetime(2026, 11, 21, 12, 0, 1, 500, tzinfo=UTC)


class Stream:
    """One open event stream, driven at the ASGI level: nothing is sent before the test takes it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self.gone = asyncio.Event()
        self.finished = asyncio.Event()
        self.started = asyncio.Event()
        self.raw = b""
        self.asked = False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.started.set()
        elif message.get("body"):
            await self.chunks.put(message["body"])
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.finished.set()

    async def take(self) -> bytes:
        async with asyncio.timeout(20):
            chunk = await self.chunks.get()
        self.raw += chunk
        return chunk

    async def events(self, count: int, *, after: int = 0) -> list[Event]:
        """The next `count` events."""
        place = Place(after)
        found: list[Event] = []
        while len(found) < count:
            found += place.feed(await self.take())
        return found

    async def end(self) -> None:
        async with asyncio.timeout(20):
            while not self.finished.is_set():
                if self.chunks.empty():
                    await asyncio.sleep(0)
                else:
                    self.raw += self.chunks.get_nowait()


@asynccontextmanager
async def opened(world: Any, execution_id: str, headers: dict[str, str], query: str = "") -> AsyncIterator[Stream]:
    stream = Stream()
    every = {"accept": "text/event-stream", **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/v1/executions/{execution_id}/events",
        "raw_path": b"",
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in every.items()],
        "client": ("127.0.0.1", 1),
        "server": ("api", 80),
    }
    task = asyncio.create_task(world.app(scope, stream.receive, stream.send))
    try:
        async with asyncio.timeout(20):
            await stream.started.wait()
        yield stream
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_page_has_every_line_with_its_own_fields_and_value(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.add(
        execution_id,
        StepScheduled("hello", 1),
        StepFailed("hello", 1, Failure("boom", "no"), retry_at=AT + timedelta(seconds=1)),
        StepScheduled("hello", 2),
        EffectRecorded("hello", "0", "tool", "count", "ab12", b"[1,2]"),
        StepCompleted("hello", 2, AT, b'{"said":"hi"}'),
    )
    world.supervisor.complete(execution_id, {"said": "hi"})
    answer = await world.client.get(f"/v1/executions/{execution_id}/events", headers=keys.viewer)
    page = wire.EventPage.model_validate_json(answer.content)
    assert [event.seq for event in page.events] == [1, 2, 3, 4, 5, 6, 7] and page.next_after == 7 and page.ended
    lines = answer.json()["events"]
    assert lines[0]["kind"] == "execution.started" and lines[0]["value"] == {"name": "Ada"} and "value" not in lines[0]["body"]
    assert "value" not in lines[1] and lines[1]["body"] == {"step": "hello", "attempt": 1}
    assert lines[2]["body"]["failure"] == {"code": "boom", "message": "no", "retryable": True}
    assert lines[2]["body"]["retry_at"] == "2026-11-21T12:00:02.000500Z"
    assert lines[4]["value"] == [1, 2] and lines[4]["body"]["failure"] is None
    assert lines[5]["body"]["started_at"] == "2026-11-21T12:00:01.000500Z"


async def test_pages_follow_each_other_by_after(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.add(execution_id, *[StepScheduled(f"s{n}", 1) for n in range(6)])
    seen: list[int] = []
    after = 0
    while True:
        answer = await world.client.get(f"/v1/executions/{execution_id}/events?after={after}&limit=3", headers=keys.viewer)
        page = answer.json()
        if not page["events"]:
            break
        assert len(page["events"]) <= 3 and not page["ended"]
        seen += [event["seq"] for event in page["events"]]
        after = page["next_after"]
    assert seen == [1, 2, 3, 4, 5, 6, 7] and page["next_after"] == 7


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", f"after={2**40}"])
async def test_a_query_that_is_wrong_is_400(world: Any, keys: Any, query: str) -> None:
    execution_id = await world.started()
    answer = await world.client.get(f"/v1/executions/{execution_id}/events?{query}", headers=keys.viewer)
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"


async def test_a_stream_is_live_and_ends_behind_the_ending_event(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    async with opened(world, execution_id, keys.viewer) as stream:
        assert stream.status == 200 and stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert [event.kind for event in await stream.events(1)] == ["execution.started"]
        world.supervisor.add(execution_id, StepScheduled("hello", 1))
        assert [(event.seq, event.kind) for event in await stream.events(1)] == [(2, "step.scheduled")]
        world.supervisor.complete(execution_id, {"a": 1})
        (last,) = await stream.events(1)
        assert last.ends and last.value == {"a": 1}
        await stream.end()
    assert b"\nevent: execution.completed\n" in stream.raw and b"id: 3\n" in stream.raw
    assert world.api.metrics.streams_open == 0 and not world.api.feed.waiting


@pytest.mark.parametrize(("header", "query"), [("2", ""), ("2", "after=9"), ("", "after=2")])
async def test_a_stream_resumes_behind_the_last_event_read(world: Any, keys: Any, header: str, query: str) -> None:
    execution_id = await world.started()
    world.supervisor.add(execution_id, *[StepScheduled(f"s{n}", 1) for n in range(4)])
    headers = keys.viewer | ({"Last-Event-ID": header} if header else {})
    async with opened(world, execution_id, headers, query) as stream:
        assert [event.seq for event in await stream.events(3)] == [3, 4, 5]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "99999999999", "١"])
async def test_a_last_event_id_that_is_no_seq_is_400(world: Any, keys: Any, value: str) -> None:
    execution_id = await world.started()
    headers = {**keys.viewer, "Accept": "text/event-stream", "Last-Event-ID": value.encode()}
    answer = await world.client.get(f"/v1/executions/{execution_id}/events", headers=headers)
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"


async def test_a_stream_behind_the_end_is_204_so_that_browsers_stop_asking(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.complete(execution_id)
    headers = {**keys.viewer, "Accept": "text/event-stream", "Last-Event-ID": "2"}
    assert (await world.client.get(f"/v1/executions/{execution_id}/events", headers=headers)).status_code == 204


async def test_a_quiet_stream_says_keep_alive(make_world: Any, keys: Any) -> None:
    world = await make_world(keep_alive_s=0.02, recheck_s=60.0)
    await world.put_workflow()
    execution_id = await world.started()
    async with opened(world, execution_id, keys.viewer) as stream:
        while b": keep-alive\n\n" not in stream.raw:
            await stream.take()


async def test_a_stream_finds_news_by_itself_when_the_feed_says_nothing(make_world: Any, keys: Any) -> None:
    world = await make_world(recheck_s=0.02)
    await world.put_workflow()
    execution_id = await world.started()
    world.supervisor.silent = True
    async with opened(world, execution_id, keys.viewer) as stream:
        await stream.events(1)
        world.supervisor.complete(execution_id)
        assert (await stream.events(1))[0].ends


async def test_a_stream_goes_on_when_the_store_comes_back(make_world: Any, keys: Any) -> None:
    world = await make_world(recheck_s=0.02, keep_alive_s=0.02)
    await world.put_workflow()
    execution_id = await world.started()
    async with opened(world, execution_id, keys.viewer) as stream:
        await stream.events(1)
        world.store.down = True
        while b": keep-alive\n\n" not in stream.raw:
            await stream.take()
        world.store.down = False
        world.supervisor.complete(execution_id)
        assert (await stream.events(1))[0].ends


async def test_a_slow_reader_costs_one_page_not_the_journal(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.add(execution_id, *[StepCompleted(f"s{n}", 1, AT, b'"' + b"x" * 100_000 + b'"') for n in range(100)])
    read: list[int] = []
    original = world.store.events

    async def counted(*args: Any, **options: Any) -> Any:
        lines = await original(*args, **options)
        read.extend(line.seq for line in lines)
        return lines

    world.store.events = counted
    async with opened(world, execution_id, keys.viewer) as stream:
        await stream.events(1)
        for _ in range(200):  # nobody takes a chunk, so nothing more may be read, however long the loop turns
            await asyncio.sleep(0)
        assert max(read) < 10
        assert [event.seq for event in await stream.events(100)] == list(range(1, 102))[1:]


async def test_a_client_that_goes_away_is_noticed(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    async with opened(world, execution_id, keys.viewer) as stream:
        await stream.events(1)
        assert world.api.metrics.streams_open == 1
        stream.gone.set()
        async with asyncio.timeout(20):
            while world.api.metrics.streams_open or world.api.feed.waiting:
                await asyncio.sleep(0)


async def test_one_stream_too_many_is_429(make_world: Any, keys: Any) -> None:
    world = await make_world(stream_limit=1)
    await world.put_workflow()
    execution_id = await world.started()
    async with opened(world, execution_id, keys.viewer) as stream:
        await stream.events(1)
        headers = {**keys.viewer, "Accept": "text/event-stream"}
        answer = await world.client.get(f"/v1/executions/{execution_id}/events", headers=headers)
        assert answer.status_code == 429 and answer.json()["code"] == "busy" and "retry-after" in answer.headers


async def test_odd_text_in_values_keeps_one_event_on_one_line(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.add(execution_id, StepCompleted("s", 1, AT, b'{"a":\r\n "\\ud800\\u0000\xe2\x80\xa8"}'))
    async with opened(world, execution_id, keys.viewer) as stream:
        events = await stream.events(2)
        assert events[1].value == {"a": "\ud800\0\u2028"}


async def test_many_streams_of_one_execution_all_get_everything(world: Any, keys: Any) -> None:
    execution_id = await world.started()

    async def follow() -> list[int]:
        async with opened(world, execution_id, keys.viewer) as stream:
            return [event.seq for event in await stream.events(22)]

    readers = [asyncio.create_task(follow()) for _ in range(20)]
    for n in range(20):
        world.supervisor.add(execution_id, StepScheduled(f"s{n}", 1))
        await asyncio.sleep(0)
    world.supervisor.complete(execution_id)
    assert await asyncio.gather(*readers) == [list(range(1, 23))] * 20
