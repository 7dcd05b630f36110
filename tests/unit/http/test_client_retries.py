"""The async client against the real application, over a transport that cuts connections: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from agentflow.client.address import Address
from agentflow.client.async_flow import AsyncFlow
from agentflow.client.transport import AsyncTransport, SyncTransport
from agentflow.errors import (
    ClusterDown,
    Conflict,
    ExecutionFailed,
    Forbidden,
    IdempotencyConflict,
    InputInvalid,
    NotFound,
    Unauthenticated,
    Unavailable,
    WorkflowInvalid,
)


class Cutting(httpx.AsyncBaseTransport):
    """Before or after the application has answered, the next requests end in one of these errors instead."""

    def __init__(self, app: Any) -> None:
        self._app = httpx.ASGITransport(app=app)
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.before:
            return self._instead(self.before.pop(0))
        response = await self._app.handle_async_request(request)
        return self._instead(self.after.pop(0)) if self.after else response

    @staticmethod
    def _instead(what: Any) -> httpx.Response:
        if isinstance(what, Exception):
            raise what
        assert isinstance(what, httpx.Response)
        return what


@pytest.fixture
async def cutting(world: Any) -> Cutting:
    return Cutting(world.app)


@pytest.fixture
async def flow(cutting: Cutting) -> Any:
    address = Address("http://api", "admin-key", False)
    async with AsyncFlow(address, transport=AsyncTransport(address, http=cutting)) as flow:
        yield flow


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentflow.client.transport.pause_s", lambda attempt, retry_after_s=None: 0.0)


CUTS = [
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("server disconnected"),
    httpx.ReadTimeout("slow"),
    httpx.Response(500, text="Internal Server Error"),
    httpx.Response(503, html="<h1>503</h1>"),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: type(cut).__name__ + str(getattr(cut, "status_code", "")))
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_start_whose_answer_is_lost_starts_once(flow: Any, world: Any, cutting: Cutting, cut: Any, when: str) -> None:
    getattr(cutting, when).extend([cut, cut, cut])
    execution = await flow.run("greet", {"name": "Ada"})
    assert len(world.store.views) == 1 and execution.id in world.store.views
    keys = {request.headers["idempotency-key"] for request in cutting.requests}
    assert len(cutting.requests) == 4 and len(keys) == 1


async def test_what_cannot_be_reached_at_all_is_cluster_down_at_once(flow: Any, cutting: Cutting) -> None:
    cutting.before = [httpx.ConnectError("refused")] * 10
    with pytest.raises(ClusterDown, match="agentflow up"):
        await flow.tools()
    assert len(cutting.requests) == 1


async def test_what_has_answered_before_is_tried_again(flow: Any, cutting: Cutting) -> None:
    await flow.tools()
    cutting.before = [httpx.ConnectError("refused")] * 3
    await flow.tools()
    assert len(cutting.requests) == 5


async def test_repeating_ends_behind_its_time(cutting: Cutting) -> None:
    address = Address("http://api", "admin-key", False)
    transport = AsyncTransport(address, http=cutting, retry_for_s=0.0)
    cutting.before = [httpx.ReadError("reset")] * 10
    async with AsyncFlow(address, transport=transport) as flow:
        with pytest.raises(Unavailable, match="cut"):
            await flow.tools()
    assert len(cutting.requests) == 2


async def test_errors_of_the_api_are_errors_of_the_library(flow: Any, world: Any) -> None:
    with pytest.raises(NotFound):
        await flow.run("nobody")
    with pytest.raises(InputInvalid) as invalid:
        await flow.run("greet", {"name": 7})
    assert invalid.value.facts["errors"][0]["path"] == "/name"
    await flow.run("greet", {"name": "Ada"}, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await flow.run("greet", {"name": "Bob"}, idempotency_key="k")
    with pytest.raises(WorkflowInvalid) as wrong:
        await flow.workflows.put("apiVersion: agentflow/v1\nname: x\nsteps: []\noh: 1\n")
    assert {"line", "column", "file"} <= set(wrong.value.facts["errors"][0])
    for key, kind in (("wrong", Unauthenticated), ("viewer-key", Forbidden)):
        address = Address("http://api", key, False)
        async with AsyncFlow(address, transport=AsyncTransport(address, http=httpx.ASGITransport(app=world.app))) as other:
            with pytest.raises(kind):
                await other.run("greet", {"name": "Ada"})


async def test_a_definition_is_stored_and_run_at_its_version(flow: Any, world: Any) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.complete(start.execution_id, start.version)
    source = world.store.definitions["acme", "greet"][0].source
    newer = source.replace('version: "1"', 'version: "2"')
    assert await (await flow.run(newer, {"name": "Ada"})).result() == "2"
    assert await (await flow.run(source, {"name": "Ada"})).result() == "1"
    assert await (await flow.run("greet", {"name": "Ada"})).result() == "2"
    assert [entry.version for entry in await flow.workflows.versions("greet")] == ["2", "1"]
    assert [entry.name async for entry in flow.workflows.list()] == ["greet"]
    assert (await flow.workflows.get("greet", version="1")).source == source


async def test_result_waits_over_several_long_polls(flow: Any, world: Any, monkeypatch: pytest.MonkeyPatch, cutting: Cutting) -> None:
    monkeypatch.setattr("agentflow.client.async_flow.WAIT_S", 0.02)
    execution = await flow.run("greet", {"name": "Ada"})
    waiting = asyncio.create_task(execution.result())
    async with asyncio.timeout(20):
        while len(cutting.requests) < 4:
            await asyncio.sleep(0.01)
    world.supervisor.complete(execution.id, {"done": True})
    assert await waiting == {"done": True}


async def test_result_gives_up_after_its_timeout_and_the_execution_goes_on(flow: Any) -> None:
    execution = await flow.run("greet", {"name": "Ada"})
    with pytest.raises(TimeoutError, match="it goes on"):
        await execution.result(timeout=0.05)
    assert await execution.status() == "running"


async def test_a_failed_execution_is_an_error_with_its_step(flow: Any, world: Any) -> None:
    execution = await flow.run("greet", {"name": "Ada"})
    world.supervisor.fail(execution.id, "boom", "it broke")
    with pytest.raises(ExecutionFailed, match=r"in step hello: it broke \[boom\]"):
        await execution.result()
    with pytest.raises(Conflict):
        await execution.cancel()


async def test_a_cancel_whose_answer_is_lost_is_no_error(flow: Any, cutting: Cutting) -> None:
    execution = await flow.run("greet", {"name": "Ada"})
    cutting.after = [httpx.ReadError("reset")]
    assert (await execution.cancel("enough")).status == "cancelled"


async def test_events_of_what_has_ended_are_all_there_and_then_it_stops(flow: Any, world: Any, cutting: Cutting) -> None:
    execution = await flow.run("greet", {"name": "\ud800\0"})
    world.supervisor.complete(execution.id, {"text": "\u2028"})
    cutting.before = [httpx.ReadError("reset"), httpx.Response(500, text="no")]
    events = [event async for event in execution.events()]
    assert [(event.seq, event.kind) for event in events] == [(1, "execution.started"), (2, "execution.completed")]
    assert events[0].value == {"name": "\ud800\0"} and events[1].value == {"text": "\u2028"}
    assert [event.seq async for event in execution.events(after=1)] == [2]
    assert [event.seq async for event in execution.events(after=2)] == []


async def test_events_of_nothing_are_an_error(flow: Any) -> None:
    execution = await flow.run("greet", {"name": "Ada"})
    execution.id = "0193f000-0000-7000-8000-000000000003"
    with pytest.raises(NotFound):
        _ = [event async for event in execution.events()]


async def test_say_gives_the_reply_and_is_handled_once(flow: Any, world: Any, cutting: Cutting) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.complete(start.execution_id, {"n": len(world.store.views)})
    cutting.after = [httpx.ReadError("reset"), httpx.ReadError("reset")]
    assert await flow.say("Greeter", "s/1 ü", {"text": "hi"}) == {"n": 1}
    assert (await flow.tell("Greeter", "s2", 1)).id in world.store.views
    assert (await flow.session("Greeter", "s2"))["version"] == 0
    assert [agent.uses for agent in await flow.agents()] == ["greetings:Greeter"]
    assert [tool.name for tool in await flow.tools()] == ["count"]


async def test_say_raises_what_the_agent_failed_on_and_a_timeout(flow: Any, world: Any) -> None:
    with pytest.raises(TimeoutError):
        await flow.say("Greeter", "s", 1, timeout=0.05)
    world.supervisor.when_started = lambda start: world.supervisor.fail(start.execution_id, "boom", "it broke", None)
    with pytest.raises(ExecutionFailed, match="it broke"):
        await flow.say("Greeter", "s", 1)


async def test_executions_are_listed_over_several_pages_up_to_a_limit(flow: Any, world: Any) -> None:
    ids = {(await flow.run("greet", {"name": "Ada"})).id for _ in range(130)}
    assert {snapshot.id async for snapshot in flow.executions.list()} == ids
    assert len([snapshot async for snapshot in flow.executions.list(limit=105, workflow="greet", status="running")]) == 105
    assert [snapshot async for snapshot in flow.executions.list(status="failed")] == []
    assert (await flow.executions.get(next(iter(ids)))).id in ids
    with pytest.raises(NotFound):
        await flow.executions.get("nonsense")


async def test_on_this_machines_cluster_folders_are_made_absolute(world: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = Address("http://api", "operator-key", True)
    async with AsyncFlow(address, transport=AsyncTransport(address, http=httpx.ASGITransport(app=world.app))) as flow:
        execution = await flow.run("greet", {"name": "Ada", "folder": "src"})
        assert (await execution.snapshot()).input == {"name": "Ada", "folder": str(tmp_path / "src")}


def test_the_sync_client_needs_no_event_loop_and_repeats_as_well() -> None:
    answers: list[Any] = [httpx.ReadError("reset"), httpx.Response(500, text="no"), httpx.Response(200, json={"tools": []})]

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    from agentflow.client.flow import Flow

    address = Address("http://api", "k", False)
    with Flow(address, transport=SyncTransport(address, http=httpx.MockTransport(handle))) as flow:
        assert flow.tools() == []
    assert answers == []
