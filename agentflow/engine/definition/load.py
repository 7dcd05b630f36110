"""`load_workflow`: from YAML text to a validated Workflow, or to every error in it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from agentflow.domain.workflow import AgentBinding, Resources, Workflow, WorkflowConfig
from agentflow.engine.definition.document import Node, Source, plain, read_document
from agentflow.engine.definition.fields import Reader, Shape
from agentflow.engine.definition.graph import check_graph
from agentflow.engine.definition.limits import DEFAULT_LIMITS, Limits
from agentflow.engine.definition.problems import Problems, shown
from agentflow.engine.definition.schema import check_schema
from agentflow.engine.definition.steps import IMPORT_PATH, NAME, NAME_RULE, ReadStep, StepReader

API_VERSION = "agentflow/v1"
WORKFLOW_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
MAX_CONCURRENCY = 10_000

_WORKFLOW = Shape(
    "a workflow",
    ("apiVersion", "name", "version", "description", "config", "input", "agents", "steps", "output", "planner"),
    ("apiVersion", "name", "steps"),
    {
        "triggers": "triggers",
        "onFailure": "failure handlers",
        "onSuccess": "handlers",
        "budget": "budgets",
        "memory": "long-term memory",
        "subWorkflow": "child executions",
        "subWorkflows": "child executions",
        "tools": "tools defined in a workflow",
        "signals": "signals",
        "states": "state machines",
        "tree": "behavior trees",
        "secrets": "secrets",
        "schedule": "triggers",
    },
)
_CONFIG = Shape(
    "`config`",
    ("timeout", "concurrency"),
    later={"budget": "budgets", "retry": "default retries", "priority": "priorities", "limits": "limits set by a workflow"},
)
_AGENT = Shape(
    "an agent",
    ("name", "uses", "resources"),
    ("uses",),
    {
        "instructions": "agents written in YAML",
        "model": "agents written in YAML",
        "chatModel": "agents written in YAML",
        "tools": "agents written in YAML",
        "memory": "long-term memory",
        "limits": "limits of an agent",
        "budget": "budgets",
        "pack": "agents that share an actor",
    },
)
_RESOURCES = Shape("`resources`", ("cpu", "memory"), later={"gpu": "accelerators", "custom": "custom resources"})
_LATER_PLANNERS = ("fsm", "behavior_tree", "llm")


def load_workflow(text: str, *, file: str = "<workflow>", limits: Limits = DEFAULT_LIMITS) -> Workflow:
    """Read and check a definition; `file` is what errors call it.

    Raises WorkflowInvalid, whose facts["errors"] holds all errors in file order, each {file, line, column, code, message}.
    """
    problems = Problems(file, limit=limits.errors)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limits.source_bytes:
        problems.add_at(
            1, 1, "too_large", f"the definition has {size} bytes, over the limit of {limits.source_bytes} (limit `source_bytes`)"
        )
        problems.raise_if_any()
    source = Source(text.removeprefix("\ufeff"))
    root = read_document(source, problems, limits=limits)
    workflow = None
    if root is not None:
        workflow = _Loader(source, problems, limits, text).read(root)
    elif not problems:
        problems.add_at(1, 1, "yaml_syntax", "the definition is empty")
    problems.raise_if_any()
    assert workflow is not None
    return workflow


class _Loader:
    """Reads the parts of one definition in the order of the file."""

    def __init__(self, source: Source, problems: Problems, limits: Limits, text: str) -> None:
        self._source, self._problems, self._limits, self._text = source, problems, limits, text
        self._reader = Reader(problems)

    def read(self, root: Node) -> Workflow | None:
        """The workflow; only to be used if there are no problems afterwards."""
        reader = self._reader
        fields = reader.fields(root, _WORKFLOW)
        if root.kind != "mapping":
            return None
        self._api_version(fields.get("apiVersion"))
        self._planner(fields.get("planner"))
        name_rule = "a small letter, then small letters, digits and `-`, 63 characters at most"
        name = reader.matching(fields.get("name"), "the name of a workflow", WORKFLOW_NAME, name_rule)
        version_rule = "letters, digits and `.`, `_`, `+`, `-`, 63 characters at most"
        version = reader.matching(fields.get("version"), "`version`", _VERSION, version_rule)
        description = reader.text(fields.get("description"), "`description`")
        config = self._config(fields.get("config"))
        schema = check_schema(fields["input"], reader) if "input" in fields else None
        agents = self._agents(fields.get("agents"))
        names = {agent.name for agent in agents} if agents is not None else None
        step_reader = StepReader(reader, self._source, names)
        steps, nameless = self._steps(fields.get("steps"), step_reader)
        output = self._output(fields.get("output"), step_reader, steps, nameless)
        return Workflow(
            name=name or "",
            version=version or "1",
            steps=tuple(step.definition for step in steps.values()),
            agents=tuple(agents or ()),
            config=config,
            input_schema=schema,
            description=description or "",
            source=self._text,
            output=output,
        )

    def _api_version(self, node: Node | None) -> None:
        value = self._reader.text(node, "`apiVersion`")
        if value is not None and node is not None and value != API_VERSION:
            self._reader.invalid(node, f"`{shown(value)}` is not known: this version of AgentFlow reads {API_VERSION}")

    def _planner(self, node: Node | None) -> None:
        value = self._reader.text(node, "`planner`")
        if value is None or node is None or value == "dag":
            return
        if value in _LATER_PLANNERS:
            self._problems.add(node, "not_yet", f"the planner `{value}` is not yet supported: there is `dag`, the default")
        else:
            self._reader.invalid(node, f"there is no planner `{shown(value)}`: there is `dag`, the default")

    def _config(self, node: Node | None) -> WorkflowConfig:
        if node is None:
            return WorkflowConfig()
        fields = self._reader.fields(node, _CONFIG)
        timeout: timedelta | None = self._reader.duration(fields.get("timeout"), "`timeout`")
        concurrency = self._reader.number(fields.get("concurrency"), "`concurrency`", least=1, most=MAX_CONCURRENCY, whole=True)
        return WorkflowConfig(timeout, int(concurrency)) if concurrency is not None else WorkflowConfig(timeout)

    def _agents(self, node: Node | None) -> list[AgentBinding] | None:
        """The bindings by name, in order; None when `agents` is not readable at all."""
        if node is None:
            return []
        reader, found = self._reader, dict[str, AgentBinding]()
        entries: list[tuple[Node | None, Node]]
        if node.kind == "mapping":
            entries = [(key, value) for key, value in node.pairs.values()]
        elif node.kind == "sequence":
            entries = [(None, item) for item in node.items]
        else:
            reader.wrong_type(node, "`agents`", "an object (agents by name) or a list")
            return None
        for key, value in entries:
            fields = reader.fields(value, _AGENT)
            if key is not None and "name" in fields:
                reader.invalid(fields["name"], "the name of this agent is its key already: leave `name` out")
            if key is None and value.kind == "mapping" and "name" not in fields:
                self._problems.add(value, "missing_key", "an agent in a list needs the key `name`")
            name = reader.matching(key or fields.get("name"), "the name of an agent", NAME, NAME_RULE)
            rule = 'an agent is named by its import path, as in "my_package.agents:Scout"'
            uses = reader.matching(fields.get("uses"), "`uses`", IMPORT_PATH, rule)
            resources = self._resources(fields.get("resources"))
            if name is not None and name in found:
                self._problems.add(value, "duplicate_name", f"there are two agents named `{name}`")
            elif name is not None:
                found[name] = AgentBinding(name, uses or "", resources)
        return list(found.values())

    def _resources(self, node: Node | None) -> Resources:
        if node is None:
            return Resources()
        fields = self._reader.fields(node, _RESOURCES)
        cpu = self._reader.number(fields.get("cpu"), "`cpu`", least=0, most=10_000)
        memory = self._reader.size(fields.get("memory"), "`memory`")
        return Resources(float(cpu or 0), memory or 0)

    def _steps(self, node: Node | None, step_reader: StepReader) -> tuple[dict[str, ReadStep], bool]:
        """Steps by name, in order; and whether some have no usable name."""
        if node is None:
            return {}, True
        if node.kind != "sequence":
            self._reader.wrong_type(node, "`steps`", "a list")
            return {}, True
        if not node.items:
            self._reader.invalid(node, "a workflow has at least one step")
        if len(node.items) > self._limits.steps:
            message = f"{len(node.items)} steps are over the limit of {self._limits.steps} (limit `steps`)"
            self._problems.add(node, "too_many_steps", message)
            return {}, True
        steps: dict[str, ReadStep] = {}
        nameless = False
        for item in node.items:
            step = step_reader.read(item)
            if step is None:
                nameless = True
            elif step.definition.name in steps:
                first = steps[step.definition.name].node.line
                message = f"there are two steps named `{step.definition.name}`; the first is in line {first}"
                self._problems.add(item, "duplicate_name", message)
            else:
                steps[step.definition.name] = step
        check_graph(steps, self._problems, nameless=nameless)
        return steps, nameless

    def _output(self, node: Node | None, step_reader: StepReader, steps: dict[str, ReadStep], nameless: bool) -> Any:
        if node is None:
            return None
        if node.kind == "invalid":
            return plain(node)
        edges: dict[str, tuple[int, int]] = {}
        value = step_reader.template(node, edges, item=False)
        for name, place in edges.items():
            if name not in steps and not nameless:
                self._problems.add_at(*place, "unknown_step", f"there is no step `{shown(name)}`")
        return value
