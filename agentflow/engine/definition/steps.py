"""Reads the `steps` of a definition, and finds which steps each depends on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from agentflow.domain.workflow import Backoff, Retry, StepDefinition
from agentflow.engine.definition.document import Node, Source, plain
from agentflow.engine.definition.expressions import Expression, ExpressionError, compile_expression
from agentflow.engine.definition.fields import Reader, Shape
from agentflow.engine.definition.problems import did_you_mean, shown
from agentflow.engine.definition.templates import only_expression, split_text

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
NAME_RULE = "a letter, then letters, digits, `_` and `-`, 63 characters at most"
IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_ERROR_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_ATTEMPTS = 1_000

_STEP = Shape(
    "a step",
    ("name", "agent", "tool", "dependsOn", "when", "map", "input", "session", "retry", "timeout"),
    ("name",),
    {
        "workflow": "child executions",
        "subWorkflow": "child executions",
        "onFailure": "failure handlers",
        "compensate": "failure handlers",
        "budget": "budgets",
        "memory": "long-term memory",
        "approval": "approvals",
        "signal": "signals",
        "sleep": "sleeps",
        "loop": "loops",
        "restart": "attempts that forget their effects",
        "cache": "caches",
        "priority": "priorities",
        "profile": "sandbox profiles set by a workflow",
    },
)
_RETRY = Shape("`retry`", ("maxAttempts", "backoff", "retryOn"))
_BACKOFF = Shape("`backoff`", ("initial", "multiplier", "max", "jitter"))


@dataclass(slots=True)
class ReadStep:
    """A step as it was read. `edges`: the steps it depends on, and where that is said (line, column), in order."""

    definition: StepDefinition
    node: Node
    edges: dict[str, tuple[int, int]] = field(default_factory=dict)


class StepReader:
    """Reads one step after the other; `agents` are the names that `agent` may have, None if they could not be read."""

    def __init__(self, reader: Reader, source: Source, agents: set[str] | None) -> None:
        self._reader = reader
        self._problems = reader.problems
        self._source = source
        self._agents = agents

    def read(self, node: Node) -> ReadStep | None:
        """None when it has no usable name: then nothing can refer to it."""
        reader = self._reader
        fields = reader.fields(node, _STEP)
        if node.kind != "mapping":
            return None
        name = reader.matching(fields.get("name"), "the name of a step", NAME, NAME_RULE)
        edges: dict[str, tuple[int, int]] = {}
        for dependency, place in reader.texts(fields.get("dependsOn"), "`dependsOn`"):
            edges.setdefault(dependency, (place.line, place.column))
        agent, tool = self._worker(node, fields)
        is_map = "map" in fields
        when = self._expression(fields.get("when"), "when", edges)
        over = self._expression(fields.get("map"), "map", edges)
        template = self.template(fields.get("input"), edges, item=is_map)
        session = self.template(fields.get("session"), edges, item=is_map)
        self._check_input(fields, tool)
        if "session" in fields and "tool" in fields:
            reader.invalid(fields["session"], "a tool has no session: `session` goes with `agent`")
        retry = self._retry(fields.get("retry"))
        timeout = reader.duration(fields.get("timeout"), "`timeout`")
        if name is None:
            return None
        definition = StepDefinition(name, agent, tool, tuple(edges), when, over, template, session, retry, timeout)
        return ReadStep(definition, node, edges)

    def template(self, node: Node | None, edges: dict[str, tuple[int, int]], *, item: bool) -> Any:
        """The JSON of a template. Its expressions are checked, and the steps they read are added to `edges`."""
        if node is None:
            return None
        stack = [node]
        while stack:
            current = stack.pop()
            stack.extend(current.items)
            stack.extend(value for _, value in current.pairs.values())
            if isinstance(current.value, str) and "${" in current.value:
                self._check_text(current, edges, item=item)
        return plain(node)

    def _check_text(self, node: Node, edges: dict[str, tuple[int, int]], *, item: bool) -> None:
        try:
            expressions = [part for part in split_text(node.value) if isinstance(part, tuple)]
        except ExpressionError as error:
            self._expression_problem(node, error)
            return
        for offset, text in expressions:
            try:
                expression = self._compile(offset, text)
            except ExpressionError as error:
                self._expression_problem(node, error)
                continue
            place = self._source.place_in(node, offset - 2)
            for reference in sorted(expression.references):
                edges.setdefault(reference, place)
            if expression.uses_item and not item:
                message = "`item` and `index` exist only in `input` and `session` of a step with `map`"
                self._problems.add_at(*place, "item_outside_map", message)

    def _expression(self, node: Node | None, key: str, edges: dict[str, tuple[int, int]]) -> str | None:
        """The bare expression of `when` or `map`."""
        text = self._reader.text(node, f"`{key}`")
        if text is None or node is None:
            return None
        try:
            found = only_expression(text)
            if found is None:
                self._reader.invalid(node, f'`{key}` is one expression: write {key}: "${{ {shown(text.strip()) or "…"} }}"')
                return None
            expression = self._compile(*found)
        except ExpressionError as error:
            self._expression_problem(node, error)
            return None
        place = self._source.place_in(node, found[0] - 2)
        for reference in sorted(expression.references):
            edges.setdefault(reference, place)
        if expression.uses_item:
            self._problems.add_at(
                *place, "item_outside_map", f"`{key}` is evaluated once for the step, before there are items: it has no `item`"
            )
        return expression.text.strip()

    @staticmethod
    def _compile(offset: int, text: str) -> Expression:
        try:
            return compile_expression(text)
        except ExpressionError as error:
            raise ExpressionError(error.message, offset=error.offset + offset) from None

    def _expression_problem(self, node: Node, error: ExpressionError) -> None:
        self._problems.add_at(*self._source.place_in(node, error.offset), "expression", error.message)

    def _worker(self, node: Node, fields: dict[str, Node]) -> tuple[str | None, str | None]:
        if ("agent" in fields) == ("tool" in fields):
            both = "this one has both" if "agent" in fields else "this one has neither"
            self._problems.add(node, "agent_or_tool", f"a step has either `agent` or `tool`; {both}")
        agent = self._reader.text(fields.get("agent"), "`agent`")
        if agent is not None and self._agents is not None and agent not in self._agents:
            near = did_you_mean(agent, self._agents)
            self._problems.add(fields["agent"], "unknown_agent", f"there is no agent `{shown(agent)}` under `agents`{near}")
        tool = self._reader.matching(
            fields.get("tool"), "`tool`", IMPORT_PATH, 'a tool is named by its import path, as in "my_package.tools:count_words"'
        )
        return agent, tool

    def _check_input(self, fields: dict[str, Node], tool: str | None) -> None:
        node = fields.get("input")
        if node is None or tool is None or node.kind in ("mapping", "invalid"):
            return
        try:
            expression = isinstance(node.value, str) and only_expression(node.value) is not None
        except ExpressionError:
            return
        if not expression:
            self._reader.wrong_type(node, "the `input` of a tool", "an object (its arguments by name) or one expression")

    def _retry(self, node: Node | None) -> Retry:
        if node is None:
            return Retry()
        reader = self._reader
        fields = reader.fields(node, _RETRY)
        attempts = reader.number(fields.get("maxAttempts"), "`maxAttempts`", least=1, most=MAX_ATTEMPTS, whole=True)
        codes = []
        for code, place in reader.texts(fields.get("retryOn"), "`retryOn`"):
            if _ERROR_CODE.fullmatch(code):
                codes.append(code)
            else:
                reader.invalid(place, f"`{shown(code)}` is no error code: these are snake_case, as in sandbox_timeout")
        return Retry(int(attempts or 1), self._backoff(fields.get("backoff")), tuple(codes))

    def _backoff(self, node: Node | None) -> Backoff:
        default = Backoff()
        if node is None:
            return default
        reader = self._reader
        fields = reader.fields(node, _BACKOFF)
        initial = reader.duration(fields.get("initial"), "`initial`", zero=True)
        multiplier = reader.number(fields.get("multiplier"), "`multiplier`", least=1, most=1_000)
        maximum = reader.duration(fields.get("max"), "`max`", zero=True)
        jitter = reader.number(fields.get("jitter"), "`jitter`", least=0, most=1)
        first = default.initial if initial is None else initial
        return Backoff(
            first,
            default.multiplier if multiplier is None else float(multiplier),
            max(default.maximum, first) if maximum is None else maximum,
            default.jitter if jitter is None else float(jitter),
        )
