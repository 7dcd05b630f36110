"""Templates: JSON in which a text may hold `${ expression }`.

A text that is exactly one `${ expr }` becomes the expression's value with its type; otherwise each is put into the text
(text as it is, everything else as JSON). `$${` stands for `${`. Keys of objects are never evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from agentflow.codec import encode_value
from agentflow.engine.definition.expressions import Expression, ExpressionError, Scope, compile_expression
from agentflow.engine.definition.interpreter import MAX_RESULT_BYTES, measure
from agentflow.engine.definition.scanning import OPENING, end_of_expression

MAX_DEPTH = 64


class RawScope(Scope, Protocol):
    """A scope that has its values as JSON bytes as well."""

    def raw_input(self) -> bytes: ...

    def raw_output(self, step: str) -> bytes: ...


class _Part(Protocol):
    """One place of a template. `size` counts what has been made so far, and is bounded."""

    def value(self, scope: Scope, size: _Size) -> Any: ...

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None: ...


class Template:
    """A checked template. `references`: the steps it reads. `uses_item`: it needs `item` or `index`."""

    __slots__ = ("_root", "references", "uses_item")

    def __init__(self, root: _Part, expressions: list[Expression]) -> None:
        self._root = root
        self.references = frozenset(name for expression in expressions for name in expression.references)
        self.uses_item = any(expression.uses_item for expression in expressions)

    def evaluate(self, scope: Scope) -> Any:
        """The value; parts of it are shared with the scope and must not be changed. Raises ExpressionError."""
        return self._root.value(scope, _Size())

    def encode(self, scope: RawScope) -> bytes:
        """The value as JSON. Whole outputs are copied as bytes, never decoded. Raises ExpressionError."""
        out: list[bytes] = []
        self._root.write(scope, out, _Size())
        return out[0] if len(out) == 1 else b"".join(out)


def compile_template(value: Any) -> Template:
    """Check a template. Raises ExpressionError for the first thing wrong; its offset counts within the text that holds it."""
    expressions: list[Expression] = []
    return Template(_compile(value, expressions, 0), expressions)


def split_text(text: str) -> Iterator[str | tuple[int, str]]:
    """The literal parts of a text (`$${` resolved), and its expressions as (offset, expression). Raises ExpressionError."""
    at = 0
    literal = ""
    for match in OPENING.finditer(text):
        if match.start() < at:
            continue
        literal += text[at : match.start()]
        if match[0] == "$${":
            literal += "${"
            at = match.end()
            continue
        end = end_of_expression(text, match.end())
        if end is None:
            raise ExpressionError("`${` is not closed by `}` (write `$${` for the characters themselves)", offset=match.start())
        if literal:
            yield literal
            literal = ""
        yield match.end(), text[match.end() : end]
        at = end + 1
    literal += text[at:]
    if literal:
        yield literal


def only_expression(text: str) -> tuple[int, str] | None:
    """(offset, expression) when the text is exactly one `${ expression }`, else None. Raises ExpressionError."""
    stripped = text.strip()
    parts = list(split_text(stripped))
    if len(parts) == 1 and isinstance(parts[0], tuple):
        offset, expression = parts[0]
        return offset + len(text) - len(text.lstrip()), expression
    return None


def _compile(value: Any, expressions: list[Expression], depth: int) -> _Part:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"a template nests at most {MAX_DEPTH} deep", offset=0)
    if isinstance(value, str) and "${" in value:
        return _compile_text(value, expressions)
    if isinstance(value, (list, tuple)):
        items = [_compile(item, expressions, depth + 1) for item in value]
        constants = [item.constant for item in items if isinstance(item, _Constant)]
        return _Constant(constants) if len(constants) == len(items) else _List(items)
    if isinstance(value, dict):
        pairs = {str(key): _compile(item, expressions, depth + 1) for key, item in value.items()}
        fixed = {key: part.constant for key, part in pairs.items() if isinstance(part, _Constant)}
        return _Constant(fixed) if len(fixed) == len(pairs) else _Object(pairs)
    return _Constant(value)


def _compile_text(text: str, expressions: list[Expression]) -> _Part:
    parts: list[str | Expression] = []
    for part in split_text(text):
        if isinstance(part, str):
            parts.append(part)
            continue
        offset, source = part
        try:
            expression = compile_expression(source)
        except ExpressionError as error:
            raise ExpressionError(error.message, offset=error.offset + offset) from None
        parts.append(expression)
        expressions.append(expression)
    if not any(isinstance(part, Expression) for part in parts):
        return _Constant("".join(part for part in parts if isinstance(part, str)))
    only = parts[0]
    if len(parts) == 1 and isinstance(only, Expression):
        return _Value(only)
    return _Text(parts)


class _Size:
    """How much a template has made; raises when that is too much, before anything large is built."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, amount: int) -> None:
        self.bytes += amount
        if self.bytes > MAX_RESULT_BYTES:
            raise ExpressionError(f"the value is over the limit of {MAX_RESULT_BYTES} bytes")

    def add_value(self, value: Any) -> None:
        self.add(measure(value, MAX_RESULT_BYTES - self.bytes))


