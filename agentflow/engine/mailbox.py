"""The worker's side: a bounded mailbox that answers inline what ends at once, and reports the rest, batched, until it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentflow.clock import utc_now
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, RecordedEffect, StepDone, StepError
from agentflow.domain.failure import Failure
from agentflow.errors import AgentFlowError

logger = logging.getLogger(__name__)

INLINE_WAIT_S = 0.005
"""How long `deliver` waits for steps to end, so that quick ones cost one call (design 6)."""
REPORT_ITEMS = 512
REPORT_BYTES = 80 << 10
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 3.0
FORGOTTEN_IDS = 10_000

Record = Callable[[RecordedEffect], Awaitable[None]]


class Report(Protocol):
    """`SupervisorLink.report`."""

    def __call__(
        self, worker: str, results: Sequence[StepDone | StepError], effects: Sequence[EffectReport], /
    ) -> Awaitable[Sequence[str]]: ...


class Runner(Protocol):
    """Runs one step. Returns how it ended; raises only CancelledError."""

    async def run(self, dispatch: Dispatch, record: Record) -> StepDone | StepError: ...


@dataclass(slots=True)
class _Running:
    dispatch: Dispatch
    task: asyncio.Task[None]
    inline: bool = True
    """Its result still can go with the answer of the `deliver` that started it."""


class Superseded(Exception):
    """The dispatch is no longer the current one; its step is to be abandoned."""


class Mailbox:
    """Steps of one worker. One loop; `deliver`, `cancel` and `holding` may interleave."""

    def __init__(self, name: str, runner: Runner, report: Report, *, limit: int) -> None:
        """`limit`: steps that run at once; what is over it is refused, not queued."""
        self._name, self._runner, self._report, self._limit = name, runner, report, limit
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, StepDone | StepError] = {}
        self._attempts: dict[str, int] = {}
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        """Dispatches that were acknowledged or cancelled: one of them that comes late must not start again."""
        self._to_report: list[StepDone | StepError] = []
        self._effects: list[tuple[EffectReport, asyncio.Future[None]]] = []
        self._reporting: asyncio.Task[None] | None = None

    async def deliver(self, dispatches: Sequence[Dispatch], acknowledged: Sequence[str]) -> tuple[list[StepDone | StepError], list[str]]:
        """See `ports.Worker.deliver`."""
        for dispatch_id in acknowledged:
            self._forget(dispatch_id)
        results: list[StepDone | StepError] = []
        refused: list[str] = []
        started: list[_Running] = []
        for dispatch in dispatches:
            if dispatch.dispatch_id in self._ended:
                results.append(self._ended[dispatch.dispatch_id])
            elif dispatch.dispatch_id in self._forgotten:
                results.append(_late(dispatch))
            elif dispatch.dispatch_id in self._running:
                continue
            elif len(self._running) >= self._limit:
                refused.append(dispatch.dispatch_id)
            else:
                started.append(self._start(dispatch))
        answered = False
        try:
            if started:
                await asyncio.wait([running.task for running in started], timeout=INLINE_WAIT_S)
            answered = True
        finally:
            for running in started:
                running.inline = False
                result = self._ended.get(running.dispatch.dispatch_id)
                if result is not None and answered:
                    results.append(result)
                elif result is not None:
                    self._to_report.append(result)  # nobody waits for this answer any more
                    self._wake_reporter()
        return results, refused

    def cancel(self, dispatch_ids: Sequence[str]) -> None:
        """Stop these and forget what they gave."""
        for dispatch_id in dispatch_ids:
            running = self._running.pop(dispatch_id, None)
            if running is not None:
                running.task.cancel()
            self._forget(dispatch_id)

    def holding(self) -> list[Holding]:
        held = [running.dispatch for running in self._running.values()]
        found = [Holding(d.dispatch_id, d.execution_id, d.step, d.attempt) for d in held]
        return found + [Holding(r.dispatch_id, r.execution_id, r.step, self._attempts[r.dispatch_id]) for r in self._ended.values()]

    @property
    def busy(self) -> int:
        return len(self._running)

    async def close(self) -> None:
        tasks = [running.task for running in self._running.values()]
        if self._reporting is not None:
            tasks.append(self._reporting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ running

    def _start(self, dispatch: Dispatch) -> _Running:
        task = asyncio.get_running_loop().create_task(self._run(dispatch))
        running = self._running[dispatch.dispatch_id] = _Running(dispatch, task)
        return running

    async def _run(self, dispatch: Dispatch) -> None:
        started_at = utc_now()

        async def record(effect: RecordedEffect) -> None:
            await self._record(EffectReport(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, effect))

        result: StepDone | StepError
        try:
            result = await self._runner.run(dispatch, record)
        except Superseded:
            self._running.pop(dispatch.dispatch_id, None)
            return
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # nobody cancelled the step: its own code raised this, or awaited something that was cancelled
            failure = Failure.of("cancelled_error", f"the step's code ended by CancelledError: {error}")
            result = StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure)
        except Exception as error:
            logger.exception("running step %s of execution %s failed outside its own code", dispatch.step, dispatch.execution_id)
            failure = Failure.of("internal", f"{type(error).__name__}: {error}")
            result = StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, started_at, failure)
        running = self._running.pop(dispatch.dispatch_id, None)
        if running is None:
            return  # cancelled meanwhile
        self._ended[dispatch.dispatch_id] = result
        self._attempts[dispatch.dispatch_id] = dispatch.attempt
        if not running.inline:
            self._to_report.append(result)
            self._wake_reporter()

    def _forget(self, dispatch_id: str) -> None:
        self._ended.pop(dispatch_id, None)
        self._attempts.pop(dispatch_id, None)
        self._forgotten[dispatch_id] = None
        if len(self._forgotten) > FORGOTTEN_IDS:
            self._forgotten.popitem(last=False)

    # ------------------------------------------------------------------ reporting

    async def _record(self, report: EffectReport) -> None:
        """Returns when the effect is durable. Raises Superseded."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._effects.append((report, done))
        self._wake_reporter()
        await done

    def _wake_reporter(self) -> None:
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(self._report_all())

    async def _report_all(self) -> None:
        """One call in flight; what comes meanwhile goes with the next."""
        delay_s = RETRY_FIRST_S
        most = REPORT_ITEMS
        while self._to_report or self._effects:
            results, effects = self._take(most)
            try:
                superseded = set(await self._report(self._name, results, [report for report, _ in effects]))
            except AgentFlowError as error:
                if not error.retryable:
                    # something in it cannot be sent or taken: one by one, so that only that one suffers
                    logger.error("a report of %d items is refused: %s", len(results) + len(effects), error)
                    if len(results) + len(effects) > 1:
                        self._to_report, self._effects, most = results + self._to_report, effects + self._effects, 1
                    else:
                        self._refused(results, effects, error)
                    continue
                logger.info("the supervisor cannot take %d results now; they go again: %s", len(results) + len(effects), error)
                self._to_report = [result for result in results if result.dispatch_id in self._ended] + self._to_report
                self._effects = effects + self._effects
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
                continue
            except Exception:  # the top of this loop: nobody else would ever report these
                logger.exception("reporting %d items failed; they go again", len(results) + len(effects))
                self._to_report, self._effects = results + self._to_report, effects + self._effects
                await asyncio.sleep(RETRY_MAX_S)
                continue
            delay_s = RETRY_FIRST_S
            for result in results:
                self._forget(result.dispatch_id)
            for report, done in effects:
                if done.done():
                    continue
                if report.dispatch_id in superseded:
                    done.set_exception(Superseded())
                else:
                    done.set_result(None)
            self.cancel([dispatch_id for dispatch_id in superseded if dispatch_id in self._running])

    def _refused(
        self, results: Sequence[StepDone | StepError], effects: Sequence[tuple[EffectReport, asyncio.Future[None]]], error: AgentFlowError
    ) -> None:
        """This one item can never be reported: the step fails by it."""
        for _, done in effects:
            if not done.done():
                done.set_exception(error)
        for result in results:
            failure = Failure.of(error.code, f"the result cannot be reported: {error}", retryable=False)
            instead = StepError(result.dispatch_id, result.execution_id, result.step, result.started_at, failure)
            if result.dispatch_id in self._ended and instead != result:
                self._ended[result.dispatch_id] = instead
                self._to_report.insert(0, instead)

    def _take(self, most: int) -> tuple[list[StepDone | StepError], list[tuple[EffectReport, asyncio.Future[None]]]]:
        size = 0
        results: list[StepDone | StepError] = []
        effects: list[tuple[EffectReport, asyncio.Future[None]]] = []
        while self._effects and len(effects) < most and (not effects or size < REPORT_BYTES):
            effects.append(self._effects.pop(0))
            size += len(effects[-1][0].effect.value) + 300
        while self._to_report and len(results) + len(effects) < most and (not (results or effects) or size < REPORT_BYTES):
            result = self._to_report.pop(0)
            if result.dispatch_id not in self._ended:
                continue  # acknowledged or cancelled meanwhile
            size += len(result.value) + 300 if isinstance(result, StepDone) else 1_000
            results.append(result)
        return results, effects


def _late(dispatch: Dispatch) -> StepError:
    """The answer to a dispatch whose result was taken, or which was cancelled. Should it be wanted all the same, it is sent afresh."""
    failure = Failure.of("forgotten", "the dispatch was ended already")
    return StepError(dispatch.dispatch_id, dispatch.execution_id, dispatch.step, utc_now(), failure, crashed=True)
