"""Server-sent events of one execution: read from the store when the feed says so, resumable by seq, ended by its last event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from agentflow.domain.event import ENDING, Line
from agentflow.errors import StoreUnavailable
from agentflow.ports import ExecutionReads
from agentflow.serve.feed import ChangeFeed
from agentflow.serve.render import line_json

logger = logging.getLogger(__name__)

PAGE_LINES = 200
PAGE_BYTES = 256 << 10
"""What one stream holds in memory at most, but for one event that is larger."""
FIRST = b"retry: 1000\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def frame(line: Line) -> bytes:
    """One event on the wire. A raw line break can only be white space in JSON, so a blank does as well."""
    body = line_json(line).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (line.seq, line.event.KIND.encode(), body)


async def event_frames(
    reads: ExecutionReads,
    feed: ChangeFeed,
    *,
    tenant_id: str,
    execution_id: str,
    after: int,
    keep_alive_s: float,
    recheck_s: float,
) -> AsyncIterator[bytes]:
    """Frames from `after` on, until the event that ends the execution is out.

    Nothing is read before what was read is sent, so a slow reader costs one page of memory. While the store cannot be
    reached the stream stays open and says keep-alive.
    """
    loop = asyncio.get_running_loop()
    yield FIRST
    with feed.subscribe(execution_id) as subscription:
        spoke_at = loop.time()
        quiet = True
        while True:
            lines = await _page(reads, tenant_id, execution_id, after)
            for line in lines:
                yield frame(line)
                after = line.seq
            if lines:
                if isinstance(lines[-1].event, ENDING):
                    return
                spoke_at = loop.time()
                continue
            # Asked only when nobody said that something changed: an ending event comes as a line, so this is for who resumes behind it.
            if quiet and await _over_or_unknown(reads, tenant_id, execution_id, after):
                return
            quiet = not await subscription.wait(min(recheck_s, spoke_at + keep_alive_s - loop.time()))
            if loop.time() >= spoke_at + keep_alive_s:
                yield KEEP_ALIVE
                spoke_at = loop.time()


async def over(reads: ExecutionReads, tenant_id: str, execution_id: str, after: int) -> bool:
    """True when the execution has ended and nothing stands behind `after`. Raises StoreUnavailable."""
    lines = await reads.events(tenant_id, execution_id, after=after, limit=1)
    if lines:
        return False
    view = await reads.get(tenant_id, execution_id)
    if view is None or not view.status.ended:
        return False
    # It may have ended between the two reads; the order get, events tells.
    return not await reads.events(tenant_id, execution_id, after=after, limit=1)


async def _page(reads: ExecutionReads, tenant_id: str, execution_id: str, after: int) -> Sequence[Line]:
    try:
        return await reads.events(tenant_id, execution_id, after=after, limit=PAGE_LINES, max_bytes=PAGE_BYTES)
    except StoreUnavailable as error:
        logger.info("an event stream waits for the store: %s", error, extra={"execution_id": execution_id})
        return ()


async def _over_or_unknown(reads: ExecutionReads, tenant_id: str, execution_id: str, after: int) -> bool:
    try:
        return await over(reads, tenant_id, execution_id, after)
    except StoreUnavailable:
        return False
