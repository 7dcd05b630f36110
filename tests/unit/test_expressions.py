"""Expressions and templates: what they give, what they may see, and that they are bounded."""

from __future__ import annotations

import json
from typing import Any

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.engine.definition import ExpressionError, Template, compile_expression, compile_template
from agentflow.engine.definition.interpreter import MAX_RESULT_BYTES

VALUES: dict[str, Any] = {
    "input": {"name": "Ada", "list": [3, 1, 2], "nested": {"a-b": {"c": [{"d": 1}, {"d": 2}]}}, "none": None, "zero": 0},
    "item": {"folder": "src"},
    "index": 4,
    "execution": {"id": "e1", "workflow": "w", "version": "2"},
}
OUTPUTS: dict[str, Any] = {"one": {"x": 1, "text": 'say "hi"'}, "two": [1, 2, 3], "three-x": "t", "skipped": None}


class RecordingScope:
    """A scope that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def value(self, root: str) -> Any:
        self.asked.append(root)
        return VALUES[root]

    def output(self, step: str) -> Any:
        self.asked.append(f"{step}.output")
        return OUTPUTS[step]

    def status(self, step: str) -> str:
        self.asked.append(f"{step}.status")
        return "skipped" if step == "skipped" else "completed"

    def raw_input(self) -> bytes:
        return json.dumps(VALUES["input"]).encode()

    def raw_output(self, step: str) -> bytes:
        return json.dumps(OUTPUTS[step]).encode()


def evaluate(template: Any) -> Any:
    compiled, scope = compile_template(template), RecordingScope()
    value = compiled.evaluate(scope)
    assert json.loads(compiled.encode(scope)) == value, "both ways to evaluate must agree"
    return value


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${ steps.one.output }", OUTPUTS["one"]),
        ("${steps.one.output.x}", 1),
        ("${ steps.two.output[-1] }", 3),
        ("${ steps.two.output[9] }", None),
        ("${ steps.one.output.x.y.z }", None),
        ('${ steps."three-x".output }', "t"),
        ("${ steps.skipped.output }", None),
        ("${ steps.skipped.status }", "skipped"),
        ("${ steps.skipped.output.x || 'none' }", "none"),
        ("${ input }", VALUES["input"]),
        ('${ input.nested."a-b".c[*].d }', [1, 2]),
        ("${ sort(input.list)[0] }", 1),
        ("${ sort_by(input.nested.\"a-b\".c, &d)[-1].d }", 2),
        ("${ {n: input.name, s: steps.one.output.x} }", {"n": "Ada", "s": 1}),
        ("${ [input.name, steps.one.output.x] }", ["Ada", 1]),
        ("${ input.list | [0] }", 3),
        ("${ length(steps.two.output) > `2` && input.name == 'Ada' }", True),
        ("${ execution.id }", "e1"),
        ("${ item.folder }", "src"),
        ("${ index }", 4),
        ("${ '}' }", "}"),
        ("${ `{\"a\": \"}\"}` }", {"a": "}"}),
        ("${ input.name } has ${ steps.one.output.x }", "Ada has 1"),
        ("${ input.name }${ steps.two.output }", "Ada[1,2,3]"),
        ("a ${ steps.one.output } b", 'a {"x":1,"text":"say \\"hi\\""} b'),
        ("a ${ input.none } b ${ input.zero == `0` }", "a null b true"),
        (" ${ input.zero } ", " 0 "),
        ("$${ literally } ${ input.zero }", "${ literally } 0"),
        ("$${ literally }", "${ literally }"),
        ("$$${ literally }", "$${ literally }"),
        ("$ { } $5 $", "$ { } $5 $"),
        ({"a": ["${ index }", 1, None, {"b": "${ input.none }"}], "${ kept }": "c"}, {"a": [4, 1, None, {"b": None}], "${ kept }": "c"}),
        ([], []),
        ({}, {}),
        (None, None),
        ({"a": {"b": [1.5, True, "ü"]}}, {"a": {"b": [1.5, True, "ü"]}}),
    ],
)  # fmt: skip
def test_templates(template: Any, expected: Any) -> None:
    value = evaluate(template)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "references", "uses_item"),
    [
        ("steps.a.output", {"a"}, False),
        ("[steps.a.output, steps.b.status] | [?@ == item.x]", {"a", "b"}, False),
        ("merge(steps.a.output, {x: steps.b.output, y: index})", {"a", "b"}, True),
        ("steps.a.output | {steps: steps, item: item}", {"a"}, False),
        ("steps.a.output[*].steps.b.output", {"a"}, False),
        ("map(&steps.x.output, steps.a.output)", {"a"}, False),
        ("!(steps.a.output) || item", {"a"}, True),
        ("steps.a.output[0].x", {"a"}, False),
        ("steps.a.output[1:].x[*].y", {"a"}, False),
        ("steps.a.output[?x == `1`].x", {"a"}, False),
        ("steps.a.output.{x: steps.b.output}", {"a"}, False),
        ("steps.a.output.item", {"a"}, False),
    ],
)
def test_what_an_expression_reads_is_known_before_it_runs(text: str, references: set[str], uses_item: bool) -> None:
    expression = compile_expression(text)
    assert (expression.references, expression.uses_item) == (references, uses_item)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("", 0),
        ("   ", 0),
        ("outptu.x", 0),
        ("input.a || nope", 11),
        ("steps", 0),
        ("steps.a", 0),
        ("steps.*", 0),
        ("steps.a.*", 0),
        ("steps.a.result", 8),
        ("steps | a.output", 0),
        ("steps.a | output", 0),
        ("steps[0].output", 0),
        ("steps.a[0].output", 0),
        ("steps.a[*].output", 0),
        ("steps.a.result[0]", 8),
        ("!steps.a.output", 0),
        ("!input.flag", 0),
        ("keys(steps)", 5),
        ("@", 0),
        ("*", 0),
        ("[]", 0),
        ("[0]", 0),
        ("execution.tenant", 10),
        ("length()", 0),
        ("length(input, input)", 0),
        ("lenght(input)", 0),
        ("not_null()", 0),
        ("&input", 0),
        ("input.", 6),
        ("input a", 6),
        ("input.a-b", 7),
        ("input.x == `abc`", 11),
        ("input.'x'", 6),
        ("input ~ 5", 6),
        ("input = 5", 6),
        ("input[99999999999999999999999999999999999999999999999999999999999999999999999:", None),
        ("(" * 300 + "input" + ")" * 300, 0),
        ("!" * 300 + "input", 0),
        ("input" + " | a" * 300, 0),
        ("input.a || " * 500 + "input", 0),
        ("eval('1')", 0),
        ("__import__('os')", 0),
    ],
)
def test_a_wrong_expression_is_refused_with_its_place(text: str, offset: int | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    if offset is not None:
        assert caught.value.offset == offset, str(caught.value)


def test_near_names_are_suggested() -> None:
    for text, near in (("inptu.x", "input"), ("steps.a.ouput", "output"), ("lenght(input)", "length")):
        with pytest.raises(ExpressionError, match=f"did you mean `{near}`"):
            compile_expression(text)


@pytest.mark.parametrize("template", ["${ input", "${ '} ", "a ${ {a: input} ", "${ `1 }"])
def test_an_expression_that_is_not_closed_is_refused(template: str) -> None:
    with pytest.raises(ExpressionError):
        compile_template(template)


@pytest.mark.parametrize(
    "text",
    [
        "'a' < `1`",
        "ceil(to_number('1e999'))",
        "contains('a', `1`)",
        "input.list[::0]",
        "length(input.none)",
        "sum(input.name)",
        'sort(`[1, "a"]`)',
    ],
)
def test_what_does_not_evaluate_is_an_expression_error(text: str) -> None:
    with pytest.raises(ExpressionError, match="does not evaluate"):
        compile_template("${ " + text + " }").evaluate(RecordingScope())


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ExpressionError, match="cannot be kept"):
        compile_template("${ to_number('1e999') }").encode(RecordingScope())


def test_only_what_is_named_is_asked_for() -> None:
    for template in ("${ steps.one.output.x }", "${ length(steps.one.output.text) }"):
        scope = RecordingScope()
        compile_template(template).evaluate(scope)
        assert scope.asked == ["one.output"]
    scope = RecordingScope()
    compile_template({"whole": "${ steps.one.output }", "input": "${ input }"}).encode(scope)
    assert scope.asked == [], "whole values are passed on as bytes"


@pytest.mark.parametrize(
    "text",
    [
        "input.list" + " | [@,@]" * 50,
        "input.list" + " | [@,@][]" * 28,
        "input.name" + " | join('',[@,@])" * 50,
        "input.name" + " | to_string([@,@])" * 50,
        "{l: input.list, r: input.list}" + " | {l:[l,l],r:[r,r]}" * 50 + " | l == r",
        "{l: input.list, r: input.list}" + " | {l:[l,l],r:[r,r]}" * 50 + " | contains(l, r)",
        "input.list | [*]" + ".[@,@][]" * 24,
        "input.list" + " | {a: [@,@,@,@,@,@,@,@]}" * 50 + " | to_string(@)",
    ],
)
def test_an_expression_that_grows_without_end_is_ended(text: str) -> None:
    template = compile_template("${ " + text + " }")
    with pytest.raises(ExpressionError, match=r"operations|over the limit"):
        template.encode(RecordingScope())


def test_a_template_of_many_large_parts_is_ended_before_it_is_built() -> None:
    class Large(RecordingScope):
        def raw_output(self, step: str) -> bytes:
            return body

        def output(self, step: str) -> Any:
            return text

    text = "x" * (MAX_RESULT_BYTES // 10)
    body = json.dumps(text).encode()
    for part in ("${ steps.one.output }", "and ${ steps.one.output }", "${ steps.one.output || 'x' }"):
        template: Template = compile_template([part] * 9)
        assert len(template.encode(Large())) < MAX_RESULT_BYTES
        with pytest.raises(ExpressionError, match="over the limit"):
            compile_template([part] * 1_000).encode(Large())
        with pytest.raises(ExpressionError, match="over the limit"):
            compile_template([part] * 1_000).evaluate(Large())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "a-b", "x y"]), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(
    st.sampled_from([".a", ".b", '."a-b"', '."x y"', "[0]", "[1]", "[-1]", "[7]", "[-7]"]), max_size=4
).map(lambda parts: "input" + "".join(parts))  # fmt: skip
MORE = [".a", ".b", "[0]", "[-1]", "[*]", "[]", ".*", "[1:]", "[?a]", "[?a == b]", ".[a, b]", ".{z: a}", " | @", " || `1`", " == `0`"]
CHAINS = st.lists(st.sampled_from(MORE), max_size=5).map(lambda parts: "input" + "".join(parts))


class InputScope(RecordingScope):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self._value = value

    def value(self, root: str) -> Any:
        return self._value


@settings(deadline=None)  # other work shares the machine
@given(JSON, PATHS | CHAINS)
def test_every_expression_gives_what_jmespath_gives(value: Any, text: str) -> None:
    expected = jmespath.search(text, {"input": value})
    found = compile_expression(text).evaluate(InputScope(value))
    assert found == expected
    assert type(found) is type(expected)


@settings(deadline=None)  # other work shares the machine
@given(st.text(alphabet=st.sampled_from("inputsteps.a[]{}()*@&|!=<>`'\"\\-0 ,:?$"), max_size=25))
def test_no_text_raises_anything_but_expression_error(text: str) -> None:
    try:
        compile_expression(text).evaluate(InputScope([1, {"a": "x"}]))
    except ExpressionError as error:
        assert 0 <= error.offset <= len(text)
    except KeyError as error:
        assert "steps" in text, error  # a name of a step that this scope does not have


@settings(deadline=None)  # other work shares the machine
@given(st.text(alphabet=st.sampled_from("$ {}'a`"), max_size=12))
def test_text_without_expressions_stays_as_it_is(text: str) -> None:
    if "${" not in text:
        assert evaluate(text) == text
    escaped = text.replace("$", "").replace("{", "$${")
    assert evaluate(escaped) == escaped.replace("$${", "${")
