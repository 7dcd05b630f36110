"""`agentflow validate` and `agentflow run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cluster import cli_follow, cli_input
from agentflow.cluster.cli_outcome import ExitCode, report
from agentflow.cluster.cli_session import Connected, Json, session_of
from agentflow.cluster.render import write_json

if TYPE_CHECKING:
    from agentflow.client import WorkflowEntry
    from agentflow.domain.workflow import Workflow


def validate(
    files: Annotated[list[str], typer.Argument(help="Workflow files, folders with a workflow.yaml, or - for stdin.", metavar="FILE...")],
    as_json: Json = False,
) -> None:
    """Check workflow files and show every error with its file, line and column. Needs no cluster."""
    from agentflow.errors import InvalidRequest

    results: list[dict[str, Any]] = []
    for file in files:
        try:
            workflow = cli_input.read_workflow(file)
            results.append({"file": file, "valid": True, "name": workflow.name, "version": workflow.version, "errors": []})
            if not as_json:
                print(f"{file}: {workflow.name} {workflow.version} is valid ({len(workflow.steps)} steps)")
        except InvalidRequest as error:
            located = error.facts.get("errors") or [{"file": file, "line": 1, "column": 1, "code": error.code, "message": error.message}]
            results.append({"file": file, "valid": False, "errors": located})
            if not as_json:
                report(error)
    if as_json:
        write_json({"files": results})
    if not all(result["valid"] for result in results):
        raise typer.Exit(ExitCode.USAGE)


def run(
    ctx: typer.Context,
    workflow: Annotated[
        str, typer.Argument(help="A stored workflow's name, or a file (or folder with a workflow.yaml), which is stored first.")
    ],
    document: Annotated[str | None, typer.Option("--input", help="The input: JSON, @FILE, or @- for stdin.")] = None,
    members: Annotated[list[str] | None, typer.Option("-i", metavar="KEY=VALUE", help="One member of the input; may be repeated.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of a stored workflow; the latest if not given.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow until it ends, or print its id and go.")] = True,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write the result there: result.json, and report.md and report.html if it has them.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key starts the same execution once only.")] = None,
    as_json: Json = False,
) -> None:
    """Run a workflow, with live progress. Ctrl-C detaches: the execution goes on."""
    with session_of(ctx).connected() as connected:
        flow = connected.flow
        if cli_input.is_file_name(workflow):
            definition = cli_input.read_workflow(workflow)
            value = _input(connected, definition, document, members)
            stored = flow.workflows.put(definition)
        else:
            stored = flow.workflows.get(workflow, version=version)
            definition = _parsed(stored)
            value = _input(connected, definition, document, members)
        execution = flow.run(stored.name, value, version=stored.version, idempotency_key=idempotency_key)
        if not wait:
            if as_json:
                write_json({"id": execution.id, "workflow": stored.name, "version": stored.version})
            else:
                print(execution.id)
                print(f"follow it: agentflow executions events {execution.id} --follow", file=sys.stderr)
            return
        cli_follow.follow(execution, [step.name for step in definition.steps], quiet=as_json)
        code = cli_follow.finish(execution, output_dir=output_dir, as_json=as_json)
        raise typer.Exit(code)


def _input(connected: Connected, definition: Workflow, document: str | None, members: list[str] | None) -> Any:
    value = cli_input.read_input(document, members or [], definition.input_schema)
    return cli_input.checked_input(definition, value, local=connected.local)


def _parsed(stored: WorkflowEntry) -> Workflow:
    from agentflow.engine.definition import load_workflow

    return load_workflow(stored.source, file=f"{stored.name} {stored.version}")
