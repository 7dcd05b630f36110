"""From a request to a command: what is checked before an execution is accepted, and the claim that makes it one only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from agentflow.domain.command import Reply, Start
from agentflow.engine.definition import folders_in, validate_input
from agentflow.errors import IdempotencyConflict, InputInvalid, MountForbidden, NotFound, from_code
from agentflow.ids import new_execution_id, session_shard
from agentflow.ports import CatalogueEntry, Principal
from agentflow.serve.body import encoded, hash_of
from agentflow.serve.commands import CommandQueue
from agentflow.serve.definitions import Definitions
from agentflow.serve.services import Services
from agentflow.serve.wire import SendMessage, StartExecution

START_OPERATION = "executions.start"
SESSION_WORKFLOW = "agentflow/session"
"""Name of the built-in one-step workflow that a message to a session is an execution of."""
SESSION_WORKFLOW_VERSION = "1"


class Intake:
    """Makes commands of validated requests."""

    def __init__(self, services: Services, definitions: Definitions) -> None:
        self._services = services
        self._definitions = definitions

    async def start(self, principal: Principal, asked: StartExecution, idempotency_key: str | None) -> Start:
        """The command for a new execution.

        Raises NotFound, InputInvalid, MountForbidden, IdempotencyConflict, StoreUnavailable. Validation comes before the claim,
        so that a refused request does not use its key up.
        """
        workflow = await self._definitions.workflow(principal.tenant_id, asked.workflow, asked.version)
        body = encoded(asked.input, name="input")
        validate_input(workflow, asked.input)
        mount_roots = await self._mount_roots(principal, folders_in(workflow, asked.input))
        execution_id = await self._claimed(
            principal,
            operation=START_OPERATION,
            key=idempotency_key,
            body_hash=hash_of([asked.workflow, asked.version, asked.input]) if idempotency_key is not None else "",
            shard=None,
        )
        return Start(
            execution_id=execution_id,
            tenant_id=principal.tenant_id,
            principal=principal.name,
            workflow=workflow.name,
            version=workflow.version,
            input=body,
            code_hash=await self._services.code_hash(principal.tenant_id),
            mount_roots=mount_roots,
        )

    async def message(self, principal: Principal, agent: CatalogueEntry, session_id: str, asked: SendMessage, key: str | None) -> Start:
        """The command for a message to a session: an execution that lives on the session's shard, which orders and fences it.

        `key`: the message's id, unique within the session. Raises InvalidRequest, IdempotencyConflict, StoreUnavailable.
        """
        body = encoded(asked.message, name="message")
        execution_id = await self._claimed(
            principal,
            operation=f"sessions.say {agent.uses} {session_id}",
            key=key,
            body_hash=hash_of(asked.message) if key is not None else "",
            shard=session_shard(principal.tenant_id, agent.uses, session_id),
        )
        return Start(
            execution_id=execution_id,
            tenant_id=principal.tenant_id,
            principal=principal.name,
            workflow=SESSION_WORKFLOW,
            version=SESSION_WORKFLOW_VERSION,
            input=body,
            code_hash=await self._services.code_hash(principal.tenant_id),
            mount_roots=None if principal.any_mount else self._services.values.mount_roots,
            session_agent=agent.uses,
            session_id=session_id,
        )

    async def _claimed(self, principal: Principal, *, operation: str, key: str | None, body_hash: str, shard: int | None) -> str:
        """The execution's id: fresh, or the one that this key claimed first. The row is there before any command is sent."""
        now = self._services.clock.now()
        if key is None:
            return new_execution_id(now, shard=shard)
        seed = "\0".join((principal.tenant_id, operation, key)).encode("utf-8", "surrogatepass")
        wanted = new_execution_id(now, seed=seed, shard=shard)
        claim = await self._services.idempotency.claim(principal.tenant_id, operation, key, body_hash, wanted)
        if claim.body_hash != body_hash:
            raise IdempotencyConflict(
                f"The Idempotency-Key {key!r} was used for another body; execution {claim.execution_id} belongs to it. "
                "Use a new key for a new request.",
                execution_id=claim.execution_id,
            )
        return claim.execution_id

    async def _mount_roots(self, principal: Principal, folders: Sequence[tuple[str, str]]) -> tuple[str, ...] | None:
        if principal.any_mount:
            must_be_absolute(folders)
            return None
        roots = self._services.values.mount_roots
        if folders:
            must_be_absolute(folders)
            await asyncio.to_thread(must_be_inside, folders, roots)
        return roots


def must_be_absolute(folders: Sequence[tuple[str, str]]) -> None:
    """Raises InputInvalid for a folder that only means something in the client's own directory."""
    errors = [
        {"path": pointer, "message": "must be an absolute path without NUL, as the cluster sees it"}
        for pointer, path in folders
        if not os.path.isabs(path) or "\0" in path or not _encodable(path)
    ]
    if errors:
        raise InputInvalid("; ".join(f"{item['path']}: {item['message']}" for item in errors), errors=errors)


def must_be_inside(folders: Sequence[tuple[str, str]], roots: Sequence[str]) -> None:
    """Raises MountForbidden for the first folder that is not below one of `roots` once all links are resolved. Reads the file system."""
    resolved = [os.path.realpath(root) for root in roots]
    for pointer, path in folders:
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, root)) == root for root in resolved):
            raise MountForbidden(
                f"{pointer}: the folder {path!r} is outside mount_roots, so it may not be used over HTTP with this key. "
                "Add its parent to the setting mount_roots, or run with the operator's key of this machine.",
                path=pointer,
            )


async def accepted(commands: CommandQueue, command: Start) -> Reply:
    """Submit and turn a refusal into its error."""
    reply = await commands.submit(command)
    if reply.error_code:
        raise from_code(reply.error_code, reply.message or reply.error_code, execution_id=reply.execution_id)
    return reply


async def agent_named(services: Services, tenant_id: str, name: str) -> CatalogueEntry:
    """The agent of that name or import path in the application folder. Raises NotFound, StoreUnavailable."""
    for entry in await services.catalogue.list(tenant_id, "agent"):
        if name in (entry.name, entry.uses):
            return entry
    shown = name[:100].encode("ascii", "backslashreplace").decode()
    raise NotFound(f"There is no agent {shown!r} in the application folder; GET /v1/agents lists them.", agent=shown)


def _encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except ValueError:
        return False
    return True
