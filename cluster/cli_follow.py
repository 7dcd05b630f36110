"""Following an execution to its end, and what is then shown and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentflow.cluster import render
from agentflow.cluster.cli_outcome import ExitCode
from agentflow.cluster.progress import Tally, progress_for

if TYPE_CHECKING:
    from agentflow.client import Execution

TEXT_FILES = {"markdown": "report.md", "html": "report.html"}
"""Members of an object result that are documents of their own, and the files that they become."""


def follow(execution: Execution, steps: Sequence[str], *, quiet: bool = False) -> Tally:
    """Show live progress on stderr until the execution ends. Ctrl-C detaches and ends the program."""
    tally = Tally(steps)
    try:
        if quiet:
            for event in execution.events():
                tally.add(event)
        else:
            # inside: who reads the id may interrupt us at once, and is to be told that it goes on
            print(f"execution {execution.id}", file=sys.stderr)
            with progress_for(tally) as progress:
                for event in execution.events():
                    progress.show(event, tally.add(event))
    except KeyboardInterrupt:
        print(f"\ndetached; the execution goes on. Follow it: agentflow executions events {execution.id} --follow", file=sys.stderr)
        print(f"Cancel it: agentflow executions cancel {execution.id}", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    return tally


def finish(execution: Execution, *, output_dir: Path | None, as_json: bool) -> ExitCode:
    """Show how an ended execution ended, write its result to `output_dir`; returns the exit code."""
    ended = execution.snapshot()
    files: list[Path] = []
    if ended.status == "completed" and output_dir is not None:
        files = write_result(ended.result, output_dir)
    if as_json:
        members: dict[str, Any] = {"id": ended.id, "workflow": ended.workflow, "version": ended.version, "status": ended.status}
        members |= {"started_at": ended.started_at, "ended_at": ended.ended_at, "error": ended.error}
        render.write_json({**members, "result": ended.result, "files": [str(path) for path in files]})
        return ExitCode.OK if ended.status == "completed" else ExitCode.FAILED
    took = render.seconds_text((ended.ended_at - ended.started_at).total_seconds()) if ended.ended_at else ""
    print(f"{ended.status} in {took}", file=sys.stderr)
    if ended.status == "completed":
        if not files:
            print(render.value_text(ended.result))
            if render.is_clipped(ended.result):
                print("long texts are cut; --output-dir DIR writes all of it, --json prints it", file=sys.stderr)
        for path in files:
            print(path)
        return ExitCode.OK
    if ended.error:
        where = f" in step {ended.error['step']}" if ended.error.get("step") else ""
        print(render.clean(f"error{where}: {ended.error['message']} [{ended.error['code']}]"), file=sys.stderr)
    print(f"look closer: agentflow executions events {ended.id}", file=sys.stderr)
    return ExitCode.FAILED


def write_result(result: Any, folder: Path) -> list[Path]:
    """Writes result.json, and the documents in an object result as files of their own; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"result.json": json.dumps(result, indent=2) + "\n"}
    if isinstance(result, dict):
        texts |= {file: result[member] for member, file in TEXT_FILES.items() if isinstance(result.get(member), str)}
    paths = []
    for name, text in texts.items():
        path = folder / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        paths.append(path)
    return paths
