"""What users test their agents with: a whole runtime in one process, on the same engine as the cluster's."""

from agentflow.testing.runtime import LocalRuntime

__all__ = ["LocalRuntime"]
