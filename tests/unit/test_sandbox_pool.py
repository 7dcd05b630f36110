"""SandboxPool with a launcher whose boots and calls the test itself ends, one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from agentflow.domain.sandbox import Mount, Outcome, OutcomeKind, Profile, SandboxCall, SandboxCapabilities
from agentflow.engine.sandbox_pool import SandboxPool
from agentflow.errors import Busy, SandboxRefused, Unavailable

CALL = SandboxCall(source="", module="m", function="f", arguments=b"{}", profile=Profile())
WITH_MOUNT = replace(CALL, mounts=(Mount("/srv", "/mnt/0"),))
DONE = Outcome(OutcomeKind.OK, value=b"1")


@dataclass(eq=False)
class FakeSandbox:
    launcher: FakeLauncher
    call: SandboxCall | None
    served: list[SandboxCall] = field(default_factory=list)
    ends: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    dead: bool = False
    closed: bool = False

    async def run(self, call: SandboxCall) -> Outcome:
        assert not self.closed and not self.served, "a sandbox serves one call"
        self.served.append(call)
        if self.dead:
            return Outcome(OutcomeKind.START_FAILED, message="had ended")
        if self.launcher.at_once:
            return DONE
        return await self.ends

    async def close(self) -> None:
        self.closed = True
        if not self.ends.done():
            self.ends.set_result(Outcome(OutcomeKind.CRASH))


@dataclass(eq=False)
class FakeLauncher:
    """Boots when the test says so; `fail` holds what the next boots raise instead."""

    at_once: bool = True
    hold_boots: bool = False
    fail: list[Exception] = field(default_factory=list)
    made: list[FakeSandbox] = field(default_factory=list)
    boots: list[tuple[SandboxCall | None, asyncio.Future[None]]] = field(default_factory=list)
    booting: int = 0
    most_booting: int = 0

    async def probe(self) -> SandboxCapabilities:
        return SandboxCapabilities(name="fake", available=True)

    async def launch(self, call: SandboxCall | None, *, name: str) -> FakeSandbox:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.boots.append((call, gate))
        self.booting += 1
        self.most_booting = max(self.most_booting, self.booting)
        try:
            if self.hold_boots:
                await gate
        finally:
            self.booting -= 1
        if self.fail:
            raise self.fail.pop(0)
        self.made.append(FakeSandbox(self, call))
        return self.made[-1]

    async def clean_up(self) -> int:
        return 0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def full(pool: SandboxPool, size: int) -> None:
    pool.start()
    await until(lambda: pool.status().warm == size)


async def test_warm_ones_are_booted_beforehand_used_once_and_replaced() -> None:
    launcher = FakeLauncher()
    pool = SandboxPool(launcher, size=2)
    await full(pool, 2)
    outcomes = [await pool.call(CALL) for _ in range(5)]
    assert all(outcome.kind is OutcomeKind.OK for outcome in outcomes)
    assert not outcomes[0].cold
    await until(lambda: pool.status().warm == 2)
    await pool.close()
    assert [len(sandbox.served) for sandbox in launcher.made].count(1) == 5
    assert all(sandbox.closed for sandbox in launcher.made)


async def test_a_call_with_a_mount_or_other_limits_gets_one_of_its_own() -> None:
    launcher = FakeLauncher()
    pool = SandboxPool(launcher, size=1)
    await full(pool, 1)
    bigger = replace(CALL, profile=Profile(memory_bytes=1 << 30))
    for call in (WITH_MOUNT, bigger):
        assert (await pool.call(call)).cold
        assert next(sandbox for sandbox in launcher.made if sandbox.call is call).served == [call]
    longer = replace(CALL, profile=Profile(wall_s=60, output_bytes=1, reply_bytes=1, address_space_bytes=1 << 30))
    assert not (await pool.call(longer)).cold, "these limits come with the call"
    await pool.close()


async def test_boots_are_bounded_and_those_that_a_call_waits_for_go_first() -> None:
    launcher = FakeLauncher(hold_boots=True)
    pool = SandboxPool(launcher, size=6, refills_at_once=2, running_at_once=10)
    pool.start()
    await until(lambda: len(launcher.boots) == 2)
    calls = [asyncio.create_task(pool.call(WITH_MOUNT)) for _ in range(2)]
    await until(lambda: pool._boots.waiting == 4 + 2)
    launcher.boots[0][1].set_result(None)
    launcher.boots[1][1].set_result(None)
    await until(lambda: len(launcher.boots) == 4)
    assert [call for call, _ in launcher.boots[2:4]] == [WITH_MOUNT, WITH_MOUNT]
    launcher.hold_boots = False
    for _, gate in launcher.boots[2:]:
        gate.set_result(None)
    assert [outcome.kind for outcome in await asyncio.gather(*calls)] == [OutcomeKind.OK, OutcomeKind.OK]
    await until(lambda: pool.status().warm == 6)
    assert launcher.most_booting == 2
    await pool.close()


async def test_a_call_without_a_warm_one_takes_the_next_that_gets_ready() -> None:
    launcher = FakeLauncher(hold_boots=True)
    pool = SandboxPool(launcher, size=1, refills_at_once=1)
    pool.start()
    await until(lambda: launcher.boots)
    call = asyncio.create_task(pool.call(CALL))
    await until(lambda: pool.status().running == 1)
    launcher.boots[0][1].set_result(None)
    assert (await call).cold
    assert len(launcher.made) == 1
    await pool.close()


async def test_beyond_the_places_calls_wait_and_beyond_the_queue_they_are_refused() -> None:
    launcher = FakeLauncher(at_once=False)
    pool = SandboxPool(launcher, size=1, running_at_once=2, max_queue=3)
    calls = [asyncio.create_task(pool.call(CALL)) for _ in range(5)]
    await until(lambda: pool.status().running == 2 and pool.status().queued == 3)
    with pytest.raises(Busy) as refused:
        await pool.call(CALL)
    assert refused.value.facts["retry_after_s"] > 0
    assert pool.status().refused == 1
    while not all(call.done() for call in calls):
        await until(
            lambda: any(sandbox.served and not sandbox.ends.done() for sandbox in launcher.made) or all(call.done() for call in calls)
        )
        for sandbox in launcher.made:
            if sandbox.served and not sandbox.ends.done():
                sandbox.ends.set_result(DONE)
        await asyncio.sleep(0)
    assert sum(bool(sandbox.served) for sandbox in launcher.made) == 5
    await pool.close()


async def test_no_queue_at_all_still_lets_calls_in_while_there_are_places() -> None:
    pool = SandboxPool(FakeLauncher(), size=1, running_at_once=1, max_queue=0)
    assert (await pool.call(CALL)).kind is OutcomeKind.OK
    await pool.close()


async def test_a_cancelled_place_in_the_queue_is_given_up() -> None:
    launcher = FakeLauncher(at_once=False)
    pool = SandboxPool(launcher, size=1, running_at_once=1, max_queue=2)
    first, second, third = (asyncio.create_task(pool.call(CALL)) for _ in range(3))
    await until(lambda: pool.status().queued == 2 and any(sandbox.served for sandbox in launcher.made))
    second.cancel()
    next(sandbox for sandbox in launcher.made if sandbox.served).ends.set_result(DONE)
    await first
    await until(lambda: sum(bool(sandbox.served) for sandbox in launcher.made) == 2)
    launcher.made[-1].launcher.at_once = True
    for sandbox in launcher.made:
        if not sandbox.ends.done():
            sandbox.ends.set_result(DONE)
    assert (await third).kind is OutcomeKind.OK
    with pytest.raises(asyncio.CancelledError):
        await second
    await pool.close()


async def test_a_cancelled_call_ends_its_sandbox() -> None:
    launcher = FakeLauncher(at_once=False)
    pool = SandboxPool(launcher, size=0)
    call = asyncio.create_task(pool.call(CALL))
    await until(lambda: launcher.made and launcher.made[0].served)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: launcher.made[0].closed)
    assert pool.status().running == 0
    await pool.close()


async def test_a_sandbox_that_got_ready_for_a_cancelled_call_serves_the_next() -> None:
    launcher = FakeLauncher(hold_boots=True)
    pool = SandboxPool(launcher, size=1, refills_at_once=1)
    call = asyncio.create_task(pool.call(CALL))
    await until(lambda: launcher.boots)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    launcher.boots[0][1].set_result(None)
    await until(lambda: pool.status().warm == 1)
    launcher.hold_boots = False
    assert not (await pool.call(CALL)).cold
    await pool.close()


async def test_a_failed_start_is_tried_once_more() -> None:
    launcher = FakeLauncher(fail=[Unavailable("first")])
    pool = SandboxPool(launcher, size=0)
    assert (await pool.call(WITH_MOUNT)).kind is OutcomeKind.OK
    launcher.fail = [Unavailable("first"), Unavailable("second")]
    outcome = await pool.call(WITH_MOUNT)
    assert (outcome.kind, outcome.message) == (OutcomeKind.START_FAILED, "second")
    assert launcher.fail == []
    await pool.close()


async def test_failed_starts_of_generic_ones_end_the_calls_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    launcher = FakeLauncher(fail=[Unavailable("no"), Unavailable("no")])
    pool = SandboxPool(launcher, size=0, refills_at_once=1)
    with caplog.at_level(logging.CRITICAL):
        assert (await pool.call(CALL)).kind is OutcomeKind.START_FAILED
        assert (await pool.call(CALL)).kind is OutcomeKind.OK, "a call tries at once, also while the background rests"
    await pool.close()


async def test_a_refusal_is_an_error_and_a_launchers_mistake_leaves_no_call_waiting(caplog: pytest.LogCaptureFixture) -> None:
    launcher = FakeLauncher(fail=[SandboxRefused("no gVisor")])
    pool = SandboxPool(launcher, size=0)
    with caplog.at_level(logging.CRITICAL):
        with pytest.raises(SandboxRefused):
            await pool.call(CALL)
        launcher.fail = [RuntimeError("a mistake"), RuntimeError("a mistake")]
        outcome = await pool.call(CALL)
    assert (outcome.kind, "a mistake" in outcome.message) == (OutcomeKind.START_FAILED, True)
    await pool.close()


async def test_the_background_rests_after_failures_instead_of_spinning(caplog: pytest.LogCaptureFixture) -> None:
    launcher = FakeLauncher(fail=[Unavailable("no") for _ in range(100)])
    pool = SandboxPool(launcher, size=3, refills_at_once=3, clock=lambda: 1000.0)
    with caplog.at_level(logging.WARNING):
        pool.start()
        await until(lambda: len(launcher.fail) == 97)
        for _ in range(50):
            await asyncio.sleep(0)
    assert len(launcher.fail) == 97
    assert caplog.text.count("the next warm one is tried in 1 s") == 1
    await pool.close()


async def test_dead_warm_ones_are_noticed_and_not_counted_as_calls() -> None:
    launcher = FakeLauncher()
    pool = SandboxPool(launcher, size=2)
    await full(pool, 2)
    for sandbox in launcher.made:
        sandbox.dead = True
    outcome = await pool.call(CALL)
    assert (outcome.kind, outcome.cold) == (OutcomeKind.OK, True)
    assert pool.status().dead == 2
    await pool.close()
    assert all(sandbox.closed for sandbox in launcher.made)


async def test_closing_ends_everything_and_refuses_more() -> None:
    launcher = FakeLauncher(at_once=False)
    pool = SandboxPool(launcher, size=1, running_at_once=2)
    running = asyncio.create_task(pool.call(CALL))
    await until(lambda: launcher.made and launcher.made[0].served)
    launcher.hold_boots = True
    booting = asyncio.create_task(pool.call(WITH_MOUNT))
    await until(lambda: any(call is WITH_MOUNT for call, _ in launcher.boots))
    waiting = asyncio.create_task(pool.call(CALL))
    await until(lambda: pool.status().queued == 1)
    await pool.close()
    assert (await running).kind is OutcomeKind.LOST
    for call in (booting, waiting):
        with pytest.raises(Unavailable, match="shut down"):
            await call
    with pytest.raises(Unavailable, match="shut down"):
        await pool.call(CALL)
    assert all(sandbox.closed for sandbox in launcher.made)
    assert launcher.booting == 0
