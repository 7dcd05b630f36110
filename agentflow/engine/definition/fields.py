"""Reads typed values out of nodes. Each function reports what is wrong and answers None for it, so that the reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from agentflow.engine.definition.document import Node
from agentflow.engine.definition.problems import Problems, did_you_mean, shown
from agentflow.engine.definition.quantities import parse_duration, parse_size

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys of one kind of object. `later`: keys that a later version will have, and what they will do."""

    what: str
    known: tuple[str, ...]
    required: tuple[str, ...] = ()
    later: Mapping[str, str] | None = None


class Reader:
    """Typed reading with one list of problems."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def fields(self, node: Node, shape: Shape) -> dict[str, Node]:
        """The values of an object's known keys; reports unknown, later and missing ones. Empty when it is no object."""
        if node.kind != "mapping":
            self.wrong_type(node, shape.what, "an object")
            return {}
        found: dict[str, Node] = {}
        for key, (place, value) in node.pairs.items():
            if key in shape.known:
                found[key] = value
            elif shape.later and key in shape.later:
                self.problems.add(place, "not_yet", f"`{key}` is not yet supported: {shape.later[key]} come with a later version")
            else:
                near = did_you_mean(key, shape.known)
                self.problems.add(place, "unknown_key", f"{shape.what} has no key `{shown(key)}`{near}")
        for key in shape.required:
            if key not in found:
                self.problems.add(node, "missing_key", f"{shape.what} needs the key `{key}`")
        return found

    def wrong_type(self, node: Node, what: str, wanted: str) -> None:
        if node.kind != "invalid":
            value = f" (`{shown(node.value)}`)" if node.kind == "scalar" and node.value is not None else ""
            self.problems.add(node, "wrong_type", f"{what} must be {wanted}, this is {node.type_name}{value}")

    def invalid(self, node: Node, message: str) -> None:
        self.problems.add(node, "invalid_value", message)

    def text(self, node: Node | None, what: str) -> str | None:
        if node is None:
            return None
        if isinstance(node.value, str):
            return node.value
        hint = "text in quotes" if isinstance(node.value, (int, float)) else "text"
        self.wrong_type(node, what, hint)
        return None

    def matching(self, node: Node | None, what: str, pattern: re.Pattern[str], rule: str) -> str | None:
        """Text of that pattern; `rule` says it in words."""
        value = self.text(node, what)
        if value is None or node is None or pattern.fullmatch(value):
            return value
        self.problems.add(node, "bad_name", f"{what} `{shown(value)}` is not valid: {rule}")
        return None

    def number(self, node: Node | None, what: str, *, least: float, most: float, whole: bool = False) -> float | None:
        if node is None:
            return None
        value = node.value
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            self.wrong_type(node, what, "a whole number" if whole else "a number")
            return None
        if not least <= value <= most:
            self.invalid(node, f"{what} must be from {least:g} to {most:g}, this is {shown(value)}")
            return None
        return value

    def duration(self, node: Node | None, what: str, *, zero: bool = False) -> timedelta | None:
        value = self._parsed(node, what, parse_duration, "a duration such as 30s")
        if value is not None and node is not None and not value and not zero:
            self.invalid(node, f"{what} must be longer than nothing")
            return None
        return value

    def size(self, node: Node | None, what: str) -> int | None:
        """Bytes; a bare whole number counts bytes, too."""
        if node is not None and type(node.value) is int:
            node = Node("scalar", str(node.value), node.line, node.column, node.start, node.end)
        return self._parsed(node, what, parse_size, "a size such as 512MiB")

    def _parsed(self, node: Node | None, what: str, parse: Callable[[str], T], wanted: str) -> T | None:
        if node is None:
            return None
        if not isinstance(node.value, str):
            self.wrong_type(node, what, wanted)
            return None
        try:
            return parse(node.value)
        except ValueError as error:
            self.invalid(node, f"{what}: {error}")
            return None

    def texts(self, node: Node | None, what: str) -> list[tuple[str, Node]]:
        """A list of texts, with their places."""
        if node is None:
            return []
        if node.kind != "sequence":
            self.wrong_type(node, what, "a list")
            return []
        named = [(self.text(item, f"an entry of {what}"), item) for item in node.items]
        return [(value, item) for value, item in named if value is not None]