def _encode(value: Any) -> bytes:
    try:
        return encode_value(value)
    except TypeError as error:
        raise ExpressionError(f"the expression's value cannot be kept: {error}") from None


class _Constant:
    __slots__ = ("_encoded", "constant")

    def __init__(self, constant: Any) -> None:
        self.constant = constant
        self._encoded = encode_value(constant)

    def value(self, scope: Scope, size: _Size) -> Any:
        return self.constant

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None:
        out.append(self._encoded)


class _Value:
    """`${ expr }` alone: the value with its type."""

    __slots__ = ("_expression", "_whole_input", "_whole_output")

    def __init__(self, expression: Expression) -> None:
        self._expression = expression
        self._whole_output = expression.whole_output
        self._whole_input = expression.whole_input

    def value(self, scope: Scope, size: _Size) -> Any:
        value = self._expression.evaluate(scope)
        size.add_value(value)
        return value

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None:
        if self._whole_output is not None:
            body = scope.raw_output(self._whole_output)
        elif self._whole_input:
            body = scope.raw_input()
        else:
            value = self._expression.evaluate(scope)
            # measured before it is encoded: its parts may be shared a million times
            size.add_value(value)
            out.append(_encode(value))
            return
        size.add(len(body))
        out.append(body)


class _Text:
    """Text with expressions in it."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[str | Expression]) -> None:
        self._parts = parts

    def value(self, scope: Scope, size: _Size) -> str:
        out: list[str] = []
        for part in self._parts:
            value: Any = part if isinstance(part, str) else part.evaluate(scope)
            size.add_value(value)
            out.append(value if isinstance(value, str) else _encode(value).decode())
        return "".join(out)

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None:
        out.append(_encode(self.value(scope, size)))


class _List:
    __slots__ = ("_items",)

    def __init__(self, items: list[_Part]) -> None:
        self._items = items

    def value(self, scope: Scope, size: _Size) -> list[Any]:
        return [item.value(scope, size) for item in self._items]

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None:
        separator = b"["
        for item in self._items:
            out.append(separator)
            item.write(scope, out, size)
            separator = b","
        out.append(b"]")


class _Object:
    __slots__ = ("_pairs",)

    def __init__(self, pairs: dict[str, _Part]) -> None:
        self._pairs = [(key, encode_value(key) + b":", part) for key, part in pairs.items()]

    def value(self, scope: Scope, size: _Size) -> dict[str, Any]:
        return {key: part.value(scope, size) for key, _, part in self._pairs}

    def write(self, scope: RawScope, out: list[bytes], size: _Size) -> None:
        separator = b"{"
        for _, key, part in self._pairs:
            out.append(separator + key)
            part.write(scope, out, size)
            separator = b","
        out.append(b"}")
