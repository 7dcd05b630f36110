"""The supervisor: the shell around `decide`. Routes commands and results, commits, then lets out what follows from them.

No Ray here: it is given a Journal, a WorkerPool and a source of workflows, and runs in an actor, in one process, or in a test.
Everything happens in one event loop, so that between two awaits the state of an execution is consistent.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from agentflow.clock import utc_now
from agentflow.domain.command import Cancel, Change, Changes, Command, Reply, Start, SupervisorStatus
from agentflow.domain.dispatch import Dispatch, EffectReport, SessionRef, StepDone, StepError
from agentflow.domain.event import StepCompleted
from agentflow.domain.execution import ExecutionStatus, StepStatus
from agentflow.domain.state import ExecutionState
from agentflow.engine.decide import (
    Crash,
    Decision,
    Delay,
    EngineCommand,
    Outgoing,
    Reject,
    Resume,
    Rules,
    Wake,
    begin_clock,
    decide,
    next_wake,
    status_to_write,
)
from agentflow.engine.evolve import replay
from agentflow.engine.feed import Feed
from agentflow.engine.group_commit import GroupCommit
from agentflow.engine.loaded import Loaded, Pending
from agentflow.engine.periodic import Periodic
from agentflow.engine.roster import Roster
from agentflow.engine.sessions import Sessions
from agentflow.errors import AgentFlowError, NotFound, StoreUnavailable, Unavailable
from agentflow.ports import Append, ExecutionRow, Journal, Rejected, SessionWrite, WorkerNeed, WorkerPool

logger = logging.getLogger(__name__)

TIMER_TICK_S = 0.05
DUE_TICK_S = 1.0
DUE_HORIZON = timedelta(seconds=2)
DUE_LIMIT = 1_000
IDLE_TICK_S = 15.0
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 3.0
ALONE_AFTER = 2
"""Crashes. One death may be anybody's fault; whoever was there again at the next has a worker to itself."""
RECOVER_AT_ONCE = 200
"""Executions read back in one statement at a takeover."""

LOST = "what was decided is not in the journal, or nobody knows whether it is; send the same again"

RulesSource = Callable[[str, str, str, str | None], Awaitable[Rules]]
"""(tenant, workflow, version, session agent) to the rules; raises NotFound, WorkflowInvalid, StoreUnavailable. It may cache for ever."""
Observer = Callable[[ExecutionState, Rules, Decision, datetime], None]
"""Told of every committed decision: metrics."""


KnownDispatches = dict[tuple[str, str, int], str]
"""(execution, step, attempt) to the dispatch id under which it was sent."""


