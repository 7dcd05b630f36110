"""Reads YAML into nodes that know their place. Only plain JSON values result, and the reading is bounded.

libyaml does the parsing (18 times as fast as the Python parsers); nodes are made from its events, because no loader keeps
places, refuses aliases and duplicate keys, and resolves scalars as YAML 1.2 does (`no` is text, `010` is ten) all at once.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml  # type: ignore[import-untyped, unused-ignore]

from agentflow.engine.definition.limits import Limits
from agentflow.engine.definition.problems import Problems, shown

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTANTS = {
    word: value
    for value, words in ((None, ("", "~", "null", "Null", "NULL")), (True, ("true", "True", "TRUE")), (False, ("false", "False", "FALSE")))
    for word in words
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(slots=True, eq=False)
class Node:
    """A value and its place. `line` and `column` count from 1; `start` and `end` are offsets into the text.

    `value`: of a mapping a dict from key to (key node, value node), of a sequence a list of nodes, of a scalar the JSON value.
    An `invalid` node has been reported already; whoever meets one says nothing.
    """

    kind: Literal["mapping", "sequence", "scalar", "invalid"]
    value: Any
    line: int
    column: int
    start: int
    end: int

    @property
    def pairs(self) -> dict[str, tuple[Node, Node]]:
        return self.value if self.kind == "mapping" else {}

    @property
    def items(self) -> list[Node]:
        return self.value if self.kind == "sequence" else []

    @property
    def type_name(self) -> str:
        """What it is, in the words of JSON."""
        if self.kind != "scalar":
            return {"mapping": "an object", "sequence": "a list"}.get(self.kind, "invalid")
        if self.value is None:
            return "null"
        return {str: "text", bool: "a boolean", int: "a number", float: "a number"}[type(self.value)]


def plain(node: Node) -> Any:
    """The JSON value of a node; `invalid` ones become None. Recursion is bounded by Limits.depth."""
    if node.kind == "mapping":
        return {key: plain(value) for key, (_, value) in node.value.items()}
    if node.kind == "sequence":
        return [plain(item) for item in node.value]
    return node.value


class Source:
    """A definition's text, and places in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of a character."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def place_in(self, node: Node, offset: int) -> tuple[int, int]:
        """Line and column of the character at `offset` of a text node's value; its start where escapes or folding hide it."""
        raw, value = self.text[node.start : node.end], node.value
        if not isinstance(value, str):
            return node.line, node.column
        if raw.startswith(value):
            return self.place(node.start + offset)
        if raw[1:-1] == value:
            return self.place(node.start + 1 + offset)
        snippet = value[offset : offset + 20].split("\n", 1)[0]
        if snippet and raw.count(snippet) == 1:
            return self.place(node.start + raw.index(snippet))
        return node.line, node.column


def read_document(source: Source, problems: Problems, *, limits: Limits) -> Node | None:
    """The root node, or None when the text is no YAML document at all; what is wrong goes to `problems`."""
    try:
        source.text.encode("utf-8")
    except UnicodeEncodeError as error:
        problems.add_at(*source.place(error.start), "yaml_syntax", "the text holds a lone surrogate, which is no Unicode character")
        return None
    events = yaml.parse(source.text, Loader=_LOADER)
    try:
        return _Composer(problems, limits).compose(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        place = source.place(mark.index) if mark else (1, 1)
        problems.add_at(*place, "yaml_syntax", f"this is not YAML: {message}")
    except yaml.reader.ReaderError as error:
        before = source.text.encode()[: error.position].decode("utf-8", "ignore")
        problems.add_at(*source.place(len(before)), "yaml_syntax", f"this is not YAML: {error.reason} (U+{error.character:04X})")
    finally:
        events.close()
    return None


class _Composer:
    """Makes nodes from parser events, with a stack of its own: depth is a limit and not a crash."""

    def __init__(self, problems: Problems, limits: Limits) -> None:
        self._problems = problems
        self._limits = limits
        self._open: list[tuple[Node, list[Node]]] = []
        """Collections under way; the list holds the key that waits for its value."""
        self._root: Node | None = None

    def compose(self, events: Iterator[Any]) -> Node | None:
        documents = 0
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        self._report(event, "yaml_documents", "a second document starts here; one file holds one workflow")
                        break
                case yaml.AliasEvent():
                    self._report(event, "yaml_alias", f"aliases (`*{event.anchor}`) are not supported: write the value out")
                    self._attach(_node("invalid", None, event))
                case yaml.ScalarEvent():
                    self._attach(self._scalar(event))
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._check(event)
                    if len(self._open) >= self._limits.depth:
                        self._report(event, "too_deep", f"nested more than {self._limits.depth} deep (limit `depth`)")
                        return None
                    mapping = isinstance(event, yaml.MappingStartEvent)
                    self._open.append((_node("mapping", {}, event) if mapping else _node("sequence", [], event), []))
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    node, _ = self._open.pop()
                    node.end = event.end_mark.index
                    self._attach(node)
        return self._root

    def _attach(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        parent, waiting = self._open[-1]
        if parent.kind == "sequence":
            parent.value.append(node)
        elif waiting:
            self._put(parent, waiting.pop(), node)
        else:
            waiting.append(node)

    def _put(self, mapping: Node, key: Node, value: Node) -> None:
        if key.kind == "invalid":
            return
        if not isinstance(key.value, str):
            what = shown(key.value) if key.kind == "scalar" else key.type_name
            self._problems.add(key, "key_not_text", f"a key is text, this is {key.type_name} (`{what}`): put it in quotes")
            return
        first = mapping.value.get(key.value)
        if first is not None:
            message = f"key `{shown(key.value)}` is here twice; the first is in line {first[0].line}"
            self._problems.add(key, "duplicate_key", message)
            return
        mapping.value[key.value] = (key, value)

    def _scalar(self, event: Any) -> Node:
        self._check(event)
        text: str = event.value
        if not event.implicit[0]:
            return _node("scalar", text, event)
        value: Any = text
        if text in _CONSTANTS:
            value = _CONSTANTS[text]
        elif _INTEGER.fullmatch(text) and len(text) < 1_000:
            value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        elif _FLOAT.fullmatch(text):
            value = float(text)
        if _NOT_FINITE.fullmatch(text) or (isinstance(value, float) and not math.isfinite(value)):
            self._report(event, "not_json", f"`{shown(text)}` is not a JSON number")
            return _node("invalid", None, event)
        return _node("scalar", value, event)

    def _check(self, event: Any) -> None:
        if event.anchor is not None:
            self._report(event, "yaml_alias", f"anchors (`&{event.anchor}`) are not supported: write the value out where it is needed")
        if event.tag is not None:
            self._report(event, "yaml_tag", f"tags (`{shown(event.tag)}`) are not supported: only plain JSON values are")

    def _report(self, event: Any, code: str, message: str) -> None:
        self._problems.add_at(event.start_mark.line + 1, event.start_mark.column + 1, code, message)


def _node(kind: Literal["mapping", "sequence", "scalar", "invalid"], value: Any, event: Any) -> Node:
    mark = event.start_mark
    return Node(kind, value, mark.line + 1, mark.column + 1, mark.index, event.end_mark.index)
