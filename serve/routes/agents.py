"""/v1/agents and /v1/tools: what the application folder offers, and the actors that host it now."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from agentflow.domain.command import WorkerStatus
from agentflow.errors import AgentFlowError
from agentflow.serve import wire
from agentflow.serve.api import Api, Reader, TheApi
from agentflow.serve.body import value_response
from agentflow.serve.render import actor_member, catalogue_member, tool_member

router = APIRouter(tags=["agents"])

STATUS_TIMEOUT_S = 3.0


@router.get("/v1/agents", responses={200: {"model": wire.AgentPage}}, summary="List agents and their actors")
async def list_agents(api: TheApi, principal: Reader) -> Response:
    """Agents of the application folder. That the supervisor is away for a moment is no error: `live` says so."""
    entries, (workers, reason) = await asyncio.gather(
        api.services.catalogue.list(principal.tenant_id, "agent"), _workers(api, principal.tenant_id)
    )
    agents = [
        {**catalogue_member(entry), "actors": [actor_member(worker) for worker in workers if worker.uses == entry.uses]}
        for entry in entries
    ]
    known = {entry.uses for entry in entries}
    others = [actor_member(worker) for worker in workers if worker.uses not in known]
    return value_response({"agents": agents, "other_actors": others, "live": not reason, "reason": reason})


@router.get("/v1/tools", responses={200: {"model": wire.ToolPage}}, summary="List tools")
async def list_tools(api: TheApi, principal: Reader) -> Response:
    entries = await api.services.catalogue.list(principal.tenant_id, "tool")
    return value_response({"tools": [tool_member(entry) for entry in entries]})


async def _workers(api: Api, tenant_id: str) -> tuple[list[WorkerStatus], str]:
    """The tenant's actors and those that are nobody's yet, and why they are not known, if so."""
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            status = await api.services.supervisor.status()
    except (AgentFlowError, TimeoutError):
        return [], "The supervisor does not answer now; it is being restarted."
    return [worker for worker in status.workers if worker.tenant_id in ("", tenant_id)], ""
