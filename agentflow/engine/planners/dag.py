"""The DAG planner: a step may start when everything it depends on is settled. Incremental: each settled step is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentflow.codec import encode_value
from agentflow.domain.execution import StepStatus
from agentflow.domain.workflow import StepDefinition, Workflow
from agentflow.engine.definition.expressions import Expression, ExpressionError, compile_expression
from agentflow.engine.definition.interpreter import MAX_RESULT_BYTES
from agentflow.engine.definition.templates import Template, compile_template
from agentflow.engine.planners.memory import DagMemory, ExecutionScope
from agentflow.ports import Decision, PlanComplete, PlanExpand, PlanFail, PlanSkip, PlanStep, PlanWait

if TYPE_CHECKING:
    from agentflow.domain.state import ExecutionState

MAX_MAP_ITEMS = 20_000
"""Of one map step: an execution ends at 50,000 events, and an item takes at least two."""
MAX_SESSION_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class _Step:
    """A step as the planner needs it. `dependents`: the steps that wait for it."""

    definition: StepDefinition
    dependents: tuple[str, ...]
    when: Expression | None
    map: Expression | None
    input: Template
    session: Template | None


class DagPlanner:
    """Plans one version of a workflow, for any number of executions: all that it learns lies in `state.planner_memory`.

    Raises ExpressionError when the workflow was not made by `load_workflow` and an expression of it is wrong.
    """

    def __init__(self, workflow: Workflow) -> None:
        dependents: dict[str, list[str]] = {step.name: [] for step in workflow.steps}
        for step in workflow.steps:
            for name in step.depends_on:
                dependents[name].append(step.name)
        self._steps = {step.name: _prepared(step, tuple(dependents[step.name])) for step in workflow.steps}
        self._maps = {step.name: step for step in workflow.steps if step.map is not None}
        self._unmet = {step.name: len(step.depends_on) for step in workflow.steps}
        self._roots = [name for name, count in self._unmet.items() if not count]
        self._sinks = [name for name, names in dependents.items() if not names]
        self._output = None if workflow.output is None else compile_template(workflow.output)

    def next(self, state: ExecutionState) -> Sequence[Decision]:
        """See ports.Planner. A PlanFail or PlanComplete comes alone; without anything to do the answer is one PlanWait."""
        memory = self._memory(state)
        self._read_settled(state, memory)
        decisions: list[Decision] = []
        expanding, memory.expanding = memory.expanding, []
        for name in expanding:
            self._hand_out_items(state, name, decisions)
        ready, memory.ready = memory.ready, []
        for name in ready:
            if name not in state.steps:
                decision = self._decide(state, memory, self._steps[name])
                if isinstance(decision, PlanFail):
                    return [decision]
                decisions.append(decision)
            elif state.steps[name].status is StepStatus.EXPANDED:
                self._hand_out_items(state, name, decisions)
        if not memory.open:
            memory.open = -1  # said once
            return [self._complete(state, memory)]
        return decisions or [PlanWait()]

    def input_of(self, state: ExecutionState, step: PlanStep) -> bytes:
        """See ports.Planner. The input of a tool is an object, or ExpressionError."""
        plan = self._steps[step.name]
        try:
            body = plan.input.encode(self._scope(state, plan, step.item, plan.input))
        except ExpressionError as error:
            raise _placed(error, f"the input of step {step.key}") from None
        if plan.definition.tool is not None and not body.startswith(b"{"):
            text = body[:40].decode("utf-8", "replace")
            raise ExpressionError(f"the input of step {step.key} must be an object, the tool's arguments by name; it is {text}")
        return body

    def session_of(self, state: ExecutionState, step: PlanStep) -> str | None:
        """See ports.Planner. Raises ExpressionError when it is not text that can be a key."""
        plan = self._steps[step.name]
        if plan.session is None:
            return None
        try:
            session = plan.session.evaluate(self._scope(state, plan, step.item, plan.session))
        except ExpressionError as error:
            raise _placed(error, f"the session of step {step.key}") from None
        if session is None:
            return None
        if not isinstance(session, str) or not 0 < len(session) <= MAX_SESSION_CHARS or not _storable(session):
            rule = f"text of 1 to {MAX_SESSION_CHARS} characters without NUL and lone surrogates, or null for none"
            raise ExpressionError(f"the session of step {step.key} must be {rule}")
        return session

    # ------------------------------------------------------------------ what is new

    def _memory(self, state: ExecutionState) -> DagMemory:
        memory = state.planner_memory
        if not isinstance(memory, DagMemory):
            memory = state.planner_memory = DagMemory(0, dict(self._unmet), list(self._roots), len(self._steps))
        return memory

    def _read_settled(self, state: ExecutionState, memory: DagMemory) -> None:
        settled, unmet = state.settled, memory.unmet
        while memory.cursor < len(settled):
            name = settled[memory.cursor]
            memory.cursor += 1
            step = self._steps.get(name)
            # items of a map are not steps; a failed step ends the execution, the engine sees to that
            if step is None or state.steps[name].status is StepStatus.FAILED:
                continue
            memory.open -= 1
            memory.lists.pop(name, None)
            for dependent in step.dependents:
                unmet[dependent] -= 1
                if not unmet[dependent]:
                    memory.ready.append(dependent)

    # ------------------------------------------------------------------ decisions

    def _decide(self, state: ExecutionState, memory: DagMemory, step: _Step) -> Decision:
        name = step.definition.name
        try:
            if step.when is not None and _is_false(step.when.evaluate(ExecutionScope(state, memory, self._maps))):
                return PlanSkip(name)
            if step.map is None:
                return PlanStep(name)
            items = self._items(state, memory, step)
        except ExpressionError as error:
            return PlanFail(error.code, f"step {name}: {error.message}", name)
        if not isinstance(items, list):
            what = {dict: "an object", str: "text", type(None): "null", bool: "a boolean"}.get(type(items), "a number")
            return PlanFail("map_not_list", f"step {name}: `map` must give a list, `{step.map.text}` gave {what}", name)
        if len(items) > MAX_MAP_ITEMS:
            return PlanFail("map_too_long", f"step {name}: `map` gave {len(items)} items, over the limit of {MAX_MAP_ITEMS}", name)
        if items:
            memory.expanding.append(name)
        return PlanExpand(name, len(items))

    def _hand_out_items(self, state: ExecutionState, name: str, decisions: list[Decision]) -> None:
        for item in range(state.steps[name].item_count):
            step = PlanStep(name, item)
            if step.key not in state.steps:
                decisions.append(step)

    def _complete(self, state: ExecutionState, memory: DagMemory) -> Decision:
        scope = ExecutionScope(state, memory, self._maps)
        try:
            if self._output is not None:
                value = self._output.encode(scope)
            elif len(self._sinks) == 1:
                value = scope.raw_output(self._sinks[0])
            else:
                value = b"{" + b",".join(encode_value(name) + b":" + scope.raw_output(name) for name in self._sinks) + b"}"
        except ExpressionError as error:
            return PlanFail(error.code, f"the workflow's output: {error.message}")
        if len(value) > MAX_RESULT_BYTES:
            return PlanFail("output_too_large", f"the result of {len(value)} bytes is over the limit of {MAX_RESULT_BYTES} bytes")
        return PlanComplete(value)

    # ------------------------------------------------------------------ scopes

    def _scope(self, state: ExecutionState, step: _Step, item: int | None, template: Template) -> ExecutionScope:
        memory = self._memory(state)
        if item is None:
            return ExecutionScope(state, memory, self._maps)
        value = self._items(state, memory, step)[item] if template.uses_item else None
        return ExecutionScope(state, memory, self._maps, item=value, index=item)

    def _items(self, state: ExecutionState, memory: DagMemory, step: _Step) -> Any:
        """The list of a map step: kept while its items are under way, and found again after a takeover, since outputs never change."""
        name = step.definition.name
        items = memory.lists.get(name)
        if items is None:
            assert step.map is not None
            items = step.map.evaluate(ExecutionScope(state, memory, self._maps))
            if isinstance(items, list):
                memory.lists[name] = items
        return items


def _prepared(step: StepDefinition, dependents: tuple[str, ...]) -> _Step:
    return _Step(
        definition=step,
        dependents=dependents,
        when=None if step.when is None else compile_expression(step.when),
        map=None if step.map is None else compile_expression(step.map),
        input=compile_template({} if step.input is None else step.input),
        session=None if step.session is None else compile_template(step.session),
    )


def _is_false(value: Any) -> bool:
    """False as JMESPath has it: false, null, and empty text, lists and objects. The number 0 is true."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def _placed(error: ExpressionError, where: str) -> ExpressionError:
    return ExpressionError(f"{where}: {error.message}")


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
