"""Where an execution's rules come from: a stored workflow, or the built-in one-step workflow of a message to a session."""

from __future__ import annotations

from collections import OrderedDict

from agentflow.domain.workflow import AgentBinding, StepDefinition, Workflow
from agentflow.engine.decide import Limits, Rules
from agentflow.engine.definition import load_workflow
from agentflow.engine.planners.dag import DagPlanner
from agentflow.errors import NotFound
from agentflow.ports import WorkflowStore

SESSION_WORKFLOW = "agentflow/session"
SESSION_VERSION = "1"
CACHED_RULES = 1_000


def session_workflow(agent: str) -> Workflow:
    """A message to a session is an execution of this: one step, in which the agent answers."""
    return Workflow(
        SESSION_WORKFLOW,
        SESSION_VERSION,
        (StepDefinition("reply", agent="agent", input="${ input }"),),
        (AgentBinding("agent", agent),),
        output="${ steps.reply.output }",
    )


class StoredRules:
    """The rules of stored workflows. A version never changes, so what was compiled is kept."""

    def __init__(self, workflows: WorkflowStore, limits: Limits) -> None:
        self._workflows, self._limits = workflows, limits
        self._known: OrderedDict[tuple[str, ...], Rules] = OrderedDict()

    async def __call__(self, tenant_id: str, workflow: str, version: str, session_agent: str | None) -> Rules:
        """Raises NotFound, WorkflowInvalid (an older version wrote what this one refuses), StoreUnavailable."""
        key = (tenant_id, workflow, version, session_agent or "")
        rules = self._known.get(key)
        if rules is None:
            rules = self._known[key] = self._compiled(await self._definition(*key))
            while len(self._known) > CACHED_RULES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return rules

    async def _definition(self, tenant_id: str, workflow: str, version: str, session_agent: str) -> Workflow:
        if session_agent:
            return session_workflow(session_agent)
        stored = await self._workflows.get(tenant_id, workflow, version)
        if stored is None:
            raise NotFound(f"there is no workflow {workflow} version {version}", workflow=workflow, version=version)
        return load_workflow(stored.source, file=f"{workflow}@{version}")

    def _compiled(self, workflow: Workflow) -> Rules:
        return Rules(workflow, DagPlanner(workflow), self._limits)
