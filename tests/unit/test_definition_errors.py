"""Wrong definitions: each mistake has its place and code, and all of them are reported at once."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.engine.definition import Limits, load_workflow
from agentflow.errors import WorkflowInvalid

HEAD = "apiVersion: agentflow/v1\nname: x\n"
STEP = "steps: [{name: a, tool: 'm:f'}]\n"


def errors_of(text: str, **options: Any) -> list[dict[str, Any]]:
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(text, file="w.yaml", **options)
    errors: list[dict[str, Any]] = caught.value.facts["errors"]
    assert errors == sorted(errors, key=lambda error: (error["line"], error["column"]))
    assert all(set(error) == {"file", "line", "column", "code", "message"} and error["file"] == "w.yaml" for error in errors)
    return errors


def places(text: str, **options: Any) -> list[tuple[int, int, str]]:
    return [(error["line"], error["column"], error["code"]) for error in errors_of(text, **options)]


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
apiVersion: agentflow/v1
name: Bad_Name
version: 1.0
triggers: []
confg: {}
config: {timeout: 5x, concurrency: 0}
agents:
  scout: {uses: "x", resources: {cpu: a, memory: 12XB}}
steps:
  - name: a
    agent: scuot
    tool: "m:f"
    dependsOn: [b, zz]
    input: {x: "${ item.x }", y: "${ steps.c.outptu }", z: "é ${ foo( }"}
  - name: b
    dependsOn: [c]
    when: steps.a.output
    tool: "m:f"
    dup: 1
    dup: 2
  - name: c
    tool: "m:f"
    input:
      text: |
        hello
        ${ unknown.x }
    dependsOn: [b]
    onFailure: x
    map: "${ bogus(input) }"
  - name: c
    agent: scout
output: "${ steps.nope.output }"
"""
    assert places(text) == [
        (2, 7, "bad_name"),
        (3, 10, "wrong_type"),
        (4, 1, "not_yet"),
        (5, 1, "unknown_key"),
        (6, 19, "invalid_value"),
        (6, 36, "invalid_value"),
        (8, 17, "bad_name"),
        (8, 39, "wrong_type"),
        (8, 50, "invalid_value"),
        (10, 5, "agent_or_tool"),
        (11, 12, "unknown_agent"),
        (13, 20, "unknown_step"),
        (14, 17, "item_outside_map"),
        (14, 46, "expression"),
        (14, 70, "expression"),
        (16, 17, "cycle"),
        (17, 11, "invalid_value"),
        (19, 5, "unknown_key"),
        (20, 5, "duplicate_key"),
        (26, 12, "expression"),
        (28, 5, "not_yet"),
        (29, 14, "expression"),
        (30, 5, "duplicate_name"),
        (32, 10, "unknown_step"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: [1,\nb: 2", 2, 5),
        ("a: 1\n- b", 2, 1),
        ("a: é\nü: 'x\n", 3, 1),
        ("a: b: c", 1, 5),
        ("\ta: 1", 1, 1),
        ("é: é\x00", 1, 5),
        ("x: 1\na: \ud800", 2, 4),
    ],
)
def test_what_is_not_yaml_has_one_located_error(text: str, line: int, column: int) -> None:
    assert places(text) == [(line, column, "yaml_syntax")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: &x [1]\nb: *x", "yaml_alias"),
        ("a: &x {y: *x}", "yaml_alias"),
        ("a: !!python/object/apply:os.system ['true']", "yaml_tag"),
        ("a: !!str 5", "yaml_tag"),
        ("a: ! 5", "yaml_tag"),
        ("1: 2", "key_not_text"),
        ("{a: 1}: 2", "key_not_text"),
        ("description: .inf", "not_json"),
        ("description: 1e999", "not_json"),
        ("---\na: 1\n---\nb: 2", "yaml_documents"),
        ("a: " + "[" * 100 + "]" * 100, "too_deep"),
        ("[" * 200_000, "too_deep"),
        ("- " * 200_000, "too_deep"),
    ],
)
def test_yaml_that_is_not_plain_json_is_refused(text: str, code: str) -> None:
    assert code in [error[2] for error in places(text)]


