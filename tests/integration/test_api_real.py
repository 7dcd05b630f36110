"""The HTTP API and the client over real sockets, the real engine and a real PostgreSQL: uvicorn in place of Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from agentflow.adapters.postgres import PostgresStore, migrate
from agentflow.client.address import Address
from agentflow.client.async_flow import AsyncFlow
from agentflow.client.flow import Flow
from agentflow.client.views import Event
from agentflow.domain.agent import Agent, Context
from agentflow.engine.tool_source import CodeHash
from agentflow.errors import (
    Conflict,
    ExecutionFailed,
    Forbidden,
    IdempotencyConflict,
    InputInvalid,
    MountForbidden,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
)
from agentflow.ports import CatalogueEntry, Principal
from agentflow.serve.app import build_app
from agentflow.serve.code import PinnedCode
from agentflow.serve.services import ApiValues, Services
from agentflow.testing.runtime import TENANT, LocalRuntime

YAML = """\
apiVersion: agentflow/v1
name: chain
version: "1"
input:
  type: object
  properties:
    folder: {type: string, format: folder}
agents:
  - {name: echo, uses: "app:Echo"}
steps:
  - {name: one, agent: echo, input: "${ input }"}
  - {name: two, agent: echo, dependsOn: [one], input: {value: "${ steps.one.output }"}}
"""


class Echo(Agent):
    """Gives back what it gets; waits when a test holds it, fails when it is told to."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.calls: list[Any] = []

    async def run(self, context: Context, input: Any) -> Any:
        await self.free.wait()
        self.calls.append(input)
        if input == {"fail": True}:
            raise ValueError("told to")
        context.state["seen"] = context.state.get("seen", 0) + 1
        return input if context.session_id is None else {"said": input, "seen": context.state["seen"]}


class Link:
    """The runtime's supervisor, whichever it is now."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime.supervisor, name)

    async def metrics(self) -> bytes:
        return b""


class Cutter:
    """A TCP proxy in front of the server that cuts every connection when it is told to."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._open: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.forwarded_bytes = 0
        self.cut_after_bytes: int | None = None
        """Cut each connection behind this many bytes of answers."""

    async def __aenter__(self) -> Cutter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, server_writer}
        try:
            await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer, answers=True))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for side in (writer, server_writer):
                self._open.discard(side)
                side.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        sent = 0
        while chunk := await reader.read(65536):
            limit = self.cut_after_bytes if answers else None
            if limit is not None and sent + len(chunk) > limit:
                writer.write(chunk[: max(0, limit - sent)])
                await writer.drain()
                raise ConnectionResetError
            sent += len(chunk)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError


@dataclass
class Site:
    """One PostgreSQL, one supervisor, and as many replicas of the API as a test starts."""

    runtime: LocalRuntime
    echo: Echo
    url: str
    stack: contextlib.AsyncExitStack
    apps: list[Any] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    port: int = 0

    async def replica(self, **values: Any) -> int:
        """The port of one more replica, with a store of its own as a process would have."""
        store = await self.stack.enter_async_context(PostgresStore(self.url))
        services = Services(
            supervisor=Link(self.runtime),  # type: ignore[arg-type]
            executions=store.executions,
            workflows=store.workflows,
            catalogue=store.catalogue,
            idempotency=store.idempotency,
            api_keys=store.api_keys,
            sessions=store.sessions,
            values=ApiValues(**values),
        )
        app = build_app(services)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        sock = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve([sock]))

        async def stop() -> None:
            server.should_exit = True
            await task
            sock.close()

        self.stack.push_async_callback(stop)
        async with asyncio.timeout(30):
            while not server.started:
                await asyncio.sleep(0.01)
        self.apps.append(app)
        self.ports.append(sock.getsockname()[1])
        return self.ports[-1]

    def address(self, port: int | None = None, key: str = "admin", local: bool = False) -> Address:
        return Address(f"http://127.0.0.1:{port or self.ports[0]}", key, local)

    async def in_thread(self, work: Callable[[Flow], Any], *, port: int | None = None, key: str = "admin", local: bool = False) -> Any:
        """Run `work` with the synchronous client in a thread that has no event loop."""

        def run() -> Any:
            with Flow(self.address(port, key, local)) as flow:
                return work(flow)

        async with asyncio.timeout(60):
            return await asyncio.to_thread(run)


