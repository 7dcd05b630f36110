"""The input's JSON Schema: what is a valid schema, what a valid input, and which folders an input names."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from agentflow.domain.workflow import Workflow
from agentflow.engine.definition import folders_in, load_workflow, validate_input
from agentflow.errors import InputInvalid, WorkflowInvalid

HEAD = "apiVersion: agentflow/v1\nname: x\n"
STEP = "steps: [{name: a, tool: 'm:f'}]\n"


def workflow(schema: Any) -> Workflow:
    return load_workflow(HEAD + STEP + "input: " + json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "column"),
    [
        ('{"type": "strin"}', 17),
        ('{"properties": {"a": {"minLength": -1}}}', 43),
        ('{"properties": {"a": {"pattern": "["}}}', 41),
        ('{"$ref": "https://example.org/schema.json"}', 17),
        ('{"$ref": "#/$defs/missing"}', 17),
        ('{"properties": {"a": {"$id": "http://x/y", "type": "string"}}}', 37),
        ('{"$schema": "http://json-schema.org/draft-07/schema#"}', 20),
    ],
)
def test_an_invalid_schema_is_located(schema: str, column: int) -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(HEAD + STEP + "input: " + schema)
    assert [(error["line"], error["column"], error["code"]) for error in caught.value.facts["errors"]] == [(4, column, "schema")]


def test_all_errors_of_an_input_are_reported_with_their_pointers() -> None:
    schema = {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {"name": {"type": "string"}, "a/b": {"type": "array", "items": {"type": "integer"}}},
    }
    with pytest.raises(InputInvalid) as caught:
        validate_input(workflow(schema), {"a/b": [1, "x"], "other": 1})
    assert sorted(error["path"] for error in caught.value.facts["errors"]) == ["", "", "/a~1b/1"]
    validate_input(workflow(schema), {"name": "x", "a/b": [1]})


def test_without_a_schema_any_input_is_taken() -> None:
    validate_input(load_workflow(HEAD + STEP), [1, {"x": None}])


def test_a_large_wrong_input_makes_no_large_error() -> None:
    with pytest.raises(InputInvalid) as caught:
        validate_input(workflow({"type": "array", "items": {"type": "integer"}}), ["x" * 1_000_000 + "\ud800"] * 200)
    assert len(caught.value.facts["errors"]) == 50
    assert len(json.dumps(caught.value.facts)) < 100_000
    str(caught.value).encode("utf-8")


def test_a_schema_that_refers_to_itself_without_end_is_an_error_and_no_crash() -> None:
    with pytest.raises(InputInvalid, match="without end"):
        validate_input(workflow({"$ref": "#"}), 1)
    assert folders_in(workflow({"$ref": "#"}), "x") == []


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(WorkflowInvalid):
        workflow({"properties": {"a": {"$ref": "http://example.org/x.json"}}})


FOLDER = {"type": "string", "format": "folder"}


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"properties": {"path": FOLDER, "other": {"type": "string"}}}, {"path": "/a", "other": "/b"}, [("/path", "/a")]),
        (FOLDER, "/a", [("", "/a")]),
        ({"items": FOLDER}, ["/a", "/b"], [("/0", "/a"), ("/1", "/b")]),
        ({"prefixItems": [{}, FOLDER]}, ["/a", "/b"], [("/1", "/b")]),
        ({"additionalProperties": FOLDER}, {"x/y": "/a"}, [("/x~1y", "/a")]),
        ({"patternProperties": {"^p": FOLDER}}, {"p1": "/a"}, [("/p1", "/a")]),
        ({"properties": {"a": {"$ref": "#/$defs/f"}}, "$defs": {"f": FOLDER}}, {"a": "/a"}, [("/a", "/a")]),
        ({"properties": {"a": {"anyOf": [{"type": "null"}, FOLDER]}}}, {"a": "/a"}, [("/a", "/a")]),
        ({"allOf": [{"oneOf": [{"properties": {"a": FOLDER}}]}]}, {"a": "/a"}, [("/a", "/a")]),
        ({"if": {}, "then": {"properties": {"a": FOLDER}}}, {"a": "/a"}, [("/a", "/a")]),
        ({"dependentSchemas": {"b": {"properties": {"a": FOLDER}}}}, {"a": "/a"}, [("/a", "/a")]),
        ({"$defs": {"n": {"properties": {"path": FOLDER, "next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
         {"path": "/1", "next": {"path": "/2", "next": {"path": "/3"}}},
         [("/path", "/1"), ("/next/path", "/2"), ("/next/next/path", "/3")]),
        ({"properties": {"path": FOLDER}}, {"path": 5}, []),
        ({"properties": {"path": FOLDER}}, {}, []),
    ],
)  # fmt: skip
def test_folders_are_found_wherever_the_schema_says_so(schema: Any, value: Any, expected: list[tuple[str, str]]) -> None:
    assert folders_in(workflow(schema), value) == expected
