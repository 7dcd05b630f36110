"""Expressions: JMESPath over `input`, `steps`, `item`, `index` and `execution`, checked when the workflow is read (ADR 2).

An expression names the steps it reads, so that only their outputs are ever decoded, and so that it counts as a dependency.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import jmespath
from jmespath.exceptions import IncompleteExpressionError, JMESPathError, LexerError, ParseError

from agentflow.engine.definition.interpreter import interpret, signature_of
from agentflow.engine.definition.problems import did_you_mean, shown
from agentflow.engine.definition.scanning import bad_literal, deepest_bracket
from agentflow.errors import InvalidRequest

MAX_EXPRESSION_CHARS = 4_000
MAX_NESTING = 64
"""Of brackets, and of the syntax tree. Python's own limit would depend on who calls."""
ROOTS = ("input", "steps", "item", "index", "execution")
STEP_PROPERTIES = ("output", "status")
EXECUTION_PROPERTIES = ("id", "workflow", "version")


class ExpressionError(InvalidRequest):
    """An expression is wrong, or does not evaluate. `facts["offset"]`: the character of the text where it is wrong, if known."""

    code = "expression_error"
    http_status = 422

    @property
    def offset(self) -> int:
        return int(self.facts.get("offset", 0))


class Scope(Protocol):
    """What an expression may see. Asked only for what it names; the answers are shared and never changed."""

    def value(self, root: str) -> Any:
        """`input`, `item`, `index` or `execution`."""

    def output(self, step: str) -> Any: ...

    def status(self, step: str) -> str: ...


class Expression:
    """A checked expression. `references`: the steps it reads. `uses_item`: it needs `item` or `index`."""

    __slots__ = ("_ast", "_path", "_reads", "references", "text", "uses_item")

    def __init__(self, text: str, ast: Any, reads: frozenset[tuple[str, ...]]) -> None:
        self.text = text
        self._ast = ast
        self._reads = tuple(sorted(reads))
        self._path = _plain_path(ast)
        self.references = frozenset(read[1] for read in reads if read[0] == "steps")
        self.uses_item = any(read[0] in ("item", "index") for read in reads)

    @property
    def whole_output(self) -> str | None:
        """The step, when the expression is exactly its output, so that the bytes can be passed on as they are."""
        path = self._path
        return str(path[1]) if path is not None and len(path) == 3 and path[0] == "steps" and path[2] == "output" else None

    @property
    def whole_input(self) -> bool:
        return self._path == ("input",)

    def evaluate(self, scope: Scope) -> Any:
        """The value; null for what is not there, as JMESPath says. Raises ExpressionError."""
        path = self._path
        if path is None:
            return self._search(scope)
        # Plain references are nearly all there are; walking them here takes a tenth of the time of the interpreter.
        if path[0] == "steps":
            value = scope.output(path[1]) if path[2] == "output" else scope.status(path[1])
            rest = path[3:]
        else:
            value, rest = scope.value(path[0]), path[1:]
        for key in rest:
            if type(key) is str:
                value = value.get(key) if isinstance(value, dict) else None
            else:
                value = value[key] if isinstance(value, list) and -len(value) <= key < len(value) else None
        return value

    def _search(self, scope: Scope) -> Any:
        visible: dict[str, Any] = {}
        for read in self._reads:
            if read[0] == "steps":
                step = visible.setdefault("steps", {}).setdefault(read[1], {})
                step[read[2]] = scope.output(read[1]) if read[2] == "output" else scope.status(read[1])
            else:
                visible[read[0]] = scope.value(read[0])
        try:
            return interpret(self._ast, visible)
        # jmespath lets Python's own errors out: 'a' < 1, ceil(inf), contains('a', 1), a slice with step 0
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            reason = shown(error, limit=300) or type(error).__name__
            raise ExpressionError(f"`{shown(self.text, limit=200)}` does not evaluate: {reason}") from None


@lru_cache(maxsize=4_096)
def compile_expression(text: str) -> Expression:
    """Check `text` (without its `${ }`). Raises ExpressionError with the offset of what is wrong."""
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ExpressionError(f"an expression has at most {MAX_EXPRESSION_CHARS} characters, this one has {len(text)}", offset=0)
    if not text.strip():
        raise ExpressionError("the expression is empty", offset=0)
    if deepest_bracket(text) > MAX_NESTING:
        raise ExpressionError(f"the expression is nested more than {MAX_NESTING} deep", offset=0)
    literal = bad_literal(text)
    if literal is not None:
        raise ExpressionError("between backticks stands JSON, as in `5` or `\"text\"`; text can also be written 'text'", offset=literal)
    try:
        ast: Any = jmespath.compile(text).parsed
        analysis = _Analysis(text)
        analysis.visit(ast, True)
    except JMESPathError as error:
        raise _syntax_error(text, error) from None
    except RecursionError:
        raise ExpressionError(f"the expression is nested more than {MAX_NESTING} deep", offset=0) from None
    except (ValueError, LookupError) as error:
        raise ExpressionError(f"the expression cannot be read: {error}", offset=0) from None
    return Expression(text, ast, frozenset(analysis.reads))