@pytest.mark.parametrize("text", ["", "# nothing", "--- "])
def test_an_empty_text_is_refused(text: str) -> None:
    assert places(text)[0][2] in ("yaml_syntax", "wrong_type")


@pytest.mark.parametrize("text", ["- a", "5", "null", "text"])
def test_a_document_that_is_no_object_is_refused(text: str) -> None:
    assert places(text) == [(1, 1, "wrong_type")]


def test_a_near_key_is_suggested() -> None:
    (error,) = errors_of(HEAD + "steps: [{name: a, tool: 'm:f', dependson: []}]")
    assert "did you mean `dependsOn`?" in error["message"]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "triggers: []\n" + STEP,
        HEAD + "planner: llm\n" + STEP,
        HEAD + "budget: {usd: 1}\n" + STEP,
        HEAD + "config: {budget: 1}\n" + STEP,
        HEAD + "agents: {a: {uses: 'm:A', instructions: x}}\n" + STEP,
        HEAD + "steps: [{name: a, tool: 'm:f', onFailure: b}]",
        HEAD + "steps: [{name: a, tool: 'm:f', subWorkflow: b}]",
        HEAD + "steps: [{name: a, tool: 'm:f', memory: b}]",
    ],
)
def test_keys_of_later_work_are_refused_with_not_yet(text: str) -> None:
    (error,) = errors_of(text)
    assert error["code"] == "not_yet"
    assert "not yet" in error["message"]


def test_an_unknown_planner_is_not_one_of_later_work() -> None:
    assert places(HEAD + "planner: magic\n" + STEP) == [(3, 10, "invalid_value")]


def test_a_cycle_is_named_whole_and_once() -> None:
    text = HEAD + (
        "steps:\n"
        "  - {name: before, tool: 'm:f'}\n"
        "  - {name: a, tool: 'm:f', dependsOn: [before, c]}\n"
        "  - {name: b, tool: 'm:f', dependsOn: [a]}\n"
        "  - {name: c, tool: 'm:f', input: {x: '${ steps.b.output }'}}\n"
        "  - {name: after, tool: 'm:f', dependsOn: [c]}\n"
    )
    (error,) = errors_of(text)
    assert (error["line"], error["column"], error["code"]) == (5, 1 + text.split("\n")[4].index("c]"), "cycle")
    assert "a -> c -> b -> a" in error["message"]
    assert "before" not in error["message"]


def test_two_cycles_and_a_self_dependency_are_three_errors() -> None:
    edges = {"a": "b", "b": "a", "c": "d", "d": "c", "e": "e"}
    steps = "".join(f"  - {{name: {name}, tool: 'm:f', dependsOn: [{other}]}}\n" for name, other in edges.items())
    messages = [error["message"] for error in errors_of(HEAD + "steps:\n" + steps)]
    assert [("a -> b -> a" in text, "c -> d -> c" in text, "`e` depends on itself" in text) for text in messages] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_step_that_cannot_be_read_hides_no_other_error_and_invents_none() -> None:
    text = HEAD + "steps:\n  - {tool: 'm:f'}\n  - {name: b, tool: 'm:f', dependsOn: [unnamed], tiemout: 1s}\n"
    assert [error[2] for error in places(text)] == ["missing_key", "unknown_key"]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("{name: a}", "agent_or_tool"),
        ("{name: a, tool: 'm:f', agent: g}", "agent_or_tool"),
        ("{name: a, tool: noimport}", "bad_name"),
        ("{name: a, tool: 'm:f', input: [1]}", "wrong_type"),
        ("{name: a, tool: 'm:f', input: 'text ${ input }'}", "wrong_type"),
        ("{name: a, tool: 'm:f', session: s}", "invalid_value"),
        ("{name: a, tool: 'm:f', timeout: 0s}", "invalid_value"),
        ("{name: a, tool: 'm:f', timeout: 5}", "wrong_type"),
        ("{name: a, tool: 'm:f', retry: {maxAttempts: 0}}", "invalid_value"),
        ("{name: a, tool: 'm:f', retry: {maxAttempts: true}}", "wrong_type"),
        ("{name: a, tool: 'm:f', retry: {maxAttempts: 1.5}}", "wrong_type"),
        ("{name: a, tool: 'm:f', retry: {backoff: {multiplier: 0.5}}}", "invalid_value"),
        ("{name: a, tool: 'm:f', retry: {retryOn: [TimeoutError]}}", "invalid_value"),
        ("{name: a, tool: 'm:f', retry: {retryOn: sandbox_lost}}", "wrong_type"),
        ("{name: a, tool: 'm:f', dependsOn: b}", "wrong_type"),
        ("{name: 'a b', tool: 'm:f'}", "bad_name"),
        ("{name: 'a[1]', tool: 'm:f'}", "bad_name"),
        ("{name: a, tool: 'm:f', when: '${ input.a } ${ input.b }'}", "invalid_value"),
        ("{name: a, tool: 'm:f', when: true}", "wrong_type"),
        ("{name: a, tool: 'm:f', map: [1, 2]}", "wrong_type"),
        ("{name: a, tool: 'm:f', map: '${ input.l }', when: '${ item }'}", "item_outside_map"),
        ("{name: a, tool: 'm:f', map: '${ item }'}", "item_outside_map"),
        ("{name: a, tool: 'm:f', input: {x: '${ index }'}}", "item_outside_map"),
        ("{name: a, tool: 'm:f', input: {x: '${ input.a '}}", "expression"),
        ("{name: a, tool: 'm:f', input: {x: '${ steps.b }'}}", "expression"),
        ("text", "wrong_type"),
    ],
)
def test_wrong_steps(step: str, code: str) -> None:
    assert [error[2] for error in places(HEAD + f"agents: {{g: {{uses: 'm:G'}}}}\nsteps: [{step}]")] == [code]


