"""The warm sandboxes of one node, and the bounded queue in front of them.

A sandbox serves one call and is thrown away; while nobody waits, the next ones boot in the background. Booting costs about
0.4 s of CPU, so at most one boots for each core at a time, and those that a call waits for go first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from agentflow.domain.sandbox import Outcome, OutcomeKind, Profile, SandboxCall
from agentflow.engine.turnstile import Turnstile
from agentflow.errors import Busy, SandboxRefused, Unavailable
from agentflow.ports import Sandbox, SandboxLauncher

log = logging.getLogger(__name__)

_REST_S = (1.0, 30.0)
"""After a boot that failed: how long the background waits before it tries again, at first and at most."""


_HEAD_START_S = 0.05
"""A call's successor boots this much later, or when the call ends: most calls are over by then and had the cores to themselves."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Counts of now (`warm`, `booting`, `running`, `queued`) and since the start (`calls`, `cold`, `refused`, `dead`)."""

    warm: int
    booting: int
    running: int
    queued: int
    calls: int
    cold: int
    refused: int
    dead: int
    """Warm ones that had ended by themselves before a call came."""


class SandboxPool:
    """Runs calls, each in a sandbox of its own. All methods are for one event loop.

    `size`: warm sandboxes kept. `running_at_once`: calls that may hold a sandbox at a time (each may use its profile's memory),
    by default as many as are warm, at least two a core. `max_queue`: calls that may wait beyond these. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        launcher: SandboxLauncher,
        *,
        size: int = 4,
        max_queue: int = 256,
        refills_at_once: int | None = None,
        running_at_once: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        cores = os.cpu_count() or 1
        self._launcher = launcher
        self._size = size
        self._max_queue = max_queue
        self._clock = clock
        self._places = running_at_once or max(size, 2 * cores)
        self._running = Turnstile(self._places)
        self._boots = Turnstile(refills_at_once or cores)
        self._warm: deque[Sandbox] = deque()
        self._wanted: deque[asyncio.Future[Sandbox]] = deque()
        """Calls that wait for the next generic sandbox, in the order they came."""
        self._refilling = 0
        self._rest_s = 0.0
        self._rest_until = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: set[Sandbox] = set()
        self._mean_s = 0.5
        self._closed = False
        self._calls = self._cold = self._refused = self._dead = 0

    def start(self) -> None:
        """Begin to fill up. Calls work without it, the first ones cold."""
        self._refill()

    def status(self) -> PoolStatus:
        return PoolStatus(
            warm=len(self._warm),
            booting=self._boots.inside,
            running=self._running.inside,
            queued=self._running.waiting,
            calls=self._calls,
            cold=self._cold,
            refused=self._refused,
            dead=self._dead,
        )

    async def call(self, call: SandboxCall, *, name: str = "call") -> Outcome:
        """Run it and say how it ended; waiting for a place or a boot does not count against its wall_s.

        Raises Busy when the queue is full, SandboxRefused when the isolation or a mount is not there, Unavailable when the pool
        is closed. A sandbox that does not start is tried once more, then the outcome is start_failed. Cancelling ends the sandbox.
        """
        if self._closed:
            raise _shut_down()
        if not self._running.free and self._running.waiting >= self._max_queue:
            self._refused += 1
            retry_after_s = round(min(30.0, max(0.1, self._mean_s * (self._running.waiting + 1) / self._places)), 2)
            raise Busy(
                f"{self._max_queue} tool calls wait on this node already; try again in {retry_after_s} s", retry_after_s=retry_after_s
            )
        async with self._running.pass_through():
            if self._closed:
                raise _shut_down()
            begun = self._clock()
            self._calls += 1
            try:
                return await self._serve(call, name)
            finally:
                self._mean_s += 0.2 * (self._clock() - begun - self._mean_s)

    async def close(self) -> None:
        """End every sandbox, also those that run a call (its outcome is `lost`), and wait until they are gone."""
        self._closed = True
        for waiter in self._wanted:
            if not waiter.done():
                waiter.set_exception(_shut_down())
        for task in self._tasks:
            if task.get_name() == "boot":
                task.cancel()
        for sandbox in (*self._held, *self._warm):
            self._end(sandbox)
        self._warm.clear()
        while self._tasks:
            await asyncio.wait(self._tasks, timeout=30.0)

    async def _serve(self, call: SandboxCall, name: str) -> Outcome:
        generic = _is_generic(call)
        while generic and self._warm:
            outcome = await self._run(self._warm.popleft(), call)
            if outcome.kind is not OutcomeKind.START_FAILED:
                return outcome
            self._dead += 1  # it had ended by itself before it got the call: the code never ran
        self._cold += 1
        for last in (False, True):
            try:
                sandbox = await (self._next_generic() if generic else self._boot(call, name))
            except Unavailable as error:
                if self._closed:
                    raise
                outcome = Outcome(OutcomeKind.START_FAILED, message=error.message)
            else:
                outcome = await self._run(sandbox, call)
            if outcome.kind is not OutcomeKind.START_FAILED or last:
                break
            if self._closed:
                raise _shut_down()
        return replace(outcome, cold=True)

    async def _run(self, sandbox: Sandbox, call: SandboxCall) -> Outcome:
        if self._closed:
            self._end(sandbox)
            raise _shut_down()
        self._held.add(sandbox)
        refill = asyncio.get_running_loop().call_later(_HEAD_START_S, self._refill)
        try:
            outcome = await sandbox.run(call)
        finally:
            refill.cancel()
            self._held.discard(sandbox)
            self._end(sandbox)
            self._refill()
        if self._closed and outcome.kind in (OutcomeKind.CRASH, OutcomeKind.START_FAILED):
            return replace(outcome, kind=OutcomeKind.LOST, message="this node's sandboxes were shut down during the call")
        return outcome

    async def _next_generic(self) -> Sandbox:
        """The next generic sandbox that gets ready; whoever waits longest gets it. Raises Unavailable, SandboxRefused."""
        if self._closed:
            raise _shut_down()
        waiter: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._wanted.append(waiter)
        self._refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_over(waiter.result())
            raise
        finally:
            if waiter in self._wanted:
                self._wanted.remove(waiter)

    async def _boot(self, call: SandboxCall, name: str) -> Sandbox:
        """A sandbox for this call alone. A task of its own, so that `close` can end it."""
        booting = self._spawn(self._launch(call, name), "boot")
        try:
            return await booting
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._closed and current is not None and not current.cancelling():
                raise _shut_down() from None
            raise

    async def _launch(self, call: SandboxCall | None, name: str) -> Sandbox:
        async with self._boots.pass_through(urgent=call is not None or bool(self._wanted)):
            return await self._launcher.launch(call, name=name)

    def _refill(self) -> None:
        """Boot as many as are missing. While the background rests after failures, only what calls wait for."""
        if self._closed:
            return
        size = 0 if self._clock() < self._rest_until else self._size
        for _ in range(len(self._wanted) + size - len(self._warm) - self._refilling):
            self._refilling += 1
            self._spawn(self._refill_one(), "boot")

    async def _refill_one(self) -> None:
        try:
            sandbox = await self._launch(None, "warm")
        except (Unavailable, SandboxRefused) as error:
            failure: Unavailable | SandboxRefused = error
        except Exception as error:  # the top of a background loop: a launcher's own mistake must not leave calls waiting
            log.exception("a launcher failed in a way that it does not promise")
            failure = Unavailable(f"a sandbox did not start: {type(error).__name__}: {error}")
        else:
            self._rest_s = self._rest_until = 0.0
            self._hand_over(sandbox)
            return
        finally:
            self._refilling -= 1
        self._boot_failed(failure)

    def _boot_failed(self, failure: Unavailable | SandboxRefused) -> None:
        """Tell the call that waits longest. The background rests, longer each time, and then tries again."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_exception(failure)
        if self._closed or self._clock() < self._rest_until:
            return
        self._rest_s = min(_REST_S[1], max(_REST_S[0], self._rest_s * 2))
        self._rest_until = self._clock() + self._rest_s
        log.warning("a sandbox did not start, the next warm one is tried in %g s: %s", self._rest_s, failure)
        self._spawn(self._refill_later(self._rest_s), "boot")

    async def _refill_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._rest_until = 0.0
        self._refill()

    def _hand_over(self, sandbox: Sandbox) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(sandbox)
        elif self._closed or len(self._warm) >= self._size:
            self._end(sandbox)
        else:
            self._warm.append(sandbox)

    def _next_waiter(self) -> asyncio.Future[Sandbox] | None:
        while self._wanted:
            waiter = self._wanted.popleft()
            if not waiter.done():
                return waiter
        return None

    def _end(self, sandbox: Sandbox) -> None:
        self._spawn(sandbox.close(), "end")

    def _spawn(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and task.get_name() == "end":
            log.error("a sandbox could not be ended cleanly", exc_info=task.exception())


def _shut_down() -> Unavailable:
    return Unavailable("this node's sandboxes are shut down; send the call to another node, or again later")


_GENERIC = Profile()


def _is_generic(call: SandboxCall) -> bool:
    """What a sandbox has from its start is as in the default profile; the other limits come with the call."""
    mine, generic = call.profile, _GENERIC
    return (
        not call.mounts
        and mine.memory_bytes == generic.memory_bytes
        and mine.cpu == generic.cpu
        and mine.processes == generic.processes
        and mine.disk_bytes == generic.disk_bytes
    )
