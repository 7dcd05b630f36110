"""/health, /ready, /metrics, /docs: for those who run it."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentflow.errors import AgentFlowError, Unavailable
from agentflow.serve import wire
from agentflow.serve.api import TheApi, reader
from agentflow.serve.body import value_response
from agentflow.serve.pages import reference_page

router = APIRouter(tags=["operations"])

METRICS_TIMEOUT_S = 3.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health", responses={200: {"model": wire.Health}}, summary="Whether this replica lives")
async def health() -> Response:
    """Needs no key and asks nobody else: a restart of this replica is what a bad answer should cause."""
    return value_response({"status": "ok"})


@router.get("/ready", responses={200: {"model": wire.Health}, 503: {"model": wire.Problem}}, summary="Whether requests can be served")
async def ready(api: TheApi) -> Response:
    """Needs no key. 503 says what is missing: the store, the supervisor, or both."""
    missing = await api.readiness.missing()
    if missing:
        parts = [{"part": part.part, "reason": part.reason} for part in missing]
        raise Unavailable("Not ready: " + " ".join(part.reason for part in missing), missing=parts)
    return value_response({"status": "ready"})


@router.get("/metrics", summary="Metrics in Prometheus text format", responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, api: TheApi) -> Response:
    """Supervisors' counters and this replica's own. Needs a key unless the setting metrics_open says otherwise."""
    if not api.values.metrics_open:
        await reader(request)
    try:
        async with asyncio.timeout(METRICS_TIMEOUT_S):
            snapshots = [await api.services.supervisor.metrics()]
    except (AgentFlowError, TimeoutError):
        snapshots = []  # a scrape without the supervisor still shows the replica; absent series are what an alert looks for
    body = api.metrics.exposition(commands_queued=len(api.commands), snapshots=snapshots)
    return Response(body, headers={"Content-Type": CONTENT_TYPE})


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The reference as one page of plain HTML: no script, nothing from the network."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "X-Content-Type-Options": "nosniff"}
    return Response(reference_page(request.app.openapi()), media_type="text/html; charset=utf-8", headers=headers)
