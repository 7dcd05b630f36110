"""Workflow definitions: from YAML to a validated `Workflow`, expressions and templates, and the check of inputs."""

from agentflow.engine.definition.expressions import ExpressionError, compile_expression
from agentflow.engine.definition.limits import DEFAULT_LIMITS, Limits
from agentflow.engine.definition.load import API_VERSION, load_workflow
from agentflow.engine.definition.schema import folders_in, validate_input
from agentflow.engine.definition.templates import Template, compile_template

__all__ = [
    "API_VERSION",
    "DEFAULT_LIMITS",
    "ExpressionError",
    "Limits",
    "Template",
    "compile_expression",
    "compile_template",
    "folders_in",
    "load_workflow",
    "validate_input",
]
