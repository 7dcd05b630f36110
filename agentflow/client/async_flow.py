"""The asynchronous client: the same as `agentflow.client.flow`, on the running event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentflow.client import calls, own_cluster
from agentflow.client.address import Address, find_address
from agentflow.client.answers import Repeat, answer_of
from agentflow.client.calls import Source
from agentflow.client.following import WAIT_S, Place, may_hold_relative_path, result_of, too_slow, with_absolute_folders
from agentflow.client.views import AgentEntry, Event, ExecutionSnapshot, ToolEntry, WorkflowEntry

if TYPE_CHECKING:
    from agentflow.client.transport import AsyncTransport


async def connect_async(
    url: str | None = None,
    key: str | None = None,
    *,
    home: str | os.PathLike[str] | None = None,
    start: bool = False,
    app_dir: str | os.PathLike[str] | None = None,
) -> AsyncFlow:
    """See `connect`. Use it as `async with await connect_async() as flow:`."""
    if not start:
        return AsyncFlow(find_address(url, key, home=home))
    cluster = await asyncio.to_thread(own_cluster.start, home=home, app_dir=app_dir)
    try:
        return AsyncFlow(cluster.address, cluster=cluster)
    except BaseException:
        await asyncio.to_thread(cluster.stop)
        raise


class AsyncFlow:
    """One connection to a cluster; belongs to the event loop it was made on."""

    def __init__(self, address: Address, *, cluster: own_cluster.OwnCluster | None = None, transport: AsyncTransport | None = None) -> None:
        from agentflow.client.transport import AsyncTransport  # here, since httpx is what makes importing this slow

        self._transport = transport or AsyncTransport(address)
        self._cluster = cluster
        self._schemas: dict[tuple[str, str | None], Mapping[str, Any] | None] = {}
        self.workflows = AsyncWorkflows(self._transport)
        self.executions = AsyncExecutions(self._transport)

    @property
    def url(self) -> str:
        return self._transport.address.url

    async def run(
        self, workflow: Source, input: Any = None, *, version: str | None = None, idempotency_key: str | None = None
    ) -> AsyncExecution:
        """See Flow.run."""
        if calls.is_source(workflow):
            entry = await self.workflows.put(workflow)
            name, version = entry.name, entry.version
        else:
            name = str(workflow)
        call = calls.start_execution(name, version=version, input=await self._absolute(name, version, input), key=idempotency_key)
        return AsyncExecution(await self._transport.send(call), self._transport)

    async def say(self, agent: str, session: str, message: Any, *, message_id: str | None = None, timeout: float | None = None) -> Any:
        """See Flow.say."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = await self._transport.send(calls.say(agent, session, message, message_id=message_id, wait_s=_next_wait(deadline)))
        if said.status == "completed":
            return said.reply
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return await AsyncExecution(said.execution_id, self._transport).result(left)

    async def tell(self, agent: str, session: str, message: Any, *, message_id: str | None = None) -> AsyncExecution:
        """See Flow.tell."""
        said = await self._transport.send(calls.say(agent, session, message, message_id=message_id, wait_s=0.0))
        return AsyncExecution(said.execution_id, self._transport)

    async def session(self, agent: str, session: str) -> dict[str, Any]:
        """See Flow.session."""
        return await self._transport.send(calls.get_session(agent, session))

    async def agents(self) -> list[AgentEntry]:
        return await self._transport.send(calls.list_agents())

    async def tools(self) -> list[ToolEntry]:
        return await self._transport.send(calls.list_tools())

    async def close(self) -> None:
        """Close the connections, and stop the cluster if it is this client's own."""
        await self._transport.close()
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            await asyncio.to_thread(cluster.stop)

    async def __aenter__(self) -> AsyncFlow:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def _absolute(self, name: str, version: str | None, value: Any) -> Any:
        if not self._transport.address.local or not may_hold_relative_path(value):
            return value
        if version is None or (name, version) not in self._schemas:
            self._schemas[name, version] = (await self.workflows.get(name, version=version)).input_schema
        return with_absolute_folders(value, self._schemas[name, version])


class AsyncExecution:
    """A handle on one execution; makes a request only when asked something."""

    def __init__(self, execution_id: str, transport: AsyncTransport) -> None:
        self.id = execution_id
        self._transport = transport

    def __repr__(self) -> str:
        return f"AsyncExecution({self.id!r})"

    async def snapshot(self) -> ExecutionSnapshot:
        """The execution as it is now."""
        return await self._transport.send(calls.get_execution(self.id))

    async def status(self) -> str:
        """running, waiting, completed, failed or cancelled."""
        return (await self.snapshot()).status

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """See Execution.events."""
        import httpx

        place = Place(after)
        attempts = self._transport.attempts()
        while not place.ended:
            try:
                async with self._transport.stream(calls.events_path(self.id), place.connected()) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code != 200:
                        answer_of(response.status_code, response.headers, await response.aread())
                    async for chunk in response.aiter_bytes():
                        for event in place.feed(chunk):
                            attempts = self._transport.attempts()
                            yield event
                if not place.ended:
                    raise Repeat(place.cut())
            except (Repeat, httpx.TransportError) as error:
                await asyncio.sleep(attempts.after(error))

    async def wait(self, timeout: float | None = None) -> ExecutionSnapshot:
        """See Execution.wait."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            snapshot = await self._transport.send(calls.get_execution(self.id, wait_s=_next_wait(deadline)))
            if snapshot.ended:
                return snapshot
            if timeout is not None and deadline is not None and time.monotonic() >= deadline:
                raise too_slow(self.id, timeout)

    async def result(self, timeout: float | None = None) -> Any:
        """See Execution.result."""
        return result_of(await self.wait(timeout))

    async def cancel(self, reason: str = "") -> ExecutionSnapshot:
        """See Execution.cancel."""
        return await self._transport.send(calls.cancel_execution(self.id, reason=reason))


class AsyncWorkflows:
    """Stored definitions."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def put(self, workflow: Source) -> WorkflowEntry:
        """See Workflows.put."""
        return await self._transport.send(calls.put_workflow(workflow))

    async def get(self, name: str, *, version: str | None = None) -> WorkflowEntry:
        return await self._transport.send(calls.get_workflow(name, version=version))

    async def versions(self, name: str) -> list[WorkflowEntry]:
        """Newest first."""
        return await self._transport.send(calls.workflow_versions(name))

    async def list(self) -> AsyncIterator[WorkflowEntry]:
        """See Workflows.list."""
        cursor: str | None = None
        while True:
            page = await self._transport.send(calls.list_workflows(cursor=cursor, limit=100))
            for entry in page.items:
                yield entry
            cursor = page.next_cursor
            if cursor is None:
                return


class AsyncExecutions:
    """What was run."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, execution_id: str) -> AsyncExecution:
        """A handle; raises NotFound if there is no such execution."""
        return AsyncExecution((await self._transport.send(calls.get_execution(execution_id))).id, self._transport)

    async def list(
        self, *, workflow: str | None = None, status: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ExecutionSnapshot]:
        """See Executions.list."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            page = await self._transport.send(calls.list_executions(workflow=workflow, status=status, cursor=cursor, limit=size))
            for snapshot in page.items:
                yield snapshot
            left = None if left is None else left - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return


def _next_wait(deadline: float | None) -> float:
    return WAIT_S if deadline is None else max(0.0, min(WAIT_S, deadline - time.monotonic()))
