"""/v1/executions/{id}/events: the journal as a JSON page, or live as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from agentflow.domain.event import ENDING
from agentflow.errors import Busy, InvalidRequest
from agentflow.ports import Principal
from agentflow.serve import names, wire
from agentflow.serve.api import Api, Reader, TheApi
from agentflow.serve.body import array, json_response, spliced
from agentflow.serve.render import line_json
from agentflow.serve.streams import event_frames, over

router = APIRouter(tags=["executions"])

EVENT_STREAM = "text/event-stream"
PAGE_BYTES = 4 << 20
SEQ_LIMIT = 2**31 - 1


@router.get(
    "/v1/executions/{execution_id}/events",
    summary="Read the journal, or follow it",
    responses={
        200: {
            "model": wire.EventPage,
            "content": {
                EVENT_STREAM: {"schema": {"type": "string", "description": "`id` is seq, `event` is kind, `data` is an EventLine."}}
            },
        },
        204: {"description": "Only for an event stream: the execution has ended and nothing stands behind `after`."},
    },
)
async def read_events(
    execution_id: str,
    request: Request,
    api: TheApi,
    principal: Reader,
    after: Annotated[int, Query(ge=0, le=SEQ_LIMIT, description="Events with a greater seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Of a JSON page.")] = 500,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="Of an event stream; beats `after`.")] = None,
) -> Response:
    """A stream ends behind the event that ends the execution; a client that lost its connection resumes by Last-Event-ID."""
    names.execution_id(execution_id)
    if await api.services.executions.get(principal.tenant_id, execution_id) is None:
        raise names.no_execution(execution_id)
    if EVENT_STREAM in request.headers.get("accept", "").lower():
        return await _stream(request, api, principal, execution_id, _resume_after(last_event_id, after))
    lines = await api.services.executions.events(principal.tenant_id, execution_id, after=after, limit=limit, max_bytes=PAGE_BYTES)
    ended = bool(lines) and isinstance(lines[-1].event, ENDING)
    members = {"next_after": lines[-1].seq if lines else after, "ended": ended}
    return json_response(spliced(members, {"events": array([line_json(line) for line in lines])}))


async def _stream(request: Request, api: Api, principal: Principal, execution_id: str, after: int) -> Response:
    if api.metrics.streams_open >= api.values.stream_limit:
        raise Busy(f"{api.values.stream_limit} event streams are open already (setting stream_limit); try again in 5 s.", retry_after_s=5)
    if await over(api.services.executions, principal.tenant_id, execution_id, after):
        return Response(status_code=204)
    request.scope["agentflow.stream"] = True

    async def counted() -> AsyncIterator[bytes]:
        api.metrics.stream_opened()
        try:
            async for frame in event_frames(
                api.services.executions,
                api.feed,
                tenant_id=principal.tenant_id,
                execution_id=execution_id,
                after=after,
                keep_alive_s=api.values.keep_alive_s,
                recheck_s=api.values.recheck_s,
            ):
                yield frame
        finally:
            api.metrics.stream_closed()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(counted(), headers=headers, media_type=EVENT_STREAM)


def _resume_after(last_event_id: str | None, after: int) -> int:
    if last_event_id is None or not last_event_id.strip():
        return after
    text = last_event_id.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > SEQ_LIMIT:
        raise InvalidRequest("Last-Event-ID: must be the seq of an event.")
    return int(text)
