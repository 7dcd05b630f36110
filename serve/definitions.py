"""Stored workflows as validated definitions: read from the store, compiled once, kept for the next start."""

from __future__ import annotations

from collections import OrderedDict

from agentflow.domain.workflow import Workflow
from agentflow.engine.definition import load_workflow
from agentflow.errors import NotFound
from agentflow.ports import StoredWorkflow, WorkflowStore
from agentflow.serve.names import is_name, is_version

COMPILED_LIMIT = 256


class Definitions:
    """A version never changes, so what was compiled stays true; the cache is bounded, least recently used goes first."""

    def __init__(self, store: WorkflowStore) -> None:
        self._store = store
        self._compiled: OrderedDict[tuple[str, str, str], Workflow] = OrderedDict()

    async def stored(self, tenant_id: str, name: str, version: str | None) -> StoredWorkflow:
        """The text of that version, or of the one stored last. Raises NotFound, StoreUnavailable."""
        found = None
        if is_name(name) and (version is None or is_version(version)):
            found = await self._store.get(tenant_id, name, version)
        if found is None:
            raise no_workflow(name, version)
        return found

    async def workflow(self, tenant_id: str, name: str, version: str | None) -> Workflow:
        """That version compiled. Raises NotFound, StoreUnavailable."""
        if version is not None:
            known = self._compiled.get((tenant_id, name, version))
            if known is not None:
                self._compiled.move_to_end((tenant_id, name, version))
                return known
        return self.compiled(tenant_id, await self.stored(tenant_id, name, version))

    def compiled(self, tenant_id: str, stored: StoredWorkflow) -> Workflow:
        """The definition in `stored`, which was validated when it was put. Raises WorkflowInvalid if a newer AgentFlow refuses it."""
        key = (tenant_id, stored.name, stored.version)
        known = self._compiled.get(key)
        if known is None:
            known = load_workflow(stored.source, file=f"{stored.name}@{stored.version}")
            self._compiled[key] = known
            while len(self._compiled) > COMPILED_LIMIT:
                self._compiled.popitem(last=False)
        return known


def no_workflow(name: str, version: str | None) -> NotFound:
    shown = name[:100].encode("ascii", "backslashreplace").decode()
    if version is None:
        return NotFound(f"There is no workflow {shown!r}; GET /v1/workflows lists them.", workflow=shown)
    return NotFound(f"Workflow {shown!r} has no version {version[:100]!r}; GET /v1/workflows/{shown}/versions lists them.", workflow=shown)