@pytest.fixture
async def site(fresh_postgres_url: str) -> AsyncIterator[Site]:
    await migrate(fresh_postgres_url)
    echo = Echo()
    async with contextlib.AsyncExitStack() as stack:
        store = PostgresStore(fresh_postgres_url)
        runtime = await stack.enter_async_context(LocalRuntime(store=store, agents={"app:Echo": echo}))
        await store.api_keys.add("admin", Principal("ada", TENANT, "admin"))
        await store.api_keys.add("viewer", Principal("vic", TENANT, "viewer"))
        await store.api_keys.add("operator", Principal("operator", TENANT, "admin", any_mount=True))
        await store.api_keys.add("other", Principal("eve", "other-tenant", "admin"))
        await store.catalogue.replace(TENANT, [CatalogueEntry("agent", "echo", "app:Echo", "Echoes.", None, "c0de")])
        site = Site(runtime, echo, fresh_postgres_url, stack)
        await site.replica()
        await stack.enter_async_context(AsyncFlow(site.address()))  # closed first
        yield site


async def test_a_driver_script_runs_a_workflow_and_follows_it_live(site: Site) -> None:
    def script(flow: Flow) -> tuple[list[Event], Any]:
        execution = flow.run(YAML, {"text": "a\0b\ud800", "n": 2**70})
        return list(execution.events()), execution.result()

    events, result = await site.in_thread(script)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.kind for event in events if event.step is None] == ["execution.started", "execution.completed"]
    assert [event.step for event in events if event.kind == "step.completed"] == ["one", "two"]
    assert result == {"value": {"text": "a\0b\ud800", "n": 2**70}}


async def test_two_replicas_start_one_execution_for_one_key(site: Site) -> None:
    other = await site.replica()
    async with AsyncFlow(site.address()) as here, AsyncFlow(site.address(other)) as there:
        await here.workflows.put(YAML)
        runs = await asyncio.gather(*(flow.run("chain", {"n": 1}, idempotency_key="k") for flow in (here, there) for _ in range(10)))
        assert len({run.id for run in runs}) == 1
        await runs[0].result()
        assert len([snapshot async for snapshot in there.executions.list()]) == 1
        with pytest.raises(IdempotencyConflict):
            await there.run("chain", {"n": 2}, idempotency_key="k")


async def test_events_go_on_without_gap_or_repetition_over_cut_connections(site: Site) -> None:
    async with Cutter(site.ports[0]) as cutter, AsyncFlow(site.address(cutter.port)) as flow:
        steps = "\n".join(f"  - {{name: s{n}, agent: echo, input: {n}, dependsOn: [{f's{n - 1}' if n else 'one'}]}}" for n in range(12))
        source = YAML.replace("  - {name: two", steps + "\n  - {name: two")
        execution = await flow.run(source, {"n": 1})
        cutter.cut_after_bytes = 900
        seen = []
        async with asyncio.timeout(60):
            async for event in execution.events():
                seen.append(event.seq)
        assert seen == list(range(1, len(seen) + 1)) and len(seen) == 2 + 2 * 14
        assert cutter.accepted > 3


async def test_an_open_stream_survives_the_death_of_its_replica(site: Site) -> None:
    async with Cutter(site.ports[0]) as cutter, AsyncFlow(site.address(cutter.port)) as flow:
        site.echo.free.clear()
        execution = await flow.run(YAML, {"n": 1})
        seen = []
        async with asyncio.timeout(60):
            async for event in execution.events():
                seen.append(event.kind)
                if event.kind == "step.scheduled" and event.step == "one":
                    cutter._behind = await site.replica()
                    cutter.cut()
                    site.echo.free.set()
        assert seen[-1] == "execution.completed" and cutter.accepted >= 2


async def test_a_start_goes_through_while_the_supervisor_is_restarted(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        await flow.workflows.put(YAML)
        runs = [asyncio.create_task(flow.run("chain", {"n": n})) for n in range(20)]
        await site.runtime.restart_supervisor()
        executions = await asyncio.gather(*runs)
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(execution.result() for execution in executions))
        assert len(results) == 20 and len({execution.id for execution in executions}) == 20


