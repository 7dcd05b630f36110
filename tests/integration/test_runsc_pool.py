"""SandboxPool on real gVisor sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentflow.adapters.runsc import RunscLauncher, build_rootfs
from agentflow.domain.sandbox import Mount, OutcomeKind, Profile, SandboxCall
from agentflow.engine.sandbox_pool import SandboxPool

pytestmark = pytest.mark.runsc
ROOTFS_CACHE = Path.home() / ".cache" / "agentflow" / "tests"


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SandboxPool]:
    launcher = RunscLauncher(tmp_path, await asyncio.to_thread(build_rootfs, ROOTFS_CACHE))
    pool = SandboxPool(launcher, size=2, running_at_once=3)
    pool.start()
    yield pool
    await pool.close()
    await launcher.close()
    assert list((tmp_path / "bundles").iterdir()) == list((tmp_path / "runsc").iterdir()) == []


def call_of(source: str, *, mounts: tuple[Mount, ...] = (), wall_s: float = 20.0) -> SandboxCall:
    return SandboxCall(source, "m", "f", b"{}", Profile(wall_s=wall_s), mounts)


async def test_calls_do_not_see_each_other(pool: SandboxPool) -> None:
    source = "import os\ndef f():\n    seen = os.listdir('/tmp')\n    open('/tmp/mine', 'w').close()\n    return seen"
    outcomes = await asyncio.gather(*(pool.call(call_of(source)) for _ in range(6)))
    assert [outcome.value for outcome in outcomes] == [b"[]"] * 6, outcomes
    assert pool.status().running == pool.status().queued == 0


async def test_endings_of_all_kinds_do_not_disturb_the_next_call(pool: SandboxPool, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    sources = ["def f():\n    while True: pass", "import os\ndef f(): os._exit(1)", "def f(): raise ValueError", "def f(): return 1"]
    calls = [pool.call(call_of(source, wall_s=2.0)) for source in sources]
    calls.append(pool.call(call_of("import os\ndef f(): return os.listdir('/mnt/3')", mounts=(Mount(str(tmp_path / "code"), "/mnt/3"),))))
    kinds = [outcome.kind for outcome in await asyncio.gather(*calls)]
    assert kinds == [OutcomeKind.TIMEOUT, OutcomeKind.CRASH, OutcomeKind.ERROR, OutcomeKind.OK, OutcomeKind.OK]


async def test_closing_during_a_call_says_lost(pool: SandboxPool) -> None:
    call = asyncio.create_task(pool.call(call_of("import time\ndef f(): time.sleep(600)", wall_s=600.0)))
    async with asyncio.timeout(20):
        while not pool._held:
            await asyncio.sleep(0.01)
    await pool.close()
    assert (await call).kind is OutcomeKind.LOST