def _syntax_error(text: str, error: JMESPathError) -> ExpressionError:
    if isinstance(error, IncompleteExpressionError):
        return ExpressionError(f"`{shown(text.strip(), limit=200)}` is not complete", offset=len(text.rstrip()))
    offset, reason = 0, str(error).split("\n", 1)[0]
    if isinstance(error, LexerError):
        offset, reason = error.lexer_position, error.message
    elif isinstance(error, ParseError):
        offset, reason = error.lex_position, f"{error.msg} (at `{shown(error.token_value)}`)"
    hint = ""
    if re.search(r"[A-Za-z0-9_]-[A-Za-z0-9_]", text):
        hint = '; JMESPath quotes a name with a dash: steps."fetch-all".output'
    return ExpressionError(f"`{shown(text.strip(), limit=200)}` is no JMESPath: {reason}{hint}", offset=offset)


def _plain_path(ast: Any) -> tuple[Any, ...] | None:
    """(`steps`, `a`, `output`, `x`, 0, …) when the expression is only names and indexes, else None."""
    kind = ast["type"]
    if kind in ("field", "index"):
        return (ast["value"],)
    if kind not in ("subexpression", "index_expression"):
        return None
    path: tuple[Any, ...] = ()
    for child in ast["children"]:
        part = _plain_path(child)
        if part is None:
            return None
        path += part
    return path if isinstance(path[0], str) else None


class _Analysis:
    """Walks an AST and collects what is read from the scope. `top` says that a node sees the scope itself, not a value in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self.reads: set[tuple[str, ...]] = set()

    def visit(self, node: Any, top: bool) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise ExpressionError(f"the expression is nested more than {MAX_NESTING} deep", offset=0)
        self._visit(node, top)
        self._depth -= 1

    def _visit(self, node: Any, top: bool) -> None:
        special = _SPECIAL.get(node["type"])
        if special is not None:
            special(self, node, top)
        elif top and node["type"] in ("current", "identity"):
            raise self._wrong("@", f"`@` and `*` mean nothing here: name what you need of {', '.join(ROOTS)}")
        else:
            for child in node["children"] if node["type"] != "slice" else ():
                self.visit(child, top)

    def _field(self, node: Any, top: bool) -> None:
        if top:
            self._root([node["value"]])

    def _chain(self, node: Any, top: bool) -> None:
        """`a.b.c`: the first child sees the scope, the others the value of the one before."""
        first, *rest = node["children"]
        if first["type"] == "not_expression":
            raise self._wrong("!", "`!a.b` means `(!a).b` in JMESPath: write !(a.b)")
        if top and first["type"] == "field":
            names = [first["value"]]
            for child in rest:
                last = child["type"] != "field"
                while child["type"] in ("index_expression", "projection"):  # `b[0]` and `b[*]` bind more tightly than `.`
                    child = child["children"][0]
                if child["type"] != "field" or (last and names == ["steps"]):
                    break
                names.append(child["value"])
                if last:
                    break
            self._root(names)
        else:
            self.visit(first, top)
        for child in rest:
            self.visit(child, False)

    def _projection(self, node: Any, top: bool) -> None:
        left, *rest = node["children"]
        self.visit(left, top)
        for child in rest:
            self.visit(child, False)

    def _reference(self, node: Any, top: bool) -> None:
        raise self._wrong("&", "`&name` is an argument of functions such as sort_by(list, &name), not a value")

    def _function(self, node: Any, top: bool) -> None:
        name, given = node["value"], len(node["children"])
        signature = signature_of(name)
        if isinstance(signature, list):
            raise self._wrong(name, f"there is no function `{name}`{did_you_mean(name, signature)}")
        least, variadic = signature
        if given < least or (given > least and not variadic):
            wanted = f"at least {least}" if variadic else f"{least}"
            raise self._wrong(name, f"{name}() takes {wanted} argument{'' if least == 1 else 's'}, not {given}")
        for child in node["children"]:
            if child["type"] == "expref":  # evaluated on the elements of a list
                self.visit(child["children"][0], False)
            else:
                self.visit(child, top)

    def _root(self, names: list[str]) -> None:
        root = names[0]
        if root not in ROOTS:
            raise self._wrong(root, f"`{shown(root)}` is not known here: there are {', '.join(ROOTS)}{did_you_mean(root, ROOTS)}")
        if root == "steps":
            if len(names) < 3:
                raise self._wrong(root, "name a step and what you need of it: steps.NAME.output or steps.NAME.status")
            if names[2] not in STEP_PROPERTIES:
                near = did_you_mean(names[2], STEP_PROPERTIES)
                raise self._wrong(names[2], f"a step has `output` and `status`, not `{shown(names[2])}`{near}")
            self.reads.add(("steps", names[1], names[2]))
            return
        if root == "execution" and len(names) > 1 and names[1] not in EXECUTION_PROPERTIES:
            near = did_you_mean(names[1], EXECUTION_PROPERTIES)
            raise self._wrong(names[1], f"an execution has {', '.join(EXECUTION_PROPERTIES)}, not `{shown(names[1])}`{near}")
        self.reads.add((root,))

    def _wrong(self, word: str, message: str) -> ExpressionError:
        return ExpressionError(message, offset=max(self._text.find(word), 0))


_SPECIAL: dict[str, Callable[[_Analysis, Any, bool], None]] = {
    "field": _Analysis._field,
    "subexpression": _Analysis._chain,
    "index_expression": _Analysis._projection,
    "pipe": _Analysis._projection,
    "projection": _Analysis._projection,
    "value_projection": _Analysis._projection,
    "filter_projection": _Analysis._projection,
    "expref": _Analysis._reference,
    "function_expression": _Analysis._function,
}