def test_every_wrong_expression_of_one_text_is_reported() -> None:
    text = HEAD + "steps:\n  - name: a\n    tool: 'm:f'\n    input: {x: '${ inptu } and ${ steps.b.output } and ${ nope() }'}"
    line = text.split("\n")[5]
    expected = [("inptu", "expression"), ("${ steps", "unknown_step"), ("nope", "expression")]
    assert places(text) == [(6, line.index(word) + 1, code) for word, code in expected]


def test_an_expression_inside_a_block_is_located_in_its_line() -> None:
    block = "      x: >-\n        folded\n        ${ input.a }\n\n        and ${ wrong.b }\n"
    text = HEAD + "steps:\n  - name: a\n    tool: 'm:f'\n    input:\n" + block
    assert places(text) == [(11, 16, "expression")]


def test_limits_are_named_and_can_be_set() -> None:
    assert places(HEAD + STEP, limits=Limits(source_bytes=20)) == [(1, 1, "too_large")]
    many = "steps:\n" + "".join(f"  - {{name: s{i}, tool: 'm:f'}}\n" for i in range(11))
    (error,) = errors_of(HEAD + many, limits=Limits(steps=10))
    assert error["code"] == "too_many_steps"
    assert "limit `steps`" in error["message"]
    assert len(errors_of(HEAD + STEP + "".join(f"unknown{i}: 1\n" for i in range(50)), limits=Limits(errors=5))) == 5


def test_messages_can_be_stored_and_printed_whatever_was_sent() -> None:
    for error in errors_of(HEAD + STEP + '"\\ud800": 1\n"\\0": 2\n'):
        error["message"].encode("utf-8")
        assert "\0" not in error["message"]


def test_the_error_survives_pickle_and_says_how_many_there_are() -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(HEAD + STEP + "one: 1\ntwo: 2\n", file="w.yaml")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.facts == caught.value.facts
    assert "w.yaml:4:1" in str(copy)
    assert "1 more" in str(copy)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}\"'\n #&*!|>%@`?,$1.~\t\u00e9"), max_size=60))
def test_no_text_raises_anything_but_workflow_invalid(text: str) -> None:
    for prefix in ("", HEAD, HEAD + "steps:\n  - name: a\n    tool: 'm:f'\n    input: "):
        try:
            load_workflow(prefix + text)
        except WorkflowInvalid as error:
            lines = (prefix + text).split("\n")
            assert all(1 <= found["line"] <= len(lines) + 1 and found["column"] >= 1 for found in error.facts["errors"])
