"""What the DAG planner remembers of one execution, and the scope its expressions see. All of it can be found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentflow.codec import NULL, decode_value
from agentflow.domain.execution import StepStatus
from agentflow.domain.state import item_key

if TYPE_CHECKING:
    from agentflow.domain.state import ExecutionState

CACHE_BYTES = 8 << 20
"""Values kept per execution, counted by their encoded size; the one used last is always kept."""


class RecentValues:
    """Decoded outputs, and joined outputs of map steps; the least recently used are dropped when all are too large together."""

    __slots__ = ("_bytes", "_values")

    def __init__(self) -> None:
        self._values: dict[str, tuple[int, Any]] = {}
        self._bytes = 0

    def get(self, key: str) -> tuple[int, Any] | None:
        found = self._values.pop(key, None)
        if found is not None:
            self._values[key] = found
        return found

    def put(self, key: str, value: Any, size_bytes: int) -> None:
        self._values[key] = (size_bytes, value)
        self._bytes += size_bytes
        while self._bytes > CACHE_BYTES and len(self._values) > 1:
            oldest = next(iter(self._values))
            self._bytes -= self._values.pop(oldest)[0]


@dataclass(slots=True)
class DagMemory:
    """How far the planner has come. `cursor`: how much of `state.settled` it has read.

    `unmet`: for each step, how many of its dependencies are not settled. `ready`: steps that have none left and are not decided.
    `expanding`: map steps whose items were not handed out yet. `open`: steps that are not settled. `lists`: of map steps under way.
    """

    cursor: int
    unmet: dict[str, int]
    ready: list[str]
    open: int
    expanding: list[str] = field(default_factory=list)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    recent: RecentValues = field(default_factory=RecentValues)


class ExecutionScope:
    """What the expressions of one step see. Decodes only what they name, and that once."""

    __slots__ = ("_index", "_item", "_maps", "_memory", "_state")

    def __init__(
        self, state: ExecutionState, memory: DagMemory, maps: Mapping[str, Any], *, item: Any = None, index: int | None = None
    ) -> None:
        self._state, self._memory, self._maps = state, memory, maps
        self._item, self._index = item, index

    def value(self, root: str) -> Any:
        if root == "item":
            return self._item
        if root == "index":
            return self._index
        state = self._state
        if root == "input":
            return self._decoded("", state.input)
        return {"id": state.execution_id, "workflow": state.workflow, "version": state.version}

    def output(self, step: str) -> Any:
        found = self._memory.recent.get(step)
        return found[1] if found is not None else self._decoded(step, self.raw_output(step))

    def status(self, step: str) -> str:
        return self._state.steps[step].status.value

    def raw_input(self) -> bytes:
        return self._state.input

    def raw_output(self, step: str) -> bytes:
        """The output as JSON; null of a skipped step, of a map step the list of its items' outputs."""
        state = self._state.steps[step]
        if state.status is StepStatus.SKIPPED:
            return NULL
        if step not in self._maps:
            return NULL if state.output is None else state.output
        key = f"{step}[]"
        found = self._memory.recent.get(key)
        if found is not None:
            return bytes(found[1])
        steps = self._state.steps
        outputs = (steps[item_key(step, item)].output or NULL for item in range(state.item_count))
        joined = b"[" + b",".join(outputs) + b"]"
        self._memory.recent.put(key, joined, len(joined))
        return joined

    def _decoded(self, key: str, body: bytes) -> Any:
        """The value of `body`, kept under `key`: a step's name, or "" for the input."""
        found = self._memory.recent.get(key)
        if found is not None:
            return found[1]
        value = decode_value(body)
        self._memory.recent.put(key, value, len(body))
        return value
