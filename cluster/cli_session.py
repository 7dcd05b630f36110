"""What all commands share: the connection that the global options name, and the option `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agentflow.client import Event, Flow
    from agentflow.client.transport import SyncTransport

Json = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on stdout.")]


@dataclass(frozen=True, slots=True)
class Session:
    """The cluster that this command line talks to; None: what `agentflow.connect()` finds."""

    url: str | None = None
    key: str | None = field(default=None, repr=False)

    @contextmanager
    def connected(self, *, retry_for_s: float = 30.0) -> Iterator[Connected]:
        """A connection for the length of one command. Raises ClusterDown when there is no cluster to find.

        `retry_for_s`: how long a request is sent again while the cluster says "not now".
        """
        from agentflow.client.address import find_address
        from agentflow.client.flow import Flow
        from agentflow.client.transport import SyncTransport

        address = find_address(self.url, self.key)
        transport = SyncTransport(address, retry_for_s=retry_for_s)
        with Flow(address, transport=transport) as flow:
            yield Connected(flow, transport, address.local)


@dataclass(frozen=True, slots=True)
class Connected:
    """`local`: the cluster runs on this machine, so that a path means the same to it."""

    flow: Flow
    transport: SyncTransport
    local: bool

    def events_so_far(self, execution_id: str, after: int = 0) -> Iterator[Event]:
        """The events that are committed now; unlike `Execution.events` it does not wait for more."""
        from agentflow.client.calls import Call, events_path
        from agentflow.client.views import event_of

        while True:
            page = self.transport.send(Call("GET", events_path(execution_id), dict, query={"after": str(after)}))
            yield from map(event_of, page["events"])
            if not page["events"] or page["ended"]:
                return
            after = page["next_after"]


def session_of(ctx: typer.Context) -> Session:
    session = ctx.obj
    assert isinstance(session, Session)
    return session
