"""/v1/workflows: named, versioned definitions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from agentflow.domain.workflow import Workflow
from agentflow.engine.definition import load_workflow
from agentflow.errors import InvalidRequest, NotFound
from agentflow.ports import Principal
from agentflow.serve import wire
from agentflow.serve.api import Api, Reader, TheApi, Writer
from agentflow.serve.body import parse, shaped, value_response
from agentflow.serve.definitions import no_workflow
from agentflow.serve.names import behind, cursor_of, is_name
from agentflow.serve.render import workflow_member

router = APIRouter(tags=["workflows"])

File = Annotated[str, Query(max_length=500, description="What the located errors call the source.")]
_STORED: dict[int | str, dict[str, object]] = {
    200: {"model": wire.WorkflowSummary, "description": "This very version was stored before; nothing changed."},
    201: {"model": wire.WorkflowSummary, "description": "Stored."},
}
_SOURCE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": {"type": "string", "description": "The workflow's YAML text."}},
            "application/json": {"schema": {"$ref": "#/components/schemas/PutWorkflow"}},
        },
    }
}


@router.put("/v1/workflows/{name}", responses=_STORED, openapi_extra=_SOURCE, summary="Store a version of a workflow")
async def put_workflow(name: str, request: Request, api: TheApi, principal: Writer, file: File = "") -> Response:
    """The version stands in the source. A version never changes: storing another source under it is a conflict."""
    if not is_name(name):
        raise InvalidRequest("The name in the path cannot be a workflow's name.")
    workflow = load_workflow(await _source(request), file=file or f"{name}.yaml")
    if workflow.name != name:
        raise InvalidRequest(f"The path says {name!r} and the source says {workflow.name!r}; make them equal.")
    return await _stored(api, principal, workflow)


@router.post("/v1/workflows", responses=_STORED, openapi_extra=_SOURCE, summary="Store a workflow under the name in its source")
async def post_workflow(request: Request, api: TheApi, principal: Writer, file: File = "workflow.yaml") -> Response:
    """The same as PUT, for who has a source and has not read it. As idempotent as that."""
    return await _stored(api, principal, load_workflow(await _source(request), file=file))


@router.get("/v1/workflows", responses={200: {"model": wire.WorkflowPage}}, summary="List workflows, the latest version of each")
async def list_workflows(
    api: TheApi, principal: Reader, cursor: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> Response:
    found = await api.services.workflows.list(principal.tenant_id, after=behind(cursor) or "", limit=limit + 1)
    page = found[:limit]
    following = cursor_of(page[-1].name) if len(found) > limit else None
    return value_response({"workflows": [workflow_member(stored) for stored in page], "next_cursor": following})


@router.get("/v1/workflows/{name}", responses={200: {"model": wire.WorkflowDetail}}, summary="Read one version, or the latest")
async def get_workflow(name: str, api: TheApi, principal: Reader, version: str | None = None) -> Response:
    stored = await api.definitions.stored(principal.tenant_id, name, version)
    workflow = api.definitions.compiled(principal.tenant_id, stored)
    return value_response(
        {
            **workflow_member(stored),
            "description": workflow.description,
            "input_schema": None if workflow.input_schema is None else dict(workflow.input_schema),
            "source": stored.source,
        }
    )


@router.get("/v1/workflows/{name}/versions", responses={200: {"model": wire.WorkflowVersions}}, summary="List the versions, newest first")
async def list_versions(name: str, api: TheApi, principal: Reader) -> Response:
    found = await api.services.workflows.versions(principal.tenant_id, name) if is_name(name) else ()
    if not found:
        missing: NotFound = no_workflow(name, None)
        raise missing
    return value_response({"name": name, "versions": [workflow_member(stored) for stored in found]})


async def _stored(api: Api, principal: Principal, workflow: Workflow) -> Response:
    fresh = await api.services.workflows.put(principal.tenant_id, workflow, principal.name)
    stored = await api.definitions.stored(principal.tenant_id, workflow.name, workflow.version)
    location = {"Location": f"/v1/workflows/{workflow.name}?version={workflow.version}"}
    return value_response(workflow_member(stored), status=201 if fresh else 200, headers=location)


async def _source(request: Request) -> str:
    """The YAML text of the body, whether it came bare or in JSON. Raises InvalidRequest."""
    raw = await request.body()
    if not raw.strip():
        raise InvalidRequest('The body is empty; send the workflow\'s YAML text, or JSON {"source": TEXT}.')
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type != "application/json":
            return raw.decode("utf-8-sig")
        source = shaped(parse(raw), wire.PutWorkflow).source
        source.encode("utf-8")
        return source
    except UnicodeError:
        raise InvalidRequest("The source is not UTF-8 text.") from None
