"""DBOS runs chains: an async workflow of 10 async steps. Answers `chains`; the database's URL is in DBOS_SYSTEM_DATABASE_URL.

Settings, found by trying on DBOS 3.4 what its reference documents (docs/performance.md): logging at ERROR and no OTLP, no Conductor,
pool_pre_ping off (a round trip a checkout), the default pool of 20 connections and unbounded executor threads (8 to 64 connections
and 16 to 64 threads were not faster). Migrations are done when `chains` is first answered.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from benchmarks import closed_loop
from benchmarks.answering import answer, take_stdout
from benchmarks.closed_loop import STEPS

ANSWERS = take_stdout()

from dbos import DBOS, DBOSConfig  # noqa: E402

DBOS(
    config=DBOSConfig(
        name="benchmark",
        system_database_url=os.environ["DBOS_SYSTEM_DATABASE_URL"],
        executor_id=f"executor-{sys.argv[1]}",  # several processes: each recovers its own workflows only
        log_level="ERROR",
        db_engine_kwargs={"pool_pre_ping": False},
    )
)


@DBOS.step()
async def add(number: int) -> int:
    return number + 1


@DBOS.workflow()
async def chain(number: int) -> int:
    for _ in range(STEPS):
        number = await add(number)
    return number


async def chains(in_flight: int, seconds: float, seed: int) -> dict[str, Any]:
    """A workflow awaited in place: quicker than a handle of start_workflow_async."""
    return await closed_loop.run(chain, in_flight=in_flight, seconds=seconds, seed=seed)


async def ready() -> bool:
    return True


async def main() -> None:
    DBOS.launch()
    await answer({"chains": chains, "ready": ready}, ANSWERS)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # its background threads would take seconds to notice
