"""One process that runs workflows: the real supervisor, mailboxes and runners over an in-memory (or any other) store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentflow.adapters.inmemory import InMemoryStore
from agentflow.clock import utc_now
from agentflow.codec import decode_value, encode_value
from agentflow.domain.agent import Agent
from agentflow.domain.command import Start
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, StepDone, StepError
from agentflow.domain.event import Line
from agentflow.domain.execution import ExecutionView
from agentflow.engine import wire
from agentflow.engine.agent_runner import AgentRunner
from agentflow.engine.decide import Limits
from agentflow.engine.definition import load_workflow, validate_input
from agentflow.engine.load_agent import load_agent
from agentflow.engine.mailbox import Mailbox
from agentflow.engine.rules import StoredRules
from agentflow.engine.supervisor import Supervisor
from agentflow.engine.tool_runner import SandboxRun, ToolRunner
from agentflow.engine.tool_source import ToolSource
from agentflow.errors import Unavailable
from agentflow.ids import SHARD_COUNT, new_execution_id
from agentflow.ports import WorkerNeed

TENANT = "default"


class LocalWorker:
    """A mailbox as a `ports.Worker`; what goes in and out is encoded and decoded, as between processes."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def deliver(
        self, dispatches: Sequence[Dispatch], acknowledged: Sequence[str]
    ) -> tuple[Sequence[StepDone | StepError], Sequence[str]]:
        self._check()
        answer = await self.mailbox.deliver(*wire.decode_deliver(wire.encode_deliver(dispatches, acknowledged)))
        self._check()
        return wire.decode_delivered(wire.encode_delivered(*answer))

    async def cancel(self, dispatch_ids: Sequence[str]) -> None:
        self._check()
        self.mailbox.cancel(dispatch_ids)

    async def holding(self) -> Sequence[Holding]:
        self._check()
        return self.mailbox.holding()

    async def gone(self) -> str:
        return await asyncio.shield(self._dead)

    async def kill(self) -> None:
        """As `kill -9`: nothing of it goes on, nothing is said."""
        if not self._dead.done():
            self._dead.set_result("killed by the test")
        await self.mailbox.close()

    def _check(self) -> None:
        if self._dead.done():
            raise Unavailable("the worker is dead")


class LocalPool:
    """Workers in this process. `agents` maps import paths to instances; other paths are imported."""

    def __init__(self, runtime: LocalRuntime, agents: Mapping[str, Agent], app_dir: Path | None, tools: ToolRunner) -> None:
        self._runtime, self._agents, self._app_dir, self._tools = runtime, agents, app_dir, tools
        self.workers: dict[str, tuple[WorkerNeed, LocalWorker]] = {}

    async def acquire(self, name: str, need: WorkerNeed) -> LocalWorker:
        if need.kind == "tool":
            runner: AgentRunner | ToolRunner = self._tools
        else:
            agent = self._agents.get(need.uses) or load_agent(need.uses, app_dir=self._app_dir)
            runner = AgentRunner(agent, sessions=self._runtime.store.sessions, tools=LocalTools(self._tools))
        worker = LocalWorker(Mailbox(name, runner, self._runtime.report, limit=1_024))
        self.workers[name] = (need, worker)
        return worker

    async def survivors(self) -> Mapping[str, tuple[WorkerNeed, LocalWorker]]:
        return {name: (need, worker) for name, (need, worker) in self.workers.items() if not worker._dead.done()}

    async def release(self, name: str) -> None:
        need_worker = self.workers.pop(name, None)
        if need_worker is not None:
            await need_worker[1].kill()

    def missing(self, need: WorkerNeed) -> str:
        return ""


class LocalTools:
    """`ports.ToolCaller` straight into a runner."""

    def __init__(self, runner: ToolRunner) -> None:
        self._runner = runner

    async def call(
        self,
        *,
        tenant_id: str,
        uses: str,
        arguments: bytes,
        code_hash: str,
        key: str,
        mount_roots: tuple[str, ...] | None,
        timeout_s: float | None,
    ) -> StepDone | StepError:
        dispatch = Dispatch(key, tenant_id, "", "", key, 1, "tool", uses, code_hash, arguments, timeout_s, mount_roots=mount_roots)
        return await self._runner.run(dispatch, _no_effects)


