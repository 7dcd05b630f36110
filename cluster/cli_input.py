"""Workflow files and inputs as the command line names them: found, read, checked, and made what the API takes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentflow.errors import InputInvalid, InvalidRequest

if TYPE_CHECKING:
    from agentflow.domain.workflow import Workflow

WORKFLOW_FILE = "workflow.yaml"
"""What a folder is taken for when it is named as a workflow."""


def is_file_name(text: str) -> bool:
    """Whether `run`'s argument means a file or folder and not the name of a stored workflow."""
    return text.endswith((".yaml", ".yml")) or os.sep in text or text in (".", "..", "-")


def read_workflow(name: str) -> Workflow:
    """The checked definition in a file, in a folder's workflow.yaml, or on stdin (`-`).

    Raises WorkflowInvalid with every error, InvalidRequest when the file cannot be read.
    """
    from agentflow.engine.definition import load_workflow

    if name == "-":
        return load_workflow(sys.stdin.read(), file="<stdin>")
    path = Path(name)
    if path.is_dir():
        path = path / WORKFLOW_FILE
    try:
        return load_workflow(path.read_text("utf-8"), file=str(path))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_input(document: str | None, members: Sequence[str], schema: Mapping[str, Any] | None) -> Any:
    """The input from `--input` (JSON, `@file`, or `@-` for stdin) and `-i key=value`, which win over its members.

    A value is JSON if it is JSON and the schema does not call it a text; else it is a text. Raises InvalidRequest.
    """
    value: Any = {} if document is None else _json_document(document)
    if not members:
        return value
    if not isinstance(value, dict):
        raise InvalidRequest("-i sets members of an object, but --input is not an object; give one or the other")
    properties = (schema or {}).get("properties") or {}
    for member in members:
        name, equals, text = member.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"-i {member!r} is not key=value")
        described = properties.get(name)
        value[name] = text if isinstance(described, Mapping) and described.get("type") == "string" else _value(text)
    return value


def _json_document(text: str) -> Any:
    where = "--input"
    if text.startswith("@"):
        where = text[1:]
        try:
            text = sys.stdin.read() if where == "-" else Path(where).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the input file {where} cannot be read: {error}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        hint = "" if where != "--input" else "; a file is named with @, as in --input @input.json"
        raise InvalidRequest(f"{where} is not JSON: {error}{hint}") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def checked_input(workflow: Workflow, value: Any, *, local: bool) -> Any:
    """The input, valid under the workflow's schema, its folders made absolute.

    Only this process knows the folder that a relative path starts from. `local` False: the cluster is on another machine,
    whose folders are named as they are. Raises InputInvalid.
    """
    from agentflow.engine.definition import folders_in, validate_input

    validate_input(workflow, value)
    if not local:
        return value
    for pointer, folder in folders_in(workflow, value):
        absolute = os.path.abspath(os.path.expanduser(folder))
        if not os.path.isdir(absolute):
            raise InputInvalid(f"{folder} is not a folder", errors=[{"path": pointer, "message": f"{absolute} is not a folder"}])
        value = _with(value, pointer.split("/")[1:], absolute)
    return value


def _with(value: Any, path: Sequence[str], new: Any) -> Any:
    """A copy of `value` in which what the JSON pointer's parts lead to is `new`."""
    if not path:
        return new
    key = path[0].replace("~1", "/").replace("~0", "~")
    if isinstance(value, list):
        index = int(key)
        return [*value[:index], _with(value[index], path[1:], new), *value[index + 1 :]]
    return {**value, key: _with(value[key], path[1:], new)}