class Supervisor:
    """One supervisor of one or more shards. `run` must be running for anything to happen."""

    def __init__(
        self,
        name: str,
        *,
        shards: Sequence[int],
        journal: Journal,
        pool: WorkerPool,
        rules: RulesSource,
        capacity: Mapping[str, int],
        on_fenced: Callable[[], None],
        observer: Observer | None = None,
        now: Callable[[], datetime] = utc_now,
        idle_s: float = 300.0,
    ) -> None:
        """`capacity`: steps held at once by a worker, by kind (`agent`, `tool`). `on_fenced` must end the process."""
        self.name, self.shards = name, tuple(shards)
        self._journal, self._rules, self._now, self._observer, self._on_fenced = journal, rules, now, observer, on_fenced
        self._tokens: dict[int, int] = {}
        self._executions: dict[str, Loaded] = {}
        self._recovering: set[str] = set()
        self._timers: list[tuple[datetime, str]] = []
        self._epoch = os.urandom(4).hex()
        self._holder = f"{name}:{self._epoch}"
        self._dispatched = 0
        self._sessions = Sessions()
        self._feed = Feed(self._epoch)
        self._roster = Roster(pool, self, prefix=f"agentflow:agent:{name}:{self._epoch}-", capacity=capacity)
        self._commits: GroupCommit[Pending] = GroupCommit(journal, self, lambda: self._tokens)
        self._state = "connecting"
        self._reason = ""
        self._idle_s = idle_s
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Take the shards, recover what was in flight, then serve until cancelled or fenced."""
        await self._until_reachable("taking the shards", self._take_over)
        self._state = "running"
        logger.info("supervisor %s runs shards %s", self.name, list(self.shards))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commits.run())
            group.create_task(Periodic("timers", self._tick_timers, every_s=TIMER_TICK_S).run())
            group.create_task(Periodic("due executions", self._tick_due, every_s=DUE_TICK_S).run())
            group.create_task(Periodic("idle workers", self._tick_idle, every_s=IDLE_TICK_S).run())

    async def close(self) -> None:
        """Stop the roster's and our own tasks; what was in flight is found again by the next life."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._roster.close()

    async def _take_over(self) -> None:
        self._tokens = dict(await self._journal.take_shards(self.shards, self._holder))
        self._state = "taking_over"
        await self._roster.adopt()
        running = await self._journal.running(self.shards)
        found = await self._roster.holdings()
        known = {(holding.execution_id, holding.step, holding.attempt): holding.dispatch_id for holding in found}
        # what a worker runs goes first, so that it gets back the session it is in
        at_work = {holding.execution_id for holding in found}
        ordered = sorted(running, key=lambda execution_id: execution_id not in at_work)
        for start in range(0, len(ordered), RECOVER_AT_ONCE):
            await self._read_back(ordered[start : start + RECOVER_AT_ONCE], known)
        places = [((holding.execution_id, holding.step, holding.attempt), holding.dispatch_id) for holding in found]
        self._roster.revoke([dispatch_id for place, dispatch_id in places if not self._is_current(place, dispatch_id)])
        if running:
            logger.info("supervisor %s took over %d running executions", self.name, len(running))

    async def _until_reachable(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await work()
            except Unavailable as error:
                logger.warning("%s: %s", what, error)
                self._reason = str(error)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
            else:
                self._reason = ""
                return

    # ------------------------------------------------------------------ clients

    async def submit(self, commands: Sequence[Command]) -> list[Reply]:
        """Answers after the commit, in order. Raises Unavailable while this supervisor does not run yet."""
        self._check_running()
        return list(await asyncio.gather(*(self._submit(command) for command in commands)))

    async def _submit(self, command: Command) -> Reply:
        try:
            if isinstance(command, Start):
                return await self._start(command)
            return await self._cancel(command)
        except AgentFlowError as error:
            return Reply(command.execution_id, error_code=error.code, message=str(error))

    async def _start(self, command: Start) -> Reply:
        rules = await self._rules(command.tenant_id, command.workflow, command.version, command.session_agent)
        known = self._executions.get(command.execution_id)
        if command.execution_id in self._recovering:
            raise Unavailable("the execution is being read back; send the command again")
        if known is None:
            loaded = self._executions[command.execution_id] = Loaded(ExecutionState(command.execution_id), rules)
            self._decide(loaded, command)
            pending = loaded.pending
            durable = await self._durable(loaded)
            if pending is not None and pending.rejected is not None:
                if pending.rejected.code == "exists":
                    return Reply(command.execution_id, existed=True)
                return Reply(command.execution_id, error_code="journal_rejected", message=pending.rejected.message)
            if pending is None or not durable:
                raise Unavailable(LOST)
            return Reply(command.execution_id, status=pending.status.value)
        if not await self._durable(known):
            raise Unavailable(LOST)
        return Reply(command.execution_id, status=known.state.status.value, existed=True)

    async def _cancel(self, command: Cancel) -> Reply:
        missing = NotFound(f"there is no execution {command.execution_id}")
        if command.execution_id in self._recovering:
            raise Unavailable("the execution is being read back; send the command again")
        if command.execution_id not in self._executions:
            await self._read_back([command.execution_id], {})
        loaded = self._executions.get(command.execution_id)
        if loaded is None:
            lines = (await self._journal.load([command.execution_id])).get(command.execution_id)
            if not lines or replay(command.execution_id, lines).tenant_id != command.tenant_id:
                raise missing
            status = replay(command.execution_id, lines).status
            return Reply(
                command.execution_id, status=status.value, error_code="conflict", message=f"the execution has ended already: {status}"
            )
        if loaded.state.tenant_id != command.tenant_id:
            raise missing
        if loaded.state.status.ended:
            status = loaded.state.status
            return Reply(
                command.execution_id, status=status.value, error_code="conflict", message=f"the execution has ended already: {status}"
            )
        self._decide(loaded, command)
        pending = loaded.pending
        # refused: what was decided on was not what the journal holds (the same id was started again at this very moment)
        if not await self._durable(loaded) or (pending is not None and pending.rejected is not None):
            raise Unavailable(LOST)
        return Reply(command.execution_id, status=loaded.state.status.value)

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        return await self._feed.read(cursor, wait_s=wait_s)

    async def status(self) -> SupervisorStatus:
        unreachable = self._commits.unreachable_since
        in_flight = sum(loaded.state.in_flight for loaded in self._executions.values())
        return SupervisorStatus(
            self.name,
            "store_unreachable" if unreachable and self._state == "running" else self._state,
            self.shards,
            len(self._executions),
            in_flight,
            tuple(self._roster.statuses()),
            unreachable or self._reason,
        )

    def _check_running(self) -> None:
        if self._state != "running":
            raise Unavailable(f"supervisor {self.name} is {self._state.replace('_', ' ')}{': ' if self._reason else ''}{self._reason}")

    # ------------------------------------------------------------------ workers

    async def report(self, worker: str, results: Sequence[StepDone | StepError], effects: Sequence[EffectReport]) -> list[str]:
        """Returns after the commit, with the dispatch ids that were superseded. Raises Unavailable: report again."""
        self._check_running()
        superseded: list[str] = []
        touched: dict[str, Loaded] = {}
        items: list[StepDone | StepError | EffectReport] = [*effects, *results]
        for item in items:
            if item.execution_id in self._recovering:
                raise Unavailable("the execution is being read back; report again")
            loaded = self._executions.get(item.execution_id)
            if loaded is None or not self._take(loaded, item, ()):
                superseded.append(item.dispatch_id)
            if loaded is not None:
                touched[item.execution_id] = loaded
        # also what was superseded may only be forgotten when that which it was superseded by is durable
        if not all([await self._durable(loaded) for loaded in touched.values()]):
            raise Unavailable(LOST)
        for result in results:
            self._roster.forget(result.dispatch_id)
        return superseded

    def ended(self, worker: str, results: Sequence[StepDone | StepError]) -> None:
        for result in results:
            loaded = self._executions.get(result.execution_id)
            if result.execution_id in self._recovering:
                continue  # the worker keeps it; it is fetched again when the execution has been read back
            if loaded is None:
                self._roster.acknowledge(result.dispatch_id)
                continue
            try:
                taken = self._take(loaded, result, (result.dispatch_id,))
            except Unavailable:
                continue  # the dispatch is about to be sent again, under the same id, and fetches it
            if not taken:
                self._spawn(self._acknowledge(loaded, result.dispatch_id))

    async def _acknowledge(self, loaded: Loaded, dispatch_id: str) -> None:
        """A result that was superseded may be forgotten once that by which it was superseded is durable."""
        if await self._durable(loaded):
            self._roster.acknowledge(dispatch_id)

    @staticmethod
    async def _durable(loaded: Loaded) -> bool:
        """Waits until all that was decided on it so far is committed; False when some of it was lost or left out."""
        commit = loaded.commit
        if commit is not None and not (commit.result() if commit.done() else await asyncio.shield(commit)):
            return False
        return not loaded.dropped

    def delivering(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            if dispatch.timeout_s is None or dispatch.kind != "agent":
                continue
            loaded = self._executions.get(dispatch.execution_id)
            if loaded is not None and self._is_current((dispatch.execution_id, dispatch.step, dispatch.attempt), dispatch.dispatch_id):
                begin_clock(loaded.state, dispatch.step, timedelta(seconds=dispatch.timeout_s), self._now())
                self._set_timer(loaded)

    def crashed(self, dispatch: Dispatch, reason: str) -> None:
        loaded = self._executions.get(dispatch.execution_id)
        if loaded is not None and not loaded.dropped:
            self._decide(loaded, Crash(dispatch.step, dispatch.dispatch_id))

    def delayed(self, dispatch: Dispatch, reason: str) -> None:
        loaded = self._executions.get(dispatch.execution_id)
        if loaded is not None and not loaded.dropped:
            self._decide(loaded, Delay(dispatch.step, reason))

    def _take(self, loaded: Loaded, item: StepDone | StepError | EffectReport, inline: tuple[str, ...]) -> bool:
        """Decide on a result or record; False when it was superseded. What came inline is acknowledged after its commit.

        Raises Unavailable while the version of the session that it writes is being read.
        """
        session: SessionWrite | None = None
        command: StepDone | StepError | EffectReport | Crash = item
        held = self._sessions.held_by(item.execution_id, item.step)
        if isinstance(item, StepError) and item.failure.code == "session_moved" and held is not None:
            held[1].version = None  # what we know of it is not so: it is read before the step is sent again
        if isinstance(item, StepDone) and item.session_version is not None and self._is_current_result(loaded, item):
            if held is None or held[1].version is None:
                raise Unavailable("the session's version is being read; report again")
            (_, agent, session_id), line = held
            if line.version != item.session_version:
                command = Crash(item.step, item.dispatch_id)  # it began with what is not the session's state any more
            elif item.session_state is not None:
                session = SessionWrite(agent, session_id, item.session_version + 1, item.session_state)
        decision = self._decide(loaded, command, inline=inline, session=session)
        return decision is None or not decision.superseded

    @staticmethod
    def _is_current_result(loaded: Loaded, item: StepDone) -> bool:
        step = loaded.state.steps.get(item.step)
        return step is not None and step.status is StepStatus.SCHEDULED and step.dispatch_id == item.dispatch_id

    def _is_current(self, place: tuple[str, str, int], dispatch_id: str) -> bool:
        """True when `dispatch_id` is the one sending of that step (execution, step, attempt) whose result is wanted."""
        loaded = self._executions.get(place[0])
        step = None if loaded is None else loaded.state.steps.get(place[1])
        return step is not None and step.status is StepStatus.SCHEDULED and (step.attempt, step.dispatch_id) == (place[2], dispatch_id)

    # ------------------------------------------------------------------ deciding

    def _decide(
        self, loaded: Loaded, command: EngineCommand, *, inline: tuple[str, ...] = (), session: SessionWrite | None = None
    ) -> Decision | None:
        """Decide, and queue what was decided for the next commit. None when a bug in deciding took the execution out."""
        now = self._now()
        state = loaded.state
        try:
            decision = decide(state, command, now, loaded.rules)
        except Exception as error:  # one execution that trips over a bug must not stop the shard
            logger.exception("deciding on %s for execution %s failed", type(command).__name__, state.execution_id)
            self._drop([state.execution_id], fail_with=f"internal error while deciding: {type(error).__name__}: {error}")
            return None
        if not decision.events:
            self._let_out(loaded, decision)
            return decision
        status = status_to_write(state, now)
        append = Append(state.execution_id, state.tenant_id, decision.first_seq, now, decision.events)
        if status is not state.written_status or status is ExecutionStatus.WAITING:
            state.written_status = status
            append.row = self._row(state, status)
        if session is not None and any(isinstance(event, StepCompleted) for event in decision.events):
            append.session = session
        loaded.pending = Pending(append, loaded, decision, status, inline)
        loaded.commit = self._commits.add(loaded.pending)
        return decision

    @staticmethod
    def _row(state: ExecutionState, status: ExecutionStatus) -> ExecutionRow:
        assert state.started_at is not None
        wake = next_wake(state) if status is ExecutionStatus.WAITING else None
        return ExecutionRow(
            state.workflow,
            state.version,
            status,
            state.started_at,
            state.ended_at,
            state.code_hash,
            state.session_agent,
            state.session_id,
            wake,
        )

    # ------------------------------------------------------------------ after the commit

    def committed(self, entries: Sequence[Pending], rejected: Mapping[int, Rejected]) -> None:
        for index, pending in enumerate(entries):
            if (refusal := rejected.get(index)) is not None:
                self._refused(pending, refusal)
                continue
            state, loaded = pending.loaded.state, pending.loaded
            last_seq = pending.append.first_seq + len(pending.append.events) - 1
            self._feed.add(Change(state.execution_id, last_seq, pending.status.value))
            self._observe(pending)
            if loaded.dropped:
                continue
            for dispatch_id in pending.inline:
                self._roster.acknowledge(dispatch_id)
            self._let_out(loaded, pending.decision)
            done = state.status.ended or pending.status is ExecutionStatus.WAITING
            if done and last_seq == state.seq and self._executions.get(state.execution_id) is loaded:
                del self._executions[state.execution_id]

    def _observe(self, pending: Pending) -> None:
        if self._observer is None:
            return
        try:
            self._observer(pending.loaded.state, pending.loaded.rules, pending.decision, pending.append.at)
        except Exception:  # what counts must never stop what is counted
            logger.exception("counting a commit of execution %s failed", pending.append.execution_id)

    async def settle(self) -> None:
        async def work() -> None:
            self._tokens = dict(await self._journal.keep_shards(self.shards, self._holder))

        await self._until_reachable("settling a commit whose outcome is unknown", work)

    def lost(self, entries: Sequence[Pending], error: AgentFlowError) -> None:
        self._drop([pending.loaded.state.execution_id for pending in entries if not pending.dropped])

    def fenced(self) -> None:
        self._state = "fenced"
        logger.error("supervisor %s was fenced: another one holds its shards; it ends", self.name)
        self._on_fenced()

    def _refused(self, pending: Pending, refusal: Rejected) -> None:
        """The journal left this append out. What was decided on top of it falls with it; the execution is read back."""
        pending.rejected = refusal
        execution_id = pending.loaded.state.execution_id
        if pending.loaded.dropped:
            return
        if refusal.code == "exists" and pending.append.first_seq == 1:
            pending.loaded.dropped = True
            self._executions.pop(execution_id, None)
            return
        logger.error("the journal refused an append of execution %s: %s %s", execution_id, refusal.code, refusal.message)
        self._drop(
            [execution_id],
            fail_with=refusal.message if refusal.code == "content" else "",
            afresh=refusal.code == "session_moved",
        )

    def _drop(self, execution_ids: Sequence[str], *, fail_with: str = "", afresh: bool = False) -> None:
        """Throw these out of memory, read them back, decide again. With `fail_with` they are failed instead.

        What was dispatched keeps its dispatch id, so that it is fetched and not run again; `afresh` sends it anew.
        """
        known: KnownDispatches = {}
        dropped = []
        for execution_id in execution_ids:
            loaded = self._executions.pop(execution_id, None)
            if loaded is None:
                continue
            loaded.dropped = True
            dropped.append(loaded)
            for key, step in loaded.state.steps.items():
                if step.dispatch_id:
                    known[(execution_id, key, step.attempt)] = step.dispatch_id
        if afresh or fail_with:
            self._roster.revoke(list(known.values()))
            known = {}
        self._recovering.update(loaded.state.execution_id for loaded in dropped)
        self._spawn(self._recover(dropped, known, fail_with))

    async def _recover(self, dropped: Sequence[Loaded], known: KnownDispatches, fail_with: str) -> None:
        ids = [loaded.state.execution_id for loaded in dropped]
        # the sessions they hold stay theirs, but what version they are at is known to the store only
        for loaded in dropped:
            for key in loaded.state.steps:
                if (held := self._sessions.held_by(loaded.state.execution_id, key)) is not None:
                    held[1].version = None

        async def work() -> None:
            if fail_with:
                await self._read_and_fail(ids, fail_with)
            else:
                await self._read_back(ids, known)

        try:
            await self._until_reachable("reading executions back", work)
        finally:
            self._recovering.difference_update(ids)
        # what the journal has ended is not wanted from its worker any more
        self._roster.revoke([dispatch_id for place, dispatch_id in known.items() if not self._is_current(place, dispatch_id)])
        for loaded in dropped:
            back = self._executions.get(loaded.state.execution_id)
            for key in loaded.state.steps:
                step = None if back is None else back.state.steps.get(key)
                if step is None or step.status is not StepStatus.SCHEDULED:
                    self._leave_session(loaded.state.execution_id, key)

    async def _read_and_fail(self, execution_ids: Sequence[str], message: str) -> None:
        for execution_id, lines in (await self._journal.load(execution_ids)).items():
            state = replay(execution_id, lines)
            if not state.status.ended and execution_id not in self._executions:
                rules = await self._rules(state.tenant_id, state.workflow, state.version, state.session_agent)
                loaded = self._executions[execution_id] = Loaded(state, rules)
                self._decide(loaded, Reject(message))

    async def _read_back(self, execution_ids: Sequence[str], known: KnownDispatches) -> None:
        """Load executions that are not in memory and say again what is in flight. Those that have ended are left alone.

        A step that is `known` to be dispatched keeps that id: sending it again starts nothing where it is held.
        """
        found = await self._journal.load(execution_ids)
        for execution_id in execution_ids:  # in this order, which is that of sessions
            if (lines := found.get(execution_id)) is None:
                continue
            try:
                state = replay(execution_id, lines)
                if state.status.ended or execution_id in self._executions:
                    continue
                rules = await self._rules(state.tenant_id, state.workflow, state.version, state.session_agent)
            except StoreUnavailable:
                raise
            except Exception:  # one execution that cannot be read must not stop the shard; it stays as it is in the journal
                logger.exception("execution %s cannot be carried on", execution_id)
                continue
            if execution_id in self._executions:
                continue
            for key, step in state.steps.items():
                step.dispatch_id = known.get((execution_id, key, step.attempt), "")
            loaded = self._executions[execution_id] = Loaded(state, rules)
            self._decide(loaded, Resume())
            if not loaded.dropped:
                self._decide(loaded, Wake())

    # ------------------------------------------------------------------ letting out

    def _let_out(self, loaded: Loaded, decision: Decision) -> None:
        """Only what is durable comes here."""
        state = loaded.state
        for outgoing in decision.dispatches:
            self._dispatch(loaded, outgoing)
        if decision.revoked:
            self._roster.revoke(decision.revoked)
        for key in decision.settled:
            self._leave_session(state.execution_id, key)
        self._set_timer(loaded)

    def _set_timer(self, loaded: Loaded) -> None:
        state = loaded.state
        wake = next_wake(state)
        if wake is not None and not state.status.ended and (loaded.wake is None or wake < loaded.wake):
            loaded.wake = wake
            heapq.heappush(self._timers, (wake, state.execution_id))

    @staticmethod
    def _is_wanted(loaded: Loaded, outgoing: Outgoing) -> bool:
        step = loaded.state.steps.get(outgoing.step)
        if loaded.dropped or loaded.state.status.ended or step is None:
            return False
        return step.status is StepStatus.SCHEDULED and step.attempt == outgoing.attempt

    def _dispatch(self, loaded: Loaded, outgoing: Outgoing) -> None:
        if not self._is_wanted(loaded, outgoing):
            return
        state = loaded.state
        if outgoing.session_id is None:
            self._send(loaded, outgoing, None)
            return
        key = (state.tenant_id, outgoing.uses, outgoing.session_id)
        session = self._sessions.enter(key, state.execution_id, outgoing)
        if session is None:
            return
        if session.version is not None:
            self._send(loaded, outgoing, SessionRef(outgoing.uses, outgoing.session_id, session.version))
            return
        self._spawn(self._send_with_session(loaded, outgoing))

    async def _send_with_session(self, loaded: Loaded, outgoing: Outgoing) -> None:
        state = loaded.state
        assert outgoing.session_id is not None
        session_id, version = outgoing.session_id, 0

        async def read() -> None:
            nonlocal version
            version = await self._journal.session_version(state.tenant_id, outgoing.uses, session_id)

        await self._until_reachable("reading a session's version", read)
        held = self._sessions.held_by(state.execution_id, outgoing.step)
        if held is None or not self._is_wanted(loaded, outgoing):
            return
        held[1].version = version
        self._send(loaded, outgoing, SessionRef(outgoing.uses, session_id, version))

    def _leave_session(self, execution_id: str, key: str) -> None:
        """The step is done with its session, if it has one; the next in line that still wants it is sent."""
        follower = self._sessions.leave(execution_id, key)
        while follower is not None:
            follower_id, outgoing = follower
            if follower_id in self._recovering:
                return  # it keeps its place, and is sent, or leaves, when it has been read back
            loaded = self._executions.get(follower_id)
            if loaded is not None and self._is_wanted(loaded, outgoing):
                self._dispatch(loaded, outgoing)
                return
            follower = self._sessions.leave(follower_id, outgoing.step)

    def _send(self, loaded: Loaded, outgoing: Outgoing, session: SessionRef | None) -> None:
        state = loaded.state
        step = state.steps[outgoing.step]
        if not step.dispatch_id:
            self._dispatched += 1
            step.dispatch_id = f"{self._epoch}-{self._dispatched}"
        dispatch = Dispatch(
            step.dispatch_id,
            state.tenant_id,
            state.execution_id,
            state.workflow,
            outgoing.step,
            outgoing.attempt,
            outgoing.kind,
            outgoing.uses,
            state.code_hash,
            outgoing.input,
            None if outgoing.timeout is None else outgoing.timeout.total_seconds(),
            session,
            tuple(step.effects),
            state.mount_roots,
        )
        # a step under which workers have died runs alone before it is called poison, so that it takes nobody along
        alone = step.crashes >= min(ALONE_AFTER, max(1, loaded.rules.limits.step_crashes - 1))
        self._roster.send(self._need(state, outgoing), dispatch, alone=alone)

    @staticmethod
    def _need(state: ExecutionState, outgoing: Outgoing) -> WorkerNeed:
        if outgoing.kind == "tool":
            return WorkerNeed("tool")
        return WorkerNeed("agent", state.tenant_id, outgoing.uses, state.code_hash, outgoing.cpu, outgoing.memory_bytes)

    # ------------------------------------------------------------------ time

    async def _tick_timers(self) -> None:
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            _, execution_id = heapq.heappop(self._timers)
            if (loaded := self._executions.get(execution_id)) is not None:
                loaded.wake = None
                self._decide(loaded, Wake())

    async def _tick_due(self) -> None:
        """Executions that wait are rows; those whose timer is near are loaded."""
        due = await self._journal.due(self.shards, self._now() + DUE_HORIZON, DUE_LIMIT)
        wanted = [
            wake.execution_id for wake in due if wake.execution_id not in self._executions and wake.execution_id not in self._recovering
        ]
        if wanted:
            await self._read_back(wanted, {})

    async def _tick_idle(self) -> None:
        await self._roster.release_idle(self._now(), self._idle_s)

    # ------------------------------------------------------------------ tasks

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a supervisor task failed", exc_info=error)
