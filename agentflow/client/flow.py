"""The synchronous client: `with connect() as flow: flow.run("name", input={…}).result()`. No event loop is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agentflow.client import calls, own_cluster
from agentflow.client.address import Address, find_address
from agentflow.client.answers import Repeat, answer_of
from agentflow.client.calls import Said, Source
from agentflow.client.following import WAIT_S, Place, may_hold_relative_path, result_of, too_slow, with_absolute_folders
from agentflow.client.views import AgentEntry, Event, ExecutionSnapshot, ToolEntry, WorkflowEntry
from agentflow.errors import ExecutionFailed

if TYPE_CHECKING:
    from agentflow.client.transport import SyncTransport


def connect(
    url: str | None = None,
    key: str | None = None,
    *,
    home: str | os.PathLike[str] | None = None,
    start: bool = False,
    app_dir: str | os.PathLike[str] | None = None,
) -> Flow:
    """A client of the cluster at `url`, of AGENTFLOW_URL, or of the one that runs on this machine (state folder `home`).

    `start`: start a cluster for this client, with the agents and tools of `app_dir`, and stop it when the client is closed.
    Raises ClusterDown, with advice, when there is no cluster to talk to.
    """
    if not start:
        return Flow(find_address(url, key, home=home))
    cluster = own_cluster.start(home=home, app_dir=app_dir)
    try:
        return Flow(cluster.address, cluster=cluster)
    except BaseException:
        cluster.stop()
        raise


class Flow:
    """One connection to a cluster. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, address: Address, *, cluster: own_cluster.OwnCluster | None = None, transport: SyncTransport | None = None) -> None:
        from agentflow.client.transport import SyncTransport  # here, since httpx is what makes importing this slow

        self._transport = transport or SyncTransport(address)
        self._cluster = cluster
        self._schemas: dict[tuple[str, str | None], Mapping[str, Any] | None] = {}
        self.workflows = Workflows(self._transport)
        self.executions = Executions(self._transport)

    @property
    def url(self) -> str:
        return self._transport.address.url

    def run(self, workflow: Source, input: Any = None, *, version: str | None = None, idempotency_key: str | None = None) -> Execution:
        """Start an execution; returns when it is durable. A definition (Workflow, file, text) is stored first.

        Raises NotFound, InputInvalid, WorkflowInvalid, IdempotencyConflict, MountForbidden, ….
        """
        if calls.is_source(workflow):
            entry = self.workflows.put(workflow)
            name, version = entry.name, entry.version
        else:
            name = str(workflow)
        call = calls.start_execution(name, version=version, input=self._absolute(name, version, input), key=idempotency_key)
        return Execution(self._transport.send(call), self._transport)

    def say(self, agent: str, session: str, message: Any, *, message_id: str | None = None, timeout: float | None = None) -> Any:
        """Send a message to an agent's session and return its reply. Raises ExecutionFailed if the agent failed on it, TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = self._transport.send(calls.say(agent, session, message, message_id=message_id, wait_s=_next_wait(deadline)))
        if said.status == "completed":
            return said.reply
        return Execution(said.execution_id, self._transport).result(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def tell(self, agent: str, session: str, message: Any, *, message_id: str | None = None) -> Execution:
        """Send a message and do not wait: returns the execution whose result will be the reply."""
        said: Said = self._transport.send(calls.say(agent, session, message, message_id=message_id, wait_s=0.0))
        return Execution(said.execution_id, self._transport)

    def session(self, agent: str, session: str) -> dict[str, Any]:
        """{agent, id, version, state} of a session; version 0 if nobody has spoken in it."""
        return self._transport.send(calls.get_session(agent, session))

    def agents(self) -> list[AgentEntry]:
        return self._transport.send(calls.list_agents())

    def tools(self) -> list[ToolEntry]:
        return self._transport.send(calls.list_tools())

    def close(self) -> None:
        """Close the connections, and stop the cluster if it is this client's own."""
        self._transport.close()
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _absolute(self, name: str, version: str | None, value: Any) -> Any:
        """On this machine's own cluster, folders may be given as they are seen from here."""
        if not self._transport.address.local or not may_hold_relative_path(value):
            return value
        if version is None or (name, version) not in self._schemas:
            self._schemas[name, version] = self.workflows.get(name, version=version).input_schema
        return with_absolute_folders(value, self._schemas[name, version])


