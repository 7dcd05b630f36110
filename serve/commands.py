"""The way of commands from a replica to the supervisor: one call in flight, what comes meanwhile goes in the next.

Commands are idempotent by their ids, so a call whose answer is lost is simply made again. A supervisor that was killed
serves again after some seconds; until then the commands wait here, each up to its deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from agentflow.domain.command import Command, Reply, Start
from agentflow.errors import AgentFlowError, Busy, CommitUnknown, Fenced, StoreUnavailable, Unavailable
from agentflow.ports import SupervisorLink

logger = logging.getLogger(__name__)

BATCH_ITEMS = 512
BATCH_BYTES = 80_000
"""Ray keeps a call of up to 100 KB inline; beyond that it takes three times as long (design 6)."""
CALL_TIMEOUT_S = 10.0
BACK_OFF_S = 0.05
BACK_OFF_LIMIT_S = 1.0


@dataclass(slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Reply]
    deadline: float

    @property
    def size_bytes(self) -> int:
        return 300 + (len(self.command.input) if isinstance(self.command, Start) else 0)


class CommandQueue:
    """Bounded queue in front of the supervisor; `run` must be running."""

    def __init__(self, link: SupervisorLink, *, limit: int, deadline_s: float, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._link = link
        self._limit = limit
        self._deadline_s = deadline_s
        self._call_timeout_s = call_timeout_s
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    async def submit(self, command: Command) -> Reply:
        """The supervisor's reply, given after its commit.

        Raises Busy when too many wait, Unavailable when the supervisor could not be reached until the deadline. A caller that
        is cancelled before its command is sent takes it back.
        """
        if len(self._queue) >= self._limit:
            raise Busy(
                f"{self._limit} commands wait for the supervisor already (limit submit_queue_limit); try again in 2 s.", retry_after_s=2
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(command, loop.create_future(), loop.time() + self._deadline_s)
        self._queue.append(waiting)
        self._filled.set()
        return await waiting.answer

    async def run(self) -> None:
        """Send for ever, one batch at a time. When it is cancelled, whoever waits gets Unavailable."""
        batch: list[_Waiting] = []
        try:
            while True:
                await self._filled.wait()
                batch = self._take()
                if batch:
                    await self._send(batch)
                else:
                    self._filled.clear()
        finally:
            for waiting in (*batch, *self._queue):
                _refuse(waiting, Unavailable("This replica stops; send the request again with the same Idempotency-Key."))

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._queue and len(batch) < BATCH_ITEMS:
            if self._queue[0].answer.done():
                self._queue.popleft()
                continue
            size_bytes += self._queue[0].size_bytes
            if batch and size_bytes > BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        """Send until each has its answer or is past its deadline."""
        back_off_s = BACK_OFF_S
        while batch:
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    replies = await self._link.submit([waiting.command for waiting in batch])
            except (Unavailable, CommitUnknown, Fenced, TimeoutError) as error:
                batch = self._past_deadline(batch, error)
                await asyncio.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_LIMIT_S)
            except AgentFlowError as error:
                for waiting in batch:
                    _refuse(waiting, error)
                return
            except Exception as error:
                logger.exception("a call to the supervisor failed")
                if len(batch) == 1:
                    _refuse(batch[0], error)
                    return
                # One command that cannot be sent must not take the others with it.
                for waiting in batch:
                    await self._send([waiting])
                return
            else:
                for waiting, reply in zip(batch, replies, strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(reply)
                return

    def _past_deadline(self, batch: list[_Waiting], error: Exception) -> list[_Waiting]:
        now = asyncio.get_running_loop().time()
        kept = [waiting for waiting in batch if waiting.deadline > now]
        for waiting in batch:
            if waiting.deadline <= now:
                kind = StoreUnavailable if isinstance(error, StoreUnavailable) else Unavailable
                text = str(error) or type(error).__name__
                _refuse(
                    waiting,
                    kind(
                        f"The supervisor could not be reached for {self._deadline_s:g} s ({text}). Nothing is lost: send the request "
                        "again with the same Idempotency-Key.",
                        retry_after_s=2,
                    ),
                )
        return kept


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
