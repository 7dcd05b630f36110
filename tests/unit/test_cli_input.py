"""Workflow files and inputs as the command line names them; `validate`; the program's start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentflow.cluster import cli_input
from agentflow.cluster.cli import app
from agentflow.cluster.cli_outcome import CODES, ExitCode, exit_code
from agentflow.engine.definition import load_workflow
from agentflow.errors import AgentFlowError, InputInvalid, InvalidRequest, NonDeterminism, NotYet, StoreUnavailable

EXAMPLE = Path(__file__).parents[2] / "examples" / "repository_review"
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "file"),
    [("review", False), ("review.yaml", True), ("a/review", True), (".", True), ("-", True), ("x.yml", True), ("yaml", False)],
)
def test_a_name_and_a_file_are_told_apart(text: str, file: bool) -> None:
    assert cli_input.is_file_name(text) is file


@pytest.mark.parametrize(
    ("members", "value"),
    [
        (["text=1"], {"text": "1"}),
        (["count=1"], {"count": 1}),
        (["other=true"], {"other": True}),
        (["other=plain text"], {"other": "plain text"}),
        (["other=a=b"], {"other": "a=b"}),
        (["other="], {"other": ""}),
        (["other=[1]", "other=2"], {"other": 2}),
    ],
)
def test_members_are_json_unless_the_schema_says_text(members: list[str], value: Any) -> None:
    assert cli_input.read_input(None, members, SCHEMA) == value


def test_members_win_over_the_document() -> None:
    assert cli_input.read_input('{"a": 1, "b": 2}', ["b=3"], None) == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("document", "members", "message"),
    [
        ("{", [], "not JSON"),
        ("input.json", [], "@input.json"),
        ("@/no/such/file", [], "cannot be read"),
        ("[1]", ["a=1"], "not an object"),
        (None, ["novalue"], "not key=value"),
        (None, ["=x"], "not key=value"),
    ],
)
def test_an_input_that_cannot_be_read_says_why(document: str | None, members: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        cli_input.read_input(document, members, None)


def workflow(schema: dict[str, Any]) -> Any:
    text = {"apiVersion": "agentflow/v1", "name": "x", "version": "1", "input": schema, "steps": [{"name": "a", "tool": "m:f"}]}
    return load_workflow(json.dumps(text))


FOLDERS = {
    "type": "object",
    "properties": {
        "one": {"type": "string", "format": "folder"},
        "many": {"type": "array", "items": {"type": "object", "properties": {"a/b": {"type": "string", "format": "folder"}}}},
    },
}


def test_folders_become_absolute_wherever_the_schema_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    value = {"one": "src", "many": [{"a/b": "."}, {"a/b": "src/.."}], "text": "src"}
    made = cli_input.checked_input(workflow(FOLDERS), value, local=True)
    assert made == {"one": f"{tmp_path}/src", "many": [{"a/b": str(tmp_path)}, {"a/b": str(tmp_path)}], "text": "src"}
    assert value["one"] == "src"


def test_a_folder_that_is_not_there_is_an_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="is not a folder") as caught:
        cli_input.checked_input(workflow(FOLDERS), {"one": str(tmp_path / "none")}, local=True)
    assert caught.value.facts["errors"][0]["path"] == "/one"


def test_folders_of_another_machine_are_sent_as_they_are() -> None:
    assert cli_input.checked_input(workflow(FOLDERS), {"one": "srv"}, local=False) == {"one": "srv"}


# ---------------------------------------------------------------------------------------------------- validate

BROKEN = """\
apiVersion: agentflow/v1
name: broken
colour: red
agents:
  scout: {uses: not-an-import-path}
steps:
  - name: a
    agent: nobody
    dependsOn: [b]
  - name: b
    tool: "m:f"
    dependsOn: [a]
"""


def validate(*words: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, ["validate", *words], input=stdin)


def test_every_error_of_every_file_is_shown_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    result = validate(str(tmp_path / "broken.yaml"), str(EXAMPLE))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    places = [line.split(":")[1] for line in lines[:-1]]
    assert {"3", "5", "8"} <= set(places)
    assert "cycle" in result.stderr
    assert lines[-1].endswith("errors in the definition; nothing was run [workflow_invalid]")
    assert "repository-review 1.0.0 is valid (4 steps)" in result.stdout


def test_validation_as_json_is_for_machines(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    result = validate(str(tmp_path / "broken.yaml"), str(tmp_path / "missing.yaml"), str(EXAMPLE / "workflow.yaml"), "--json")
    assert result.exit_code == 2
    files = json.loads(result.stdout)["files"]
    assert [file["valid"] for file in files] == [False, False, True]
    assert {"file", "line", "column", "code", "message"} <= files[0]["errors"][0].keys()


def test_stdin_is_a_file_too() -> None:
    assert validate("-", stdin=(EXAMPLE / "workflow.yaml").read_text()).exit_code == 0


def test_a_file_that_is_not_text_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    result = validate(str(tmp_path / "binary.yaml"))
    assert (result.exit_code, "not UTF-8" in result.stderr, "Traceback" in result.output) == (2, True, False)


# ---------------------------------------------------------------------------------------------------- exit codes, the program


def classes(kind: type[AgentFlowError]) -> list[type[AgentFlowError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in classes(child))]


def test_every_error_that_a_client_can_get_has_an_exit_code_of_its_own_kind() -> None:
    internal = [kind for kind in classes(AgentFlowError) if exit_code(kind("x")) is ExitCode.INTERNAL]
    assert internal == [AgentFlowError, NonDeterminism]
    assert (exit_code(NotYet("x")), exit_code(StoreUnavailable("x"))) == (ExitCode.USAGE, ExitCode.UNREACHABLE)
    assert all(not issubclass(late, early) for index, (early, _) in enumerate(CODES) for late, _ in CODES[index + 1 :])


def test_the_exit_codes_are_in_the_help_and_in_the_documentation() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    documented = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for code in ExitCode:
        assert f" {code.value} " in shown.replace("\n", " ")
        assert f"| {code.value} |" in documented


@pytest.mark.parametrize("words", [["--nonsense"], ["run"], ["executions", "list", "--limit", "x"], ["nonsense"]])
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_every_command_stands_in_the_documentation() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) >= 9
    for name in names:
        assert f"agentflow {name}" in documented


def test_help_needs_neither_ray_nor_the_web_framework() -> None:
    script = (
        "import sys; from agentflow.cluster.cli import main; sys.argv[1:] = ['--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('ray', 'fastapi', 'asyncpg', 'httpx', 'litellm') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
    assert done.stderr.strip() == "[]"
    assert "doctor" in done.stdout
