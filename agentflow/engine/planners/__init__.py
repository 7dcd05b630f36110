"""Planners: each decides what comes next in an execution, behind `ports.Planner`. `dag` is the first."""

from agentflow.engine.planners.dag import DagPlanner

__all__ = ["DagPlanner"]
