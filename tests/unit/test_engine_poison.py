"""A step that kills whatever runs it: it ends as poison, and takes nobody along who happened to be in the same process."""

from __future__ import annotations

import asyncio
from collections import Counter

from agentflow.domain import event as ev
from agentflow.domain.agent import Agent
from agentflow.domain.execution import ExecutionStatus
from agentflow.testing.runtime import LocalRuntime, result_of

ONE = """
apiVersion: agentflow/v1
name: one
agents: {it: {uses: "t:It"}}
steps:
  - {name: only, agent: it, input: "${ input }"}
"""


class It(Agent):
    """`poison` kills its worker, and everybody who is in it. The others wait to be killed, `patient` times, and then return."""

    def __init__(self, *, patient: int) -> None:
        self.runtime: LocalRuntime | None = None
        self.patient, self.runs = patient, Counter()
        self.inside: set[str] = set()
        self.go = asyncio.Event()

    async def run(self, context, input):
        mine, worker = next((name, worker) for name, (_, worker) in self.runtime.pool.workers.items() if _in(worker, context.execution_id))
        self.runs[context.execution_id] += 1
        if input == "poison":
            asyncio.get_running_loop().create_task(self.runtime.pool.release(mine))
            await asyncio.Event().wait()
        self.inside.add(context.execution_id)
        try:
            if self.runs[context.execution_id] <= self.patient:
                await self.go.wait()
        finally:
            self.inside.discard(context.execution_id)
        return len(worker.mailbox._running)


def _in(worker, execution_id):
    return any(running.dispatch.execution_id == execution_id for running in worker.mailbox._running.values())


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def crashes_of(runtime, execution_id):
    return [line.event.crashes for line in await runtime.journal(execution_id) if isinstance(line.event, ev.StepCrashed)]


async def test_a_step_that_kills_its_process_takes_nobody_along():
    it = It(patient=2)
    async with LocalRuntime(agents={"t:It": it}) as runtime:
        it.runtime = runtime
        innocent = [await runtime.start(ONE, number) for number in range(5)]
        await until(lambda: len(it.inside) == 5)
        poison = await runtime.ended(await runtime.start(ONE, "poison"))
        views = [await runtime.ended(execution_id) for execution_id in innocent]
        crashes = [await crashes_of(runtime, execution_id) for execution_id in innocent]

    assert poison.failure is not None and poison.failure.code == "poison"
    assert [view.status for view in views] == [ExecutionStatus.COMPLETED] * 5
    assert crashes == [[1, 2]] * 5
    assert [result_of(view) for view in views] == [1] * 5, "each of them had a worker to itself in the end"


async def test_several_poisonous_steps_end_one_after_the_other_and_the_rest_completes():
    it = It(patient=2)
    async with LocalRuntime(agents={"t:It": it}) as runtime:
        it.runtime = runtime
        innocent = [await runtime.start(ONE, number) for number in range(3)]
        await until(lambda: len(it.inside) == 3)
        bad = [await runtime.start(ONE, "poison") for _ in range(3)]
        ended = [await runtime.ended(execution_id) for execution_id in bad]
        it.go.set()
        views = [await runtime.ended(execution_id) for execution_id in innocent]

    assert {view.failure.code for view in ended if view.failure} == {"poison"}
    assert [view.status for view in views] == [ExecutionStatus.COMPLETED] * 3


async def test_a_suspect_that_is_held_when_the_supervisor_restarts_is_fetched_where_it_is():
    it = It(patient=1_000)
    async with LocalRuntime(agents={"t:It": it}) as runtime:
        it.runtime = runtime
        suspect = await runtime.start(ONE, 1)
        for runs in (1, 2):
            await until(lambda runs=runs: it.runs[suspect] == runs and it.inside)
            await runtime.pool.release(next(name for name, (_, worker) in runtime.pool.workers.items() if worker.mailbox.busy))
        await until(lambda: it.runs[suspect] == 3 and it.inside)
        other = await runtime.start(ONE, 2)
        await until(lambda: len(it.inside) == 2)
        await runtime.restart_supervisor()
        it.go.set()
        views = [await runtime.ended(execution_id) for execution_id in (suspect, other)]
        crashes = await crashes_of(runtime, suspect)

    assert [view.status for view in views] == [ExecutionStatus.COMPLETED] * 2
    assert [result_of(view) for view in views] == [1, 1]
    assert crashes == [1, 2]
    assert it.runs == {suspect: 3, other: 1}
