"""The roster: which worker takes which step, with one batched call in flight per worker, and what becomes of a dead one's steps."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from agentflow.clock import utc_now
from agentflow.domain.command import WorkerStatus
from agentflow.domain.dispatch import Dispatch, Holding, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.engine.seat import Place, Seat
from agentflow.errors import AgentFlowError, Unavailable
from agentflow.ports import WorkerNeed, WorkerPool

logger = logging.getLogger(__name__)

BATCH_ITEMS = 512
BATCH_BYTES = 80 << 10
"""Up to 100 KB a Ray call stays inline (design 6)."""
PLACEMENT_NOTICE_S = 30.0
"""What is not placed by then becomes a visible event."""
HOLDING_TIMEOUT_S = 10.0
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0


class Owner(Protocol):
    """The supervisor, as its roster sees it. Called in the loop; must not raise."""

    def ended(self, worker: str, results: Sequence[StepDone | StepError]) -> None:
        """Results that came back inline. The owner calls `acknowledge` for each when it is durable, or superseded."""

    def delivering(self, dispatches: Sequence[Dispatch]) -> None:
        """These go to their worker now; the same ones again when nobody knows whether they have come."""

    def crashed(self, dispatch: Dispatch, reason: str) -> None: ...

    def delayed(self, dispatch: Dispatch, reason: str) -> None: ...


class Roster:
    """All workers of one supervisor. Not thread-safe: one loop."""

    def __init__(self, pool: WorkerPool, owner: Owner, *, prefix: str, capacity: Mapping[str, int]) -> None:
        """`prefix`: of the names of new workers. `capacity`: steps held at once, by kind of worker."""
        self._pool, self._owner, self._prefix, self._capacity = pool, owner, prefix, capacity
        self._seats: dict[Place, Seat] = {}
        self._where: dict[str, Seat] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0

    # ------------------------------------------------------------------ the owner's side

    def send(self, need: WorkerNeed, dispatch: Dispatch, *, alone: bool = False) -> None:
        """Queue a step for a worker that fits; makes one if there is none. An id that is held already is sent again, and starts nothing.

        `alone`: workers die under this step, so it gets one in which no other step runs: whoever dies then, dies of it alone.
        """
        seat = self._where.get(dispatch.dispatch_id)
        if seat is None or self._seats.get(seat.place) is not seat:
            place = (need, alone and need.kind == "agent")
            seat = self._seats.get(place) or self._open(place)
        self._where[dispatch.dispatch_id] = seat
        if dispatch.dispatch_id in seat.held:
            seat.queue.appendleft(dispatch)  # it takes no place: behind others it would wait for the one that it has itself
        else:
            seat.queue.append(dispatch)
        seat.idle_since = None
        self._pump(seat)

    def acknowledge(self, dispatch_id: str) -> None:
        """Its result is durable, or no longer wanted: the worker may forget it."""
        seat = self._where.pop(dispatch_id, None)
        if seat is None:
            return
        seat.held.pop(dispatch_id, None)
        seat.found.discard(dispatch_id)
        seat.acknowledged.append(dispatch_id)
        self._pump(seat)

    def forget(self, dispatch_id: str) -> None:
        """It was reported and acknowledged by the answer to the report."""
        seat = self._where.pop(dispatch_id, None)
        if seat is not None:
            seat.held.pop(dispatch_id, None)
            seat.found.discard(dispatch_id)
            self._pump(seat)

    def revoke(self, dispatch_ids: Sequence[str]) -> None:
        """Cancel these where they are; nothing is expected of them any more."""
        by_seat: dict[str, tuple[Seat, list[str]]] = {}
        for dispatch_id in dispatch_ids:
            seat = self._where.pop(dispatch_id, None)  # what is queued and has no place here is never delivered
            if seat is not None:
                ids = by_seat.setdefault(seat.name, (seat, []))[1]
                if seat.held.pop(dispatch_id, None) is not None or dispatch_id in seat.found:
                    ids.append(dispatch_id)
                seat.found.discard(dispatch_id)
        for seat, ids in by_seat.values():
            if ids:
                self._spawn(self._cancel(seat, ids))
            self._pump(seat)  # there is room now

    def statuses(self) -> list[WorkerStatus]:
        return [
            WorkerStatus(
                seat.name,
                seat.need.kind,
                seat.need.tenant_id,
                seat.need.uses,
                seat.need.code_hash,
                seat.state,
                len(seat.held),
                len(seat.queue),
                seat.created_at,
                seat.crashes,
                seat.reason,
            )
            for seat in self._seats.values()
        ]

    async def adopt(self) -> None:
        """Take over the workers that an earlier life of this supervisor left."""
        for name, (need, worker) in (await self._pool.survivors()).items():
            if any(seat.name == name for seat in self._seats.values()):
                continue  # a takeover that is tried again finds its own
            place = (need, (need, False) in self._seats)
            if place in self._seats or (place[1] and need.kind != "agent"):
                self._spawn(self._pool.release(name))  # nobody could say which of them takes what
                continue
            seat = self._seats[place] = Seat(name, place, self._capacity_of(place), utc_now(), worker)
            self._spawn(self._watch(seat))

    async def holdings(self) -> list[Holding]:
        """What all workers hold. One that does not answer in time is ended: nobody could say what it still does.

        A dispatch found here is sent again under its id by `send`, which starts nothing but fetches what has ended; one that
        is not wanted any more is cancelled by `revoke`.
        """
        seats = [seat for seat in self._seats.values() if seat.worker is not None]
        answers = await asyncio.gather(*(self._ask_holding(seat) for seat in seats))
        found = []
        for seat, answer in zip(seats, answers, strict=True):
            for holding in answer:
                found.append(holding)
                # so that it is sent to where it is, and revoked there
                self._where[holding.dispatch_id] = seat
                seat.found.add(holding.dispatch_id)
        return found

    async def release_idle(self, now: datetime, idle_s: float) -> None:
        """Give back the agent workers that had nothing to do for `idle_s`."""
        for place, seat in list(self._seats.items()):
            busy = seat.held or seat.found or seat.queue or seat.calling or seat.worker is None or seat.need.kind != "agent"
            if busy:
                seat.idle_since = None
            elif seat.idle_since is None:
                seat.idle_since = now
            elif seat.place[1] or (now - seat.idle_since).total_seconds() >= idle_s:
                del self._seats[place]
                await self._pool.release(seat.name)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ a worker's life

    def _capacity_of(self, place: Place) -> int:
        return 1 if place[1] else self._capacity[place[0].kind]

    def _open(self, place: Place) -> Seat:
        self._number += 1
        seat = self._seats[place] = Seat(f"{self._prefix}{self._number}", place, self._capacity_of(place), utc_now())
        self._spawn(self._acquire(seat))
        return seat

    async def _acquire(self, seat: Seat) -> None:
        delay_s, noticed = RETRY_FIRST_S, False
        loop = asyncio.get_running_loop()
        begun = loop.time()
        getting = asyncio.ensure_future(self._pool.acquire(seat.name, seat.need))
        while True:
            try:
                seat.worker = await asyncio.wait_for(asyncio.shield(getting), 1.0 if not noticed else PLACEMENT_NOTICE_S)
                break
            except TimeoutError:
                if not noticed and loop.time() - begun >= PLACEMENT_NOTICE_S:
                    noticed = True
                    seat.reason = self._pool.missing(seat.need) or f"no worker could be placed within {PLACEMENT_NOTICE_S:.0f} s"
                    for dispatch in list(seat.queue):
                        self._owner.delayed(dispatch, seat.reason)
            except asyncio.CancelledError:
                getting.cancel()
                raise
            except AgentFlowError as error:
                if not error.retryable:
                    self._refuse(seat, error)
                    return
                logger.warning("worker %s did not start: %s", seat.name, error)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
                self._number += 1
                seat.name = f"{self._prefix}{self._number}"
                getting = asyncio.ensure_future(self._pool.acquire(seat.name, seat.need))
            except Exception as error:  # the top of this loop: nobody else would ever make this worker
                logger.exception("worker %s did not start, for a reason that its pool does not know", seat.name)
                seat.reason = f"{type(error).__name__}: {error}"
                await asyncio.sleep(RETRY_MAX_S)
                getting = asyncio.ensure_future(self._pool.acquire(seat.name, seat.need))
        seat.reason = ""
        self._spawn(self._watch(seat))
        self._pump(seat)

    def _refuse(self, seat: Seat, error: AgentFlowError) -> None:
        """No worker can ever be this (its code cannot be imported): every step that waits for it fails, with the reason."""
        del self._seats[seat.place]
        waiting, seat.queue = list(seat.queue), deque()
        for dispatch in waiting:
            if self._where.get(dispatch.dispatch_id) is seat:
                self._fail(seat, dispatch, error)

    async def _watch(self, seat: Seat) -> None:
        assert seat.worker is not None
        reason = await seat.worker.gone()
        if self._seats.get(seat.place) is not seat:
            return
        logger.warning("worker %s (%s) is gone with %d steps: %s", seat.name, seat.need.uses or seat.need.kind, len(seat.held), reason)
        del self._seats[seat.place]
        held = list(seat.held.values())
        waiting = {d.dispatch_id: d for d in seat.queue if d.dispatch_id not in seat.held and self._where.get(d.dispatch_id) is seat}
        seat.held.clear()
        seat.queue.clear()
        for dispatch in (*held, *waiting.values()):
            self._where.pop(dispatch.dispatch_id, None)
        for dispatch in waiting.values():
            self.send(seat.need, dispatch, alone=seat.place[1])
        for dispatch in held:
            self._owner.crashed(dispatch, reason)
        for dispatch_id in seat.found:
            if self._where.get(dispatch_id) is seat:
                del self._where[dispatch_id]
        if (successor := self._seats.get(seat.place)) is not None:
            successor.crashes = seat.crashes + 1

    # ------------------------------------------------------------------ calls

    def _pump(self, seat: Seat) -> None:
        self._prune(seat)
        wanted = seat.queue and (len(seat.held) < seat.capacity or seat.queue[0].dispatch_id in seat.held)
        if seat.worker is not None and not seat.calling and (wanted or seat.acknowledged):
            seat.calling = True
            self._spawn(self._deliver(seat))

    def _prune(self, seat: Seat) -> None:
        """Drop from the queue's head what ended or was revoked while it waited there: delivered now, it would run again."""
        while seat.queue and self._where.get(seat.queue[0].dispatch_id) is not seat:
            seat.queue.popleft()

    async def _deliver(self, seat: Seat) -> None:
        """Calls the worker until there is nothing more to say. Never two calls at once."""
        delay_s, most = RETRY_FIRST_S, BATCH_ITEMS
        try:
            while self._seats.get(seat.place) is seat and seat.worker is not None:
                batch = self._take(seat, most)
                acknowledged, seat.acknowledged = seat.acknowledged, []
                if not batch and not acknowledged:
                    return
                self._owner.delivering(batch)
                try:
                    results, refused = await seat.worker.deliver(batch, acknowledged)
                except AgentFlowError as error:
                    if batch and not error.retryable:
                        # something in it cannot be sent or taken: one by one, until only that is left
                        logger.error("worker %s refuses a delivery of %d items: %s", seat.name, len(batch), error)
                        if len(batch) == 1:
                            self._fail(seat, batch[0], error)
                        seat.give_back(batch, acknowledged)
                        most = 1
                        continue
                    # It says nothing about the items. They go again under the same ids, which a living worker starts only once;
                    # if it is dead, `gone` says so.
                    logger.info("worker %s did not answer; its %d items go again: %s", seat.name, len(batch), error)
                    seat.give_back(batch, acknowledged)
                    await asyncio.sleep(delay_s)
                    delay_s = min(RETRY_MAX_S, delay_s * 2)
                    continue
                except Exception:  # the top of this loop: nobody else would ever send these
                    logger.exception("delivering %d items to worker %s failed; they go again", len(batch), seat.name)
                    seat.give_back(batch, acknowledged)
                    await asyncio.sleep(RETRY_MAX_S)
                    continue
                delay_s = RETRY_FIRST_S
                if refused:
                    seat.take_back(batch, set(refused))
                if results:
                    self._owner.ended(seat.name, results)
                if refused and not results:
                    await asyncio.sleep(RETRY_FIRST_S)
        finally:
            seat.calling = False

    def _fail(self, seat: Seat, dispatch: Dispatch, error: AgentFlowError) -> None:
        seat.held.pop(dispatch.dispatch_id, None)
        failure = Failure.of(error.code, str(error), retryable=False)
        result = StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, utc_now(), failure)
        self._owner.ended(seat.name, [result])

    def _take(self, seat: Seat, most: int) -> list[Dispatch]:
        batch: list[Dispatch] = []
        size = 0
        while seat.queue and len(batch) < most:
            dispatch = seat.queue[0]
            if self._where.get(dispatch.dispatch_id) is not seat:
                seat.queue.popleft()
                continue
            if len(seat.held) >= seat.capacity and dispatch.dispatch_id not in seat.held:
                break
            size += len(dispatch.input) + sum(len(effect.value) for effect in dispatch.effects) + 300
            if batch and size > BATCH_BYTES:
                break
            seat.queue.popleft()
            seat.found.discard(dispatch.dispatch_id)
            seat.held[dispatch.dispatch_id] = dispatch
            batch.append(dispatch)
        return batch

    async def _cancel(self, seat: Seat, dispatch_ids: list[str]) -> None:
        if seat.worker is None:
            return
        try:
            await asyncio.wait_for(seat.worker.cancel(dispatch_ids), HOLDING_TIMEOUT_S)
        except (Unavailable, TimeoutError) as error:
            # its loop is blocked by code that does not yield: only its end stops that code
            logger.warning("worker %s does not answer a cancellation and is ended: %s", seat.name, error)
            await self._pool.release(seat.name)

    async def _ask_holding(self, seat: Seat) -> Sequence[Holding]:
        assert seat.worker is not None
        try:
            return await asyncio.wait_for(seat.worker.holding(), HOLDING_TIMEOUT_S)
        except (Unavailable, TimeoutError) as error:
            logger.warning("worker %s does not say what it holds and is ended: %s", seat.name, error)
            await self._pool.release(seat.name)
            return ()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a roster task failed", exc_info=error)
