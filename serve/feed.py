"""One change feed a replica: it long-polls the supervisor and wakes whoever waits for an execution.

Nothing waits inside a supervisor call but this one poll. The feed is a hint, never the truth: who is woken reads the
store, and who is not woken reads it too, every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from agentflow.domain.execution import ExecutionStatus
from agentflow.errors import AgentFlowError
from agentflow.ports import SupervisorLink

logger = logging.getLogger(__name__)

POLL_S = 20.0
GRACE_S = 10.0
BACK_OFF_S = 0.1
BACK_OFF_LIMIT_S = 2.0


class Subscription:
    """One waiter's view of one execution. Not shared between tasks."""

    __slots__ = ("_woken", "end_likely")

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self.end_likely = False
        """The feed has said that the execution ended, or has missed lines: who waits for the end should look."""

    def wake(self, *, end_likely: bool) -> None:
        self.end_likely = self.end_likely or end_likely
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """True when something changed since the last wait, False after `timeout_s`."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class ChangeFeed:
    """Long-polls `link.changes` while `run` runs, and wakes the subscriptions of what has changed."""

    def __init__(self, link: SupervisorLink, *, poll_s: float = POLL_S) -> None:
        self._link = link
        self._poll_s = poll_s
        self._subscriptions: dict[str, set[Subscription]] = {}

    @contextmanager
    def subscribe(self, execution_id: str) -> Iterator[Subscription]:
        """Subscribe before reading the store, so that a change between the two is not missed."""
        subscription = Subscription()
        self._subscriptions.setdefault(execution_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            waiting = self._subscriptions[execution_id]
            waiting.discard(subscription)
            if not waiting:
                del self._subscriptions[execution_id]

    @property
    def waiting(self) -> int:
        """Executions that somebody waits for."""
        return len(self._subscriptions)

    async def run(self) -> None:
        """Poll for ever; errors are logged and backed off from."""
        cursor = ""
        back_off_s = BACK_OFF_S
        while True:
            # The first poll of a life fetches the cursor only, and then everybody looks: what was committed before is not in the feed.
            poll_s = self._poll_s if cursor else 0.0
            try:
                async with asyncio.timeout(poll_s + GRACE_S):
                    page = await self._link.changes(cursor, poll_s)
            except asyncio.CancelledError:
                raise
            except (AgentFlowError, TimeoutError) as error:
                logger.info("the change feed is interrupted: %s", error)
                await asyncio.sleep(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_LIMIT_S)
                continue
            except Exception:
                logger.exception("the change feed failed")
                await asyncio.sleep(BACK_OFF_LIMIT_S)
                continue
            back_off_s = BACK_OFF_S
            if page.resync or not cursor:
                self._wake_all()
            for change in page.changes:
                ended = ExecutionStatus(change.status).ended if change.status else False
                for subscription in self._subscriptions.get(change.execution_id, ()):
                    subscription.wake(end_likely=ended)
            if not page.cursor:
                await asyncio.sleep(back_off_s)  # a supervisor that has no cursor yet would be asked in a tight loop
            cursor = page.cursor

    def _wake_all(self) -> None:
        for waiting in self._subscriptions.values():
            for subscription in waiting:
                subscription.wake(end_likely=True)
