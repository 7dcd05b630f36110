"""Everything PostgreSQL keeps, in one process's memory: for `agentflow.testing`. The same contract suite runs on both."""

from agentflow.adapters.inmemory.store import InMemoryStore

__all__ = ["InMemoryStore"]
