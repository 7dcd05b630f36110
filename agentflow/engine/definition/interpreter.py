"""Evaluates a JMESPath AST with a bound on its work: whoever sends a workflow must not hold up the supervisor that runs it.

JMESPath has no loops, but `[@,@] | [@,@] | …` doubles a value with every few characters, and `to_string` or `==` then walk it.
"""

from __future__ import annotations

from typing import Any

from jmespath import functions, visitor

MAX_WORK = 500_000
"""Nodes visited and values walked by one evaluation; about half a second."""
MAX_RESULT_BYTES = 16 << 20
"""Of one evaluated template, encoded; the same as the engine's limit for outputs."""

_DEEP = frozenset({"to_string", "contains"})
"""Functions that look into their arguments, not only at their elements."""


def interpret(ast: Any, visible: dict[str, Any]) -> Any:
    """The value of `ast` over `visible`. Raises ValueError and other errors of Python for what does not evaluate."""
    return _BoundedInterpreter(_Budget(MAX_WORK)).visit(ast, visible)


def signature_of(function: str) -> tuple[int, bool] | list[str]:
    """(number of arguments, more are allowed) of a function; the list of all functions when there is none of that name."""
    table = _BoundedFunctions.FUNCTION_TABLE
    if function not in table:
        return sorted(table)
    signature = table[function]["signature"]
    return len(signature), bool(signature and signature[-1].get("variadic"))


def measure(value: Any, limit: int) -> int:
    """About how many bytes `value` has as JSON, shared parts counted each time; stops above `limit`, so it is bounded itself."""
    size, stack = 0, [value]
    while stack:
        if size > limit:
            return size
        current = stack.pop()
        if isinstance(current, str):
            size += len(current) + 2
        elif isinstance(current, list):
            size += 2 + len(current)
            stack.extend(current)
        elif isinstance(current, dict):
            size += 2 + sum(map(len, current)) + 4 * len(current)
            stack.extend(current.values())
        else:
            size += 5
    return size


class _Budget:
    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise ValueError(f"it takes more than {MAX_WORK} operations")

    def deep(self, value: Any) -> int:
        """What it costs to look at all of `value`."""
        return (measure(value, self.left << 3) >> 3) + 1


class _BoundedFunctions(functions.Functions):
    """The standard functions, each charged by the size of what it is given and gives."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget

    def call_function(self, function_name: str, resolved_args: Any) -> Any:
        spend = self._budget.spend
        for argument in resolved_args:
            if isinstance(argument, (list, dict)):
                spend(self._budget.deep(argument) if function_name in _DEEP else len(argument))
            elif isinstance(argument, str):
                spend(len(argument) >> 6)
        if function_name == "join" and len(resolved_args) == 2 and isinstance(resolved_args[1], list):
            texts = [text for text in resolved_args[1] if isinstance(text, str)]
            spend(sum(map(len, texts)) + len(str(resolved_args[0])) * len(texts) >> 4)
        return super().call_function(function_name, resolved_args)


class _BoundedInterpreter(visitor.TreeInterpreter):
    def __init__(self, budget: _Budget) -> None:
        super().__init__(visitor.Options(custom_functions=_BoundedFunctions(budget)))
        self._budget = budget

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        budget = self._budget
        budget.left -= 1
        if budget.left < 0:
            budget.spend(0)
        return super().visit(node, *args, **kwargs)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        if node["value"] in ("eq", "ne"):
            left, right = (self.visit(child, value) for child in node["children"])
            if isinstance(left, (list, dict)) and isinstance(right, (list, dict)):
                self._budget.spend(self._budget.deep(left))
            return self.COMPARATOR_FUNC[node["value"]](left, right)
        return super().visit_comparator(node, value)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        inner = self.visit(node["children"][0], value)
        if not isinstance(inner, list):
            return None
        self._budget.spend(sum(len(item) if isinstance(item, list) else 1 for item in inner))
        return [part for item in inner for part in (item if isinstance(item, list) else (item,))]

    def visit_slice(self, node: Any, value: Any) -> Any:
        if isinstance(value, list):
            self._budget.spend(len(value))
        return super().visit_slice(node, value)