async def _no_effects(effect: object) -> None:
    raise AssertionError("a tool has no effects")


class LocalRuntime:
    """Runs workflows in this process::

    async with LocalRuntime(agents={"app:Greeter": Greeter()}) as runtime:
        view = await runtime.run(workflow_yaml, {"name": "Ada"})
    """

    def __init__(
        self,
        *,
        store: Any = None,
        agents: Mapping[str, Agent] | None = None,
        app_dir: Path | None = None,
        sandboxes: Mapping[Any, SandboxRun] | None = None,
        limits: Limits | None = None,
        mount_roots: tuple[str, ...] | None = (),
    ) -> None:
        self.store = store if store is not None else InMemoryStore()
        self.mount_roots = mount_roots
        self.fenced = False
        self._limits = limits or Limits()
        self._names = itertools.count(1)
        tools = ToolRunner(ToolSource(app_dir or Path.cwd()), sandboxes or {})
        self.pool = LocalPool(self, agents or {}, app_dir, tools)
        self.supervisor = self._new_supervisor()
        self._task: asyncio.Task[None] | None = None

    def _new_supervisor(self) -> Supervisor:
        return Supervisor(
            "0",
            shards=range(SHARD_COUNT),
            journal=self.store.journal,
            pool=self.pool,
            rules=StoredRules(self.store.workflows, self._limits),
            capacity={"agent": 1_024, "tool": 64},
            on_fenced=self._on_fenced,
        )

    def _on_fenced(self) -> None:
        self.fenced = True

    async def report(self, worker: str, results: Sequence[StepDone | StepError], effects: Sequence[EffectReport]) -> Sequence[str]:
        body = wire.encode_report(worker, results, effects)
        return await self.supervisor.report(*wire.decode_report(body))

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.supervisor.run())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()
        for _, worker in list(self.pool.workers.values()):
            await worker.kill()
        await self.store.close()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.supervisor.close()

    async def restart_supervisor(self) -> None:
        """As if the supervisor's process had been killed and started again; workers live on."""
        await self._stop()
        self.supervisor = self._new_supervisor()
        self._task = asyncio.create_task(self.supervisor.run())

    async def start(self, workflow: str, value: Any = None, *, at: datetime | None = None) -> str:
        """Store the workflow (YAML text) and begin an execution of it; returns its id."""
        definition = load_workflow(workflow)
        validate_input(definition, value)
        await self.store.workflows.put(TENANT, definition, "test")
        execution_id = new_execution_id(at or utc_now())
        command = Start(execution_id, TENANT, "test", definition.name, definition.version, encode_value(value), "testing", self.mount_roots)
        await self.submit(command)
        return execution_id

    async def say(self, agent: str, session_id: str, message: Any) -> str:
        """Start a message to a session; returns the execution's id."""
        execution_id = new_execution_id(utc_now())
        command = Start(execution_id, TENANT, "test", "agentflow/session", "1", encode_value(message), "testing", (), agent, session_id)
        await self.submit(command)
        return execution_id

    async def submit(self, command: Any) -> Any:
        """Submit one command, waiting while the supervisor is not running yet. Raises AssertionError when it is refused."""
        while True:
            try:
                (reply,) = await self.supervisor.submit([command])
            except Unavailable:
                await asyncio.sleep(0.01)
                continue
            return reply

    async def ended(self, execution_id: str, *, timeout_s: float = 30.0) -> ExecutionView:
        """The execution once it has ended. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            cursor = ""
            while True:
                changes = await self.supervisor.changes(cursor, 0.2)
                cursor = changes.cursor
                view: ExecutionView | None = await self.store.executions.get(TENANT, execution_id)
                if view is not None and view.status.ended:
                    return view

    async def run(self, workflow: str, value: Any = None, *, timeout_s: float = 30.0) -> ExecutionView:
        return await self.ended(await self.start(workflow, value), timeout_s=timeout_s)

    async def journal(self, execution_id: str) -> Sequence[Line]:
        """Every line of it."""
        lines: Mapping[str, Sequence[Line]] = await self.store.journal.load([execution_id])
        return lines.get(execution_id, [])


def result_of(view: ExecutionView) -> Any:
    """The decoded result of a completed execution."""
    return None if view.result is None else decode_value(view.result)
