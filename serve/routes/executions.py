"""/v1/executions: start, read, list, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from agentflow.domain.command import Cancel, Reply, Start
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.errors import Conflict, NotFound, from_code
from agentflow.ports import Principal
from agentflow.serve import names, wire
from agentflow.serve.api import Api, Reader, TheApi, Writer
from agentflow.serve.body import array, finite, json_response, read_json, spliced, value_response
from agentflow.serve.intake import accepted
from agentflow.serve.render import execution_json
from agentflow.serve.waiting import wait_for_end

router = APIRouter(tags=["executions"])

Wait = Annotated[float, Query(ge=0, description="Seconds to wait for the end; more than wait_limit_s is cut to it.", allow_inf_nan=False)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", description="A request sent again under the same key starts nothing twice.")]


@router.post(
    "/v1/executions",
    status_code=202,
    summary="Start an execution",
    responses={
        200: {"model": wire.Execution, "description": "It ended within `wait`."},
        202: {"model": wire.ExecutionAccepted, "description": "It is accepted and durable; Location says where it is."},
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/StartExecution"}}}}
    },
)
async def start_execution(request: Request, api: TheApi, principal: Writer, wait: Wait = 0.0, key: Key = None) -> Response:
    """What is answered was committed before. `?wait=` answers 200 with the whole execution when it ends in time, else 202."""
    key = names.idempotency_key(key)
    asked = await read_json(request, wire.StartExecution)
    command = await api.intake.start(principal, asked, key)
    view, reply = await started(api, principal, command, wait_s=finite(wait))
    location = {"Location": f"/v1/executions/{command.execution_id}"}
    if view is not None and view.status.ended:
        return json_response(execution_json(view), headers=location)
    members = {
        "id": command.execution_id,
        "workflow": view.workflow if view is not None else command.workflow,
        "version": view.version if view is not None else command.version,
        "status": view.status.value if view is not None else reply.status or ExecutionStatus.RUNNING.value,
        "existed": reply.existed,
    }
    return value_response(members, status=202, headers=location)


@router.get("/v1/executions", responses={200: {"model": wire.ExecutionPage}}, summary="List executions, newest first")
async def list_executions(
    api: TheApi,
    principal: Reader,
    workflow: str | None = None,
    status: ExecutionStatus | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    before = names.behind(cursor)
    if before is not None:
        names.execution_id(before)
    found: list[ExecutionView] = []
    if workflow is None or names.is_name(workflow):
        reads = api.services.executions
        found = list(await reads.list(principal.tenant_id, workflow=workflow, status=status, before=before, limit=limit + 1))
    page = found[:limit]
    following = names.cursor_of(page[-1].execution_id) if len(found) > limit else None
    return json_response(spliced({"next_cursor": following}, {"executions": array([execution_json(view) for view in page])}))


@router.get("/v1/executions/{execution_id}", responses={200: {"model": wire.Execution}}, summary="Read an execution")
async def get_execution(execution_id: str, api: TheApi, principal: Reader, wait: Wait = 0.0) -> Response:
    """With `?wait=`, when it has ended, or after that time as it is then."""
    names.execution_id(execution_id)
    with api.feed.subscribe(execution_id) as subscription:
        view = await api.services.executions.get(principal.tenant_id, execution_id)
        if view is None:
            raise names.no_execution(execution_id)
        if wait and not view.status.ended:
            view = await wait_for_end(
                api.services.executions,
                principal.tenant_id,
                execution_id,
                subscription=subscription,
                timeout_s=min(finite(wait), api.values.wait_limit_s),
                recheck_s=api.values.recheck_s,
            )
    if view is None:
        raise names.no_execution(execution_id)
    return json_response(execution_json(view))


@router.post(
    "/v1/executions/{execution_id}/cancel",
    status_code=202,
    summary="Cancel an execution",
    responses={
        200: {"model": wire.Execution, "description": "It is cancelled."},
        202: {"model": wire.Execution, "description": "The cancel is taken; the execution ends soon."},
    },
    openapi_extra={
        "requestBody": {"required": False, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CancelExecution"}}}}
    },
)
async def cancel_execution(execution_id: str, request: Request, api: TheApi, principal: Writer) -> Response:
    """Cancelling what is cancelled is no error, so that the request can be repeated; what has completed or failed is a conflict."""
    names.execution_id(execution_id)
    asked = await read_json(request, wire.CancelExecution) if (await request.body()).strip() else wire.CancelExecution()
    view = await _existing(api, principal, execution_id)
    if not view.status.ended:
        reason = asked.reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
        reply = await api.commands.submit(Cancel(execution_id, principal.tenant_id, principal.name, reason))
        if reply.error_code and reply.error_code != Conflict.code:
            raise from_code(reply.error_code, reply.message or reply.error_code, execution_id=execution_id)
        view = await _existing(api, principal, execution_id)
    if view.status in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED):
        raise Conflict(
            f"The execution has {view.status.value} already; there is nothing left to cancel.",
            execution_id=execution_id,
            execution_status=view.status.value,
        )
    return json_response(execution_json(view), status=200 if view.status.ended else 202)


async def started(api: Api, principal: Principal, command: Start, *, wait_s: float) -> tuple[ExecutionView | None, Reply]:
    """Submit a start, and wait for the end if asked to. The view is None when nobody looked.

    Subscribes before it submits: the end may come before the answer does.
    """
    with api.feed.subscribe(command.execution_id) as subscription:
        reply = await accepted(api.commands, command)
        reads = api.services.executions
        if wait_s <= 0:
            return (await reads.get(principal.tenant_id, command.execution_id) if reply.existed else None), reply
        view = await wait_for_end(
            reads,
            principal.tenant_id,
            command.execution_id,
            subscription=subscription,
            timeout_s=min(wait_s, api.values.wait_limit_s),
            recheck_s=api.values.recheck_s,
            look_first=reply.existed or (bool(reply.status) and ExecutionStatus(reply.status).ended),
        )
        return view, reply


async def _existing(api: Api, principal: Principal, execution_id: str) -> ExecutionView:
    view = await api.services.executions.get(principal.tenant_id, execution_id)
    if view is None:
        missing: NotFound = names.no_execution(execution_id)
        raise missing
    return view
