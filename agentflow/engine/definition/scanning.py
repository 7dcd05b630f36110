"""Finds where `${ expression }` begins and ends in a text, and which of its literals are not JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

OPENING = re.compile(r"\$\$\{|\$\{")
_QUOTES = "'\"`"


def end_of_expression(text: str, start: int) -> int | None:
    """The offset of the `}` that closes an expression which begins at `start`; braces and quotes inside it are passed over."""
    depth = 0
    at = start
    while at < len(text):
        char = text[at]
        if char in _QUOTES:
            closing = _closing_quote(text, at)
            if closing is None:
                return None
            at = closing
        elif char == "{":
            depth += 1
        elif char == "}":
            if depth == 0:
                return at
            depth -= 1
        at += 1
    return None


def deepest_bracket(expression: str) -> int:
    """How deep `(`, `[` and `{` nest, outside of quotes."""
    depth = deepest = at = 0
    while at < len(expression):
        char = expression[at]
        if char in _QUOTES:
            at = _closing_quote(expression, at) or len(expression)
        elif char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
        at += 1
    return deepest


def bad_literal(expression: str) -> int | None:
    """The offset of a backtick literal that is not JSON. JMESPath still takes those as text, with a deprecation warning."""
    for start, end in _literals(expression):
        try:
            json.loads(expression[start + 1 : end].replace("\\`", "`"))
        except (ValueError, RecursionError):
            return start
    return None


def _literals(expression: str) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(expression):
        if expression[at] in _QUOTES:
            closing = _closing_quote(expression, at)
            if closing is None:
                return
            if expression[at] == "`":
                yield at, closing
            at = closing
        at += 1


def _closing_quote(text: str, start: int) -> int | None:
    quote, at = text[start], start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == quote:
            return at
        at += 1
    return None
