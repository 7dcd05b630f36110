"""`agentflow executions list|show|events|cancel`, `workflows`, `agents`, `tools`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cluster import render
from agentflow.cluster.cli_outcome import ExitCode
from agentflow.cluster.cli_session import Json, session_of
from agentflow.cluster.progress import StepTally, Tally

if TYPE_CHECKING:
    from agentflow.client import Event, ExecutionSnapshot

Id = Annotated[str, typer.Argument(metavar="ID", help="An execution's id, as `run` and `executions list` show it.")]


def list_executions(
    ctx: typer.Context,
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    status: Annotated[str | None, typer.Option(help="Only running, waiting, completed, failed or cancelled ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List executions, newest first."""
    with session_of(ctx).connected() as connected:
        found = list(connected.flow.executions.list(workflow=workflow, status=status, limit=limit))
    if as_json:
        render.write_json({"executions": [_execution_member(item) for item in found]})
        return
    rows = [
        (item.id, f"{item.workflow} {item.version}", item.status, render.time_text(item.started_at), _took(item), _error(item))
        for item in found
    ]
    render.table(("ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "ERROR"), rows, empty="no executions")


def show_execution(ctx: typer.Context, execution_id: Id, as_json: Json = False) -> None:
    """Show one execution: its status, steps, input, result or error."""
    with session_of(ctx).connected() as connected:
        item = connected.flow.executions.get(execution_id).snapshot()
        tally = Tally()
        for event in connected.events_so_far(execution_id):
            tally.add(event)
    if as_json:
        steps = [_step_member(step) for step in tally.steps.values()]
        render.write_json({**_execution_member(item), "input": item.input, "result": item.result, "steps": steps})
        return
    render.pairs(
        {
            "id": item.id,
            "workflow": f"{item.workflow} {item.version}",
            "status": item.status,
            "started": render.time_text(item.started_at),
            "took": _took(item),
            "input": render.value_text(item.input),
            "error": _error(item),
            "result": render.value_text(item.result) if item.status == "completed" else None,
        }
    )
    print()
    rows = [(step.name, _state(step), _count(step), _step_took(step), step.note) for step in tally.steps.values()]
    render.table(("STEP", "STATUS", "DONE", "TOOK", "NOTE"), rows, empty="no steps yet")


def show_events(
    ctx: typer.Context,
    execution_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the execution ends.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events after this seq.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the values that events carry.")] = False,
) -> None:
    """Show the journal of an execution, one event a line."""
    with session_of(ctx).connected() as connected:
        execution = connected.flow.executions.get(execution_id)
        try:
            for event in execution.events(after) if follow else connected.events_so_far(execution_id, after):
                after = event.seq
                if as_json:
                    render.write_json_line(
                        {"seq": event.seq, "at": event.at, "kind": event.kind, "body": dict(event.body), "value": event.value}
                    )
                else:
                    print(
                        f"{event.seq:>6}  {event.at.astimezone():%H:%M:%S.%f}"[:-3] + f"  {event.kind:<19} {_event_text(event)}".rstrip(),
                        flush=True,
                    )
        except KeyboardInterrupt:
            print(f"\nstopped looking; the execution is not touched. Go on behind this: --after {after}", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def cancel_execution(
    ctx: typer.Context,
    execution_id: Id,
    reason: Annotated[str, typer.Option(help="Kept in the journal.")] = "",
    as_json: Json = False,
) -> None:
    """Cancel an execution. One that has completed or failed stays as it is (exit code 5)."""
    with session_of(ctx).connected() as connected:
        item = connected.flow.executions.get(execution_id).cancel(reason)
    if as_json:
        render.write_json(_execution_member(item))
    else:
        print(f"{item.id} {item.status}")


def workflows(ctx: typer.Context, as_json: Json = False) -> None:
    """List the stored workflows, each with its latest version."""
    with session_of(ctx).connected() as connected:
        found = list(connected.flow.workflows.list())
    if as_json:
        members = [
            {"name": item.name, "version": item.version, "created_at": item.created_at, "principal": item.principal} for item in found
        ]
        render.write_json({"workflows": members})
        return
    rows = [(item.name, item.version, render.time_text(item.created_at), item.principal) for item in found]
    render.table(("NAME", "VERSION", "STORED", "BY"), rows, empty="no workflows; `agentflow run FILE` stores one")


def agents(ctx: typer.Context, as_json: Json = False) -> None:
    """List the agents of the application folder, and the actors that host them."""
    with session_of(ctx).connected() as connected:
        found = connected.flow.agents()
    if as_json:
        render.write_json({"agents": [asdict(item) for item in found]})
        return
    rows = []
    for item in found:
        actors = ", ".join(f"{actor['name']} ({actor['state']}, {actor['in_flight']} in flight)" for actor in item.actors)
        rows.append((item.name, item.uses, actors, render.one_line(item.description)))
    render.table(
        ("NAME", "USES", "ACTORS", "DESCRIPTION"), rows, empty="no agents; `agentflow up --app-dir DIR` names the folder they are in"
    )


def tools(ctx: typer.Context, as_json: Json = False) -> None:
    """List the tools of the application folder, and where they run."""
    with session_of(ctx).connected() as connected:
        found = connected.flow.tools()
    if as_json:
        render.write_json({"tools": [asdict(item) for item in found]})
        return
    rows = []
    for item in found:
        profile = item.profile or {}
        limits = f"{profile.get('wall_s', 0):g} s, {int(profile.get('memory_bytes', 0)) >> 20} MiB" if profile else ""
        rows.append((item.name, item.uses, profile.get("isolation"), limits, render.one_line(item.description)))
    render.table(
        ("NAME", "USES", "RUNS IN", "LIMITS", "DESCRIPTION"), rows, empty="no tools; `agentflow up --app-dir DIR` names their folder"
    )


def _execution_member(item: ExecutionSnapshot) -> dict[str, Any]:
    return {
        "id": item.id,
        "workflow": item.workflow,
        "version": item.version,
        "status": item.status,
        "started_at": item.started_at,
        "ended_at": item.ended_at,
        "error": dict(item.error) if item.error else None,
    }


def _took(item: ExecutionSnapshot) -> str:
    return render.seconds_text((item.ended_at - item.started_at).total_seconds()) if item.ended_at else ""


def _error(item: ExecutionSnapshot) -> str:
    if not item.error:
        return ""
    where = f"{item.error['step']}: " if item.error.get("step") else ""
    return render.one_line(f"{where}{item.error['message']} [{item.error['code']}]", 200)


def _state(step: StepTally) -> str:
    if step.skipped:
        return "skipped"
    if step.failed:
        return "failed"
    return "completed" if step.done else "running" if step.running else "waiting"


def _count(step: StepTally) -> str:
    return f"{len(step.ended)}/{step.total}" if step.total and step.total > 1 else ""


def _step_took(step: StepTally) -> str:
    if step.started_at is None or step.ended_at is None:
        return ""
    return render.seconds_text((step.ended_at - step.started_at).total_seconds())


def _step_member(step: StepTally) -> dict[str, Any]:
    members = {"name": step.name, "status": _state(step), "total": step.total, "ended": len(step.ended), "failed": step.failed}
    return {**members, "started_at": step.started_at, "ended_at": step.ended_at}


def _event_text(event: Event) -> str:
    """An event's own fields in one line: the step first, then what says something."""
    body = dict(event.body)
    words = [str(body.pop("step"))] if body.get("step") else []
    for name in ("tenant_id", "code_hash", "arguments_hash", "started_at", "mount_roots"):
        body.pop(name, None)
    for name, value in body.items():
        if isinstance(value, dict) and "code" in value:
            words.append(f"{value['code']}: {value['message']}")
        elif value not in (None, "", []):
            words.append(f"{name}={value}")
    return render.one_line(" ".join(words), 160)
