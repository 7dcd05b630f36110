"""Group commit: appends that arrive while a commit is under way go out together in the next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from agentflow.errors import AgentFlowError, CommitUnknown, Fenced, StoreUnavailable
from agentflow.ports import Append, Journal, Rejected

logger = logging.getLogger(__name__)

EVENTS_A_COMMIT = 2_000
"""More gain nothing (42,000 events/s at 500 on one connection) and make a failed batch dearer."""
BYTES_A_COMMIT = 8 << 20
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 3.0


class Batch:
    """What goes out in one commit. `done` resolves when its fate is known: True committed, False lost."""

    __slots__ = ("done", "entries", "events", "size_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.entries: list[Entry] = []
        self.events = 0
        self.size_bytes = 0
        self.done: asyncio.Future[bool] = loop.create_future()


class Entry(Protocol):
    """An append with what hangs on it."""

    append: Append

    @property
    def dropped(self) -> bool:
        """True when its execution was dropped from memory meanwhile: it must not be written any more."""


E = TypeVar("E", bound=Entry)
E_contra = TypeVar("E_contra", bound=Entry, contravariant=True)


class Outcomes(Protocol[E_contra]):
    """What the owner does with a batch's fate. Called in the loop, in commit order; must not raise."""

    def committed(self, entries: Sequence[E_contra], rejected: Mapping[int, Rejected]) -> None: ...

    async def settle(self) -> None:
        """Returns when the fate of all that was sent is settled, so that what is read then stays so. Raises Fenced."""

    def lost(self, entries: Sequence[E_contra], error: AgentFlowError) -> None:
        """Nobody knows whether these are durable."""

    def fenced(self) -> None: ...


class GroupCommit(Generic[E]):
    """One writer for one supervisor's shards. `add` is called from the loop that runs `run`."""

    def __init__(self, journal: Journal, outcomes: Outcomes[E], tokens: Callable[[], Mapping[int, int]]) -> None:
        self._journal, self._outcomes, self._tokens = journal, outcomes, tokens
        self._queue: list[Batch] = []
        self._under_way: Batch | None = None
        self._wanted = asyncio.Event()
        self._ended = False
        self.unreachable_since: str = ""
        """What PostgreSQL last said, while it cannot be reached; empty when all is well."""

    def add(self, entry: E) -> asyncio.Future[bool]:
        """Put an append into the next commit; the future of that commit (shared by all in it)."""
        if not self._queue or self._queue[-1].events >= EVENTS_A_COMMIT or self._queue[-1].size_bytes >= BYTES_A_COMMIT:
            self._queue.append(Batch(asyncio.get_running_loop()))
        batch = self._queue[-1]
        batch.entries.append(entry)
        batch.events += len(entry.append.events)
        batch.size_bytes += sum(len(getattr(event, "value", b"")) for event in entry.append.events)
        batch.size_bytes += len(entry.append.session.state) if entry.append.session is not None else 0
        if self._ended:
            self._resolve(batch, committed=False)
        self._wanted.set()
        return batch.done

    async def run(self) -> None:
        """Commit for ever. Ends only by cancellation or when fenced; whoever still waits then is told that nobody knows."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._queue:
                    self._under_way = self._queue.pop(0)
                    if not await self._commit(self._under_way):
                        return
        finally:
            self._ended = True
            for batch in (*filter(None, [self._under_way]), *self._queue):
                self._resolve(batch, committed=False)

    async def _commit(self, batch: Batch) -> bool:
        delay_s = RETRY_FIRST_S
        while True:
            entries: list[E] = [entry for entry in batch.entries if not entry.dropped]  # type: ignore[misc]
            try:
                rejected = await self._journal.append(self._tokens(), [entry.append for entry in entries]) if entries else ()
            except StoreUnavailable as error:
                # nothing was written, so the same batch may go again: executions wait, nothing is decided anew
                if not self.unreachable_since:
                    logger.warning("PostgreSQL cannot be reached; %d appends wait: %s", len(entries), error)
                self.unreachable_since = str(error)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
                continue
            except CommitUnknown as error:
                logger.warning("a commit of %d appends has an unknown outcome; they are read back: %s", len(entries), error)
                try:
                    await self._outcomes.settle()
                except Fenced:
                    return self._end(batch)
                self._outcomes.lost(entries, error)
                self._resolve(batch, committed=False)
                return True
            except Fenced:
                return self._end(batch)
            if self.unreachable_since:
                logger.warning("PostgreSQL is back")
                self.unreachable_since = ""
            self._outcomes.committed(entries, {refusal.index: refusal for refusal in rejected})
            self._resolve(batch, committed=True)
            return True

    def _end(self, batch: Batch) -> bool:
        self._outcomes.fenced()
        self._resolve(batch, committed=False)
        return False

    @staticmethod
    def _resolve(batch: Batch, *, committed: bool) -> None:
        if not batch.done.done():
            batch.done.set_result(committed)
