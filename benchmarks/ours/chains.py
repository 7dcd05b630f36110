"""AgentFlow runs chains: the real supervisor and agent actors on Ray, driven as an API replica drives them.

Answers `ready`, `chains` and `limits`. The database's URL is in BENCHMARK_DATABASE_URL, Ray's address in RAY_ADDRESS, the home
folder in AGENTFLOW_HOME, the application folder in BENCHMARK_APP_DIR.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from pathlib import Path
from typing import Any

from benchmarks import bare, closed_loop
from benchmarks.answering import answer, take_stdout
from benchmarks.closed_loop import STEPS

ANSWERS = take_stdout()

import asyncpg  # noqa: E402
import ray  # noqa: E402

from agentflow.actors.links import RaySupervisorLink  # noqa: E402
from agentflow.actors.remote import create_supervisor  # noqa: E402
from agentflow.actors.wiring import NAMESPACE, TENANT, ActorConfig  # noqa: E402
from agentflow.adapters.postgres import PostgresStore, migrate  # noqa: E402
from agentflow.clock import utc_now  # noqa: E402
from agentflow.domain.command import Start  # noqa: E402
from agentflow.domain.execution import ExecutionStatus  # noqa: E402
from agentflow.domain.workflow import Workflow  # noqa: E402
from agentflow.engine.definition import load_workflow  # noqa: E402
from agentflow.engine.tool_source import CodeHash  # noqa: E402
from agentflow.errors import Unavailable  # noqa: E402
from agentflow.ids import new_execution_id  # noqa: E402
from agentflow.serve.commands import CommandQueue  # noqa: E402

PRINCIPAL = "benchmark"
POLL_S = 20.0
CHAIN_TIMEOUT_S = 120.0
FOUND = """
SELECT execution_id, count(*) FILTER (WHERE kind = 'step.completed') AS steps,
       convert_from((array_agg(value) FILTER (WHERE kind = 'execution.completed'))[1], 'UTF8') AS result
FROM event WHERE execution_id = ANY ($1::uuid[]) GROUP BY execution_id
"""


def workflow() -> Workflow:
    """A chain of STEPS steps, each given the output of the one before."""
    steps = [f'  - {{name: s{n}, agent: add, input: "${{ {f"steps.s{n - 1}.output" if n else "input"} }}"}}' for n in range(STEPS)]
    head = ["apiVersion: agentflow/v1", "name: chain", 'version: "1"', 'agents: {add: {uses: "chain_agents:Add"}}', "steps:"]
    return load_workflow("\n".join([*head, *steps, f'output: "${{ steps.s{STEPS - 1}.output }}"', ""]))


class Driver:
    """Starts executions and learns of their ends by the change feed: what follows from a commit, and nothing before it."""

    def __init__(self, url: str, code_hash: str) -> None:
        self._link = RaySupervisorLink("0")
        self._commands = CommandQueue(self._link, limit=10_000, deadline_s=CHAIN_TIMEOUT_S)
        self._url, self._code_hash = url, code_hash
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._started: dict[str, int] = {}
        self._cursor = ""

    async def until_ready(self) -> None:
        async with asyncio.timeout(120):
            while True:
                try:
                    if (await self._link.status()).state == "running":
                        self._cursor = (await self._link.changes("", 0.0)).cursor
                        return
                except Unavailable:
                    pass
                await asyncio.sleep(0.1)

    async def run(self) -> None:
        """Send commands and follow the feed, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commands.run())
            group.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            page = await self._link.changes(self._cursor, POLL_S)
            if page.resync:
                raise RuntimeError("the change feed lost lines: the supervisor was restarted")
            self._cursor = page.cursor
            for change in page.changes:
                if change.status and ExecutionStatus(change.status).ended and (end := self._ends.pop(change.execution_id, None)):
                    end.set_result(change.status)

    async def chain(self, number: int) -> int:
        """The result counts from the end's commit, as with a peer; `check` reads all of them from PostgreSQL afterwards."""
        execution_id = new_execution_id(utc_now())
        end = self._ends[execution_id] = asyncio.get_running_loop().create_future()
        start = Start(execution_id, TENANT, PRINCIPAL, "chain", "1", str(number).encode(), self._code_hash)
        reply = await self._commands.submit(start)
        if reply.error_code:
            raise RuntimeError(f"{reply.error_code}: {reply.message}")
        async with asyncio.timeout(CHAIN_TIMEOUT_S):
            status = await end
        if status != ExecutionStatus.COMPLETED:
            raise RuntimeError(f"execution {execution_id} is {status}")
        self._started[execution_id] = number
        return number + STEPS

    async def check(self) -> None:
        """Every result since the last check, and each step that led to it, is in the journal. Raises AssertionError."""
        started, self._started = self._started, {}
        connection: asyncpg.Connection[Any] = await asyncpg.connect(self._url)
        try:
            rows = await connection.fetch(FOUND, list(started))
        finally:
            await connection.close()
        found = {str(row["execution_id"]): (row["steps"], int(row["result"])) for row in rows if row["result"] is not None}
        wrong = {id_: found.get(id_) for id_, number in started.items() if found.get(id_) != (STEPS, number + STEPS)}
        if wrong:
            raise AssertionError(f"{len(wrong)} of {len(started)} executions are not whole in the journal: {list(wrong.items())[:3]}")


async def limits(url: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of each bare Ray call, of each commit of one row, and of each commit of 500 rows."""
    connection = await bare.Commit.prepare(url)
    try:
        call = bare.Call()
        await call()
        return {
            "call": await bare.one_by_one(call, seconds=seconds),
            "commit": await bare.one_by_one(bare.Commit(connection, 1), seconds=seconds),
            "commit_500": await bare.one_by_one(bare.Commit(connection, 500), seconds=seconds),
        }
    finally:
        await connection.close()


async def main() -> None:
    url, home, app_dir = os.environ["BENCHMARK_DATABASE_URL"], Path(os.environ["AGENTFLOW_HOME"]), Path(os.environ["BENCHMARK_APP_DIR"])
    await migrate(url)
    ray.init(namespace=NAMESPACE, log_to_driver=False)
    # No tool runs here; without this the tool actor would build its root filesystem while we measure.
    config = ActorConfig(url, str(app_dir), str(home / "node"), unsafe_subprocess_tools=True, sandbox_pool_size=0)
    create_supervisor(config, "0")
    async with PostgresStore(url) as store:
        await store.workflows.put(TENANT, workflow(), PRINCIPAL)
    driver = Driver(url, CodeHash(app_dir).now())

    async def ready() -> bool:
        await driver.until_ready()
        return True

    async def chains(in_flight: int, seconds: float, seed: int) -> dict[str, Any]:
        found = await closed_loop.run(driver.chain, in_flight=in_flight, seconds=seconds, seed=seed)
        await driver.check()
        return found

    async def measured_limits(seconds: float) -> dict[str, list[float]]:
        return await limits(url, seconds)

    await driver.until_ready()
    work = asyncio.create_task(driver.run())
    work.add_done_callback(_ended)
    await answer({"ready": ready, "chains": chains, "limits": measured_limits}, ANSWERS)
    work.cancel()


def _ended(work: asyncio.Task[None]) -> None:
    """Without the driver's loops nobody would ever learn that a chain ended."""
    if not work.cancelled() and (error := work.exception()) is not None:
        traceback.print_exception(error)
        os._exit(1)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
