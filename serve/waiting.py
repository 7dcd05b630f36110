"""How a request waits for an execution's end without asking the supervisor."""

from __future__ import annotations

import asyncio

from agentflow.domain.execution import ExecutionView
from agentflow.errors import StoreUnavailable
from agentflow.ports import ExecutionReads
from agentflow.serve.feed import Subscription


async def wait_for_end(
    reads: ExecutionReads,
    tenant_id: str,
    execution_id: str,
    *,
    subscription: Subscription,
    timeout_s: float,
    recheck_s: float,
    look_first: bool = True,
) -> ExecutionView | None:
    """The execution once it has ended, or as it is after `timeout_s`; None if there is none (yet).

    Looks when the feed says that it ended, every `recheck_s` in case the feed has missed it, and once at the end. While the
    store cannot be reached it goes on waiting; raises StoreUnavailable only if that is so at the end. `look_first` False
    saves the read of an execution that has only just begun.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    look_at = loop.time() + (0.0 if look_first else recheck_s)
    while True:
        now = loop.time()
        last = now >= deadline
        if last or subscription.end_likely or now >= look_at:
            look_at = now + recheck_s
            subscription.end_likely = False  # before the read: what is said during it is looked at after it
            try:
                view = await reads.get(tenant_id, execution_id)
            except StoreUnavailable:
                if last:
                    raise
                look_at = now + min(recheck_s, 1.0)
            else:
                if last or (view is not None and view.status.ended):
                    return view
        await subscription.wait(min(deadline, look_at) - loop.time())
