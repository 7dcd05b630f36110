"""A worker's place in the roster: what waits for it, what it holds, and what it is to be told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agentflow.domain.dispatch import Dispatch
from agentflow.ports import Worker, WorkerNeed

Place = tuple[WorkerNeed, bool]
"""What a worker must be, and whether its steps have it to themselves, one at a time."""


@dataclass(slots=True)
class Seat:
    """One worker's place: its queue, what it holds, and the acknowledgements that go with the next call."""

    name: str
    place: Place
    capacity: int
    created_at: datetime
    worker: Worker | None = None
    queue: deque[Dispatch] = field(default_factory=deque)
    held: dict[str, Dispatch] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    """Dispatch ids that it held when it was taken over, until they are sent to it again or revoked."""
    acknowledged: list[str] = field(default_factory=list)
    calling: bool = False
    crashes: int = 0
    idle_since: datetime | None = None
    reason: str = ""

    @property
    def need(self) -> WorkerNeed:
        return self.place[0]

    @property
    def state(self) -> str:
        if self.worker is None:
            return "waiting_for_resources" if self.reason else "starting"
        return "ready" if self.held or self.queue else "idle"

    def give_back(self, batch: Sequence[Dispatch], acknowledged: list[str]) -> None:
        """A call that was not answered: what was on its way goes back to where it came from."""
        self.acknowledged = acknowledged + self.acknowledged
        self.queue.extendleft(d for d in reversed(batch) if self.held.get(d.dispatch_id) is d)

    def take_back(self, batch: Sequence[Dispatch], refused: set[str]) -> None:
        """A full mailbox: the roster holds the rest."""
        for dispatch in reversed(batch):
            if dispatch.dispatch_id in refused and self.held.pop(dispatch.dispatch_id, None) is not None:
                self.queue.appendleft(dispatch)
