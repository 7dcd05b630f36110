"""/v1/agents/{name}/sessions/{id}: say something to an agent and get its reply; read what it remembers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentflow.errors import InvalidRequest
from agentflow.serve import names, wire
from agentflow.serve.api import Reader, TheApi, Writer
from agentflow.serve.body import finite, json_response, read_json, spliced, value_response
from agentflow.serve.intake import agent_named
from agentflow.serve.render import failure_member
from agentflow.serve.routes.executions import Key, Wait, started

router = APIRouter(tags=["sessions"])

REPLY_WAIT_S = 30.0


@router.post(
    "/v1/agents/{name}/sessions/{session_id:path}/messages",
    summary="Send a message to a session",
    responses={
        200: {"model": wire.MessageReply, "description": "The agent has answered, or failed: see `status`."},
        202: {"model": wire.MessageReply, "description": "The message is accepted and durable; the answer will be the execution's result."},
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SendMessage"}}}}
    },
)
async def send_message(
    name: str, session_id: str, request: Request, api: TheApi, principal: Writer, wait: Wait = REPLY_WAIT_S, key: Key = None
) -> Response:
    """Messages of a session are handled one at a time, in the order in which they were accepted."""
    names.session_id(session_id)
    key = names.idempotency_key(key)
    asked = await read_json(request, wire.SendMessage)
    if asked.message_id is not None:
        if key is not None and key != asked.message_id:
            raise InvalidRequest("message_id and Idempotency-Key differ; send one of them.")
        key = names.idempotency_key(asked.message_id)
    agent = await agent_named(api.services, principal.tenant_id, name)
    command = await api.intake.message(principal, agent, session_id, asked, key)
    view, reply = await started(api, principal, command, wait_s=finite(wait))
    status = view.status.value if view is not None else reply.status or "running"
    members: dict[str, object] = {"execution_id": command.execution_id, "status": status}
    location = {"Location": f"/v1/executions/{command.execution_id}"}
    if view is None or not view.status.ended:
        return value_response(members, status=202, headers=location)
    if view.failure is not None:
        members["error"] = failure_member(view.failure, view.failed_step)
    return json_response(spliced(members, {"reply": view.result}), headers=location)


@router.get("/v1/agents/{name}/sessions/{session_id:path}", responses={200: {"model": wire.SessionShape}}, summary="Read a session")
async def get_session(name: str, session_id: str, api: TheApi, principal: Reader) -> Response:
    """A session that nobody has spoken in has version 0 and an empty state."""
    names.session_id(session_id)
    agent = await agent_named(api.services, principal.tenant_id, name)
    session = await api.services.sessions.load_session(principal.tenant_id, agent.uses, session_id)
    members = {"agent": agent.uses, "id": session_id, "version": session.version}
    return json_response(spliced(members, {"state": session.state}))