class Execution:
    """A handle on one execution; makes a request only when asked something."""

    def __init__(self, execution_id: str, transport: SyncTransport) -> None:
        self.id = execution_id
        self._transport = transport

    def __repr__(self) -> str:
        return f"Execution({self.id!r})"

    def snapshot(self) -> ExecutionSnapshot:
        """The execution as it is now."""
        return self._transport.send(calls.get_execution(self.id))

    def status(self) -> str:
        """running, waiting, completed, failed or cancelled."""
        return self.snapshot().status

    def events(self, after: int = 0) -> Iterator[Event]:
        """The events behind `after`, as they are committed, until the execution has ended.

        A connection that is cut is opened again behind the last event read; nothing is missed or given twice.
        """
        import httpx

        place = Place(after)
        attempts = self._transport.attempts()
        while not place.ended:
            try:
                with self._transport.stream(calls.events_path(self.id), place.connected()) as response:
                    if response.status_code == 204:
                        return
                    if response.status_code != 200:
                        answer_of(response.status_code, response.headers, response.read())
                    for chunk in response.iter_bytes():
                        for event in place.feed(chunk):
                            attempts = self._transport.attempts()
                            yield event
                if not place.ended:
                    raise Repeat(place.cut())
            except (Repeat, httpx.TransportError) as error:
                time.sleep(attempts.after(error))

    def wait(self, timeout: float | None = None) -> ExecutionSnapshot:
        """The execution once it has ended. Raises TimeoutError after `timeout` seconds; the execution goes on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            snapshot = self._transport.send(calls.get_execution(self.id, wait_s=_next_wait(deadline)))
            if snapshot.ended:
                return snapshot
            if timeout is not None and deadline is not None and time.monotonic() >= deadline:
                raise too_slow(self.id, timeout)

    def result(self, timeout: float | None = None) -> Any:
        """The result once it has ended. Raises ExecutionFailed unless it completed; TimeoutError as `wait`."""
        return result_of(self.wait(timeout))

    def cancel(self, reason: str = "") -> ExecutionSnapshot:
        """Ask for its end. Raises Conflict when it has completed or failed already."""
        return self._transport.send(calls.cancel_execution(self.id, reason=reason))


class Workflows:
    """Stored definitions."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def put(self, workflow: Source) -> WorkflowEntry:
        """Store a version; the same again is no error. Raises WorkflowInvalid (all errors located), Conflict."""
        return self._transport.send(calls.put_workflow(workflow))

    def get(self, name: str, *, version: str | None = None) -> WorkflowEntry:
        return self._transport.send(calls.get_workflow(name, version=version))

    def versions(self, name: str) -> list[WorkflowEntry]:
        """Newest first."""
        return self._transport.send(calls.workflow_versions(name))

    def list(self) -> Iterator[WorkflowEntry]:
        """The latest version of each, by name; pages are fetched as needed."""
        cursor: str | None = None
        while True:
            page = self._transport.send(calls.list_workflows(cursor=cursor, limit=100))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


class Executions:
    """What was run."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def get(self, execution_id: str) -> Execution:
        """A handle; raises NotFound if there is no such execution."""
        return Execution(self._transport.send(calls.get_execution(execution_id)).id, self._transport)

    def list(self, *, workflow: str | None = None, status: str | None = None, limit: int | None = None) -> Iterator[ExecutionSnapshot]:
        """Newest first, at most `limit`; pages are fetched as needed."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            page = self._transport.send(calls.list_executions(workflow=workflow, status=status, cursor=cursor, limit=size))
            yield from page.items
            left = None if left is None else left - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return


def _next_wait(deadline: float | None) -> float:
    return WAIT_S if deadline is None else max(0.0, min(WAIT_S, deadline - time.monotonic()))


__all__ = ["Execution", "ExecutionFailed", "Executions", "Flow", "Source", "Workflows", "connect"]
