"""AgentFlow: durable, distributed teams of AI agents on Ray. What users import stands here, and nothing else is public.

Names are loaded when they are first used, so that `import agentflow` is quick: it brings in neither Ray nor a model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentflow.client import AsyncExecution as AsyncExecution
    from agentflow.client import AsyncFlow as AsyncFlow
    from agentflow.client import Event as Event
    from agentflow.client import Execution as Execution
    from agentflow.client import Flow as Flow
    from agentflow.client import connect as connect
    from agentflow.client import connect_async as connect_async
    from agentflow.client.workflow import Workflow as Workflow
    from agentflow.domain.agent import Agent as Agent
    from agentflow.domain.agent import Context as Context
    from agentflow.domain.execution import ExecutionStatus as ExecutionStatus
    from agentflow.domain.execution import StepStatus as StepStatus
    from agentflow.domain.failure import Failure as Failure
    from agentflow.domain.sandbox import Isolation as Isolation
    from agentflow.domain.sandbox import Profile as Profile
    from agentflow.domain.tool import Tool as Tool
    from agentflow.domain.tool import tool as tool
    from agentflow.errors import AgentFlowError as AgentFlowError
    from agentflow.errors import Busy as Busy
    from agentflow.errors import ClusterDown as ClusterDown
    from agentflow.errors import Conflict as Conflict
    from agentflow.errors import ExecutionFailed as ExecutionFailed
    from agentflow.errors import Forbidden as Forbidden
    from agentflow.errors import InputInvalid as InputInvalid
    from agentflow.errors import NotFound as NotFound
    from agentflow.errors import StepFailed as StepFailed
    from agentflow.errors import Unavailable as Unavailable
    from agentflow.errors import WorkflowInvalid as WorkflowInvalid

_PLACES = {
    "agentflow.client": ("AsyncExecution", "AsyncFlow", "Event", "Execution", "Flow", "connect", "connect_async"),
    "agentflow.client.workflow": ("Workflow",),
    "agentflow.domain.agent": ("Agent", "Context"),
    "agentflow.domain.execution": ("ExecutionStatus", "StepStatus"),
    "agentflow.domain.failure": ("Failure",),
    "agentflow.domain.sandbox": ("Isolation", "Profile"),
    "agentflow.domain.tool": ("Tool", "tool"),
    "agentflow.errors": (
        "AgentFlowError",
        "Busy",
        "ClusterDown",
        "Conflict",
        "ExecutionFailed",
        "Forbidden",
        "InputInvalid",
        "NotFound",
        "StepFailed",
        "Unavailable",
        "WorkflowInvalid",
    ),
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names}

__all__ = sorted(_WHERE)  # the names of _PLACES


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'agentflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
