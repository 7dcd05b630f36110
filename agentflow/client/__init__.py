"""The Python client, synchronous and asynchronous, over HTTP. Importing it is quick: httpx comes with the first connection."""

from agentflow.client.async_flow import AsyncExecution, AsyncFlow, connect_async
from agentflow.client.flow import Execution, Flow, connect
from agentflow.client.views import AgentEntry, Event, ExecutionSnapshot, ToolEntry, WorkflowEntry
from agentflow.client.workflow import Workflow

__all__ = [
    "AgentEntry",
    "AsyncExecution",
    "AsyncFlow",
    "Event",
    "Execution",
    "ExecutionSnapshot",
    "Flow",
    "ToolEntry",
    "Workflow",
    "WorkflowEntry",
    "connect",
    "connect_async",
]