async def test_who_waits_is_woken_although_the_supervisor_was_restarted_meanwhile(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        site.echo.free.clear()
        execution = await flow.run(YAML, {"n": 1})
        waiting = asyncio.create_task(execution.wait())
        async with asyncio.timeout(60):
            while not site.apps[0].state.api.feed.waiting:
                await asyncio.sleep(0.01)
            await site.runtime.restart_supervisor()
            site.echo.free.set()
            assert (await waiting).status == "completed"


async def test_messages_of_a_session_are_handled_in_turn_and_remembered(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        async with asyncio.timeout(60):
            replies = await asyncio.gather(*(flow.say("echo", "s/1", n) for n in range(8)))
        assert sorted(reply["seen"] for reply in replies) == list(range(1, 9))
        assert sorted(reply["said"] for reply in replies) == list(range(8))
        session = await flow.session("echo", "s/1")
        assert session["version"] == 8 and session["state"] == {"seen": 8}
        again = [await flow.say("echo", "s2", "hi", message_id="m") for _ in range(3)]
        assert again == [{"said": "hi", "seen": 1}] * 3


async def test_a_failed_step_is_an_error_and_a_cancelled_execution_ends(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        failed = await flow.run(YAML, {"fail": True})
        with pytest.raises(ExecutionFailed, match="told to"):
            await failed.result()
        with pytest.raises(Conflict):
            await failed.cancel()
        site.echo.free.clear()
        held = await flow.run("chain", {"n": 1})
        await held.cancel("enough")
        async with asyncio.timeout(60):
            events = [event async for event in held.events()]
        assert events[-1].kind == "execution.cancelled" and events[-1].body["reason"] == "enough"
        assert (await held.cancel()).status == "cancelled"
        site.echo.free.set()


async def test_lists_and_pages_read_the_store(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow, AsyncFlow(site.address(key="other")) as other:
        await flow.workflows.put(YAML)
        runs = await asyncio.gather(*(flow.run("chain", {"n": n}) for n in range(7)))
        for run in runs:
            await run.result()
        ids = [run.id for run in runs]
        assert [snapshot.id async for snapshot in flow.executions.list(status="completed", workflow="chain")] == sorted(ids, reverse=True)
        async with httpx.AsyncClient(base_url=site.address().url, headers={"X-API-Key": "viewer"}) as raw:
            page = (await raw.get("/v1/executions?limit=3")).json()
            rest = (await raw.get(f"/v1/executions?limit=500&cursor={page['next_cursor']}")).json()
            assert [item["id"] for item in page["executions"] + rest["executions"]] == sorted(ids, reverse=True)
            lines = (await raw.get(f"/v1/executions/{ids[0]}/events?after=2&limit=2")).json()
            assert [line["seq"] for line in lines["events"]] == [3, 4] and lines["next_after"] == 4
            for source in ("\0", "a\nb"):
                assert (await raw.get("/v1/executions", params={"workflow": source})).json()["executions"] == []
        assert [snapshot async for snapshot in other.executions.list()] == []
        with pytest.raises(NotFound):
            await other.executions.get(ids[0])
        with pytest.raises(NotFound):
            await other.run("chain", {})


async def test_what_is_wrong_is_told_and_nothing_is_started(site: Site, tmp_path: Path) -> None:
    def script(flow: Flow) -> None:
        flow.workflows.put(YAML)
        flow.workflows.put(YAML)
        with pytest.raises(Conflict):
            flow.workflows.put(YAML.replace("name: two", "name: too"))
        with pytest.raises(InputInvalid):
            flow.run("chain", {"folder": 7})
        with pytest.raises(MountForbidden):
            flow.run("chain", {"folder": str(tmp_path)})
        with pytest.raises(PayloadTooLarge) as large:
            flow.run("chain", {"text": "x" * (5 << 20)})
        assert large.value.facts["limit_bytes"] == 4 << 20
        with pytest.raises(NotFound):
            flow.run("chain", {}, version="2")
        assert list(flow.executions.list()) == []

    await site.in_thread(script)
    for key, kind in (("viewer", Forbidden), ("nobody", Unauthenticated)):
        with pytest.raises(kind):
            await site.in_thread(lambda flow: flow.run("chain", {}), key=key)
    relative = await site.in_thread(lambda flow: flow.run("chain", {"folder": "."}).snapshot(), key="operator", local=True)
    assert relative.input == {"folder": str(Path.cwd())}


async def test_a_client_that_closes_its_stream_is_noticed_over_a_socket(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        site.echo.free.clear()
        execution = await flow.run(YAML, {"n": 1})
        events = execution.events()
        await anext(events)
        metrics = site.apps[0].state.api.metrics
        assert metrics.streams_open == 1
        await events.aclose()
        async with asyncio.timeout(60):
            while metrics.streams_open:
                await asyncio.sleep(0.01)
        site.echo.free.set()
        await execution.result()


async def test_the_store_may_go_away_and_come_back_while_somebody_follows(site: Site) -> None:
    async with AsyncFlow(site.address()) as flow:
        site.echo.free.clear()
        execution = await flow.run(YAML, {"n": 1})
        following = asyncio.create_task(_kinds(execution))
        await _terminate_connections(site.url)
        site.echo.free.set()
        async with asyncio.timeout(60):
            assert (await following)[-1] == "execution.completed"
            assert await execution.status() == "completed"


async def test_the_code_that_an_execution_is_pinned_to_follows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text("a = 1\n")
    pinned = PinnedCode(tmp_path)
    first = await pinned("default")
    assert first == CodeHash(tmp_path).now()
    (tmp_path / "app.py").write_text("a = 2222\n")
    async with asyncio.timeout(30):
        while await pinned("default") == first:
            await asyncio.sleep(0.01)


async def _kinds(execution: Any) -> list[str]:
    return [event.kind async for event in execution.events()]


async def _terminate_connections(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
