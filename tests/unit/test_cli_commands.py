"""The commands that talk to a cluster, against the real HTTP application on a real port; only what lies behind it is scripted."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from agentflow.cluster.cli import app
from agentflow.codec import encode_value
from agentflow.domain import event as ev
from agentflow.domain.command import Cancel, Change, Changes, Command, Reply, Start, SupervisorStatus, WorkerStatus
from agentflow.domain.event import Event, Line
from agentflow.domain.execution import ExecutionStatus, ExecutionView
from agentflow.domain.failure import Failure
from agentflow.domain.workflow import Workflow
from agentflow.errors import Conflict
from agentflow.ports import CatalogueEntry, IdempotencyClaim, Principal, SessionState, StoredWorkflow
from agentflow.serve.app import build_app
from agentflow.serve.services import Services

KEY, VIEWER_KEY = "the-key", "the-viewers-key"
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
WORKFLOW = """\
apiVersion: agentflow/v1
name: greeting
version: "{version}"
description: {description}
input:
  type: object
  additionalProperties: false
  required: [name]
  properties:
    name: {{type: string}}
    times: {{type: integer}}
    folder: {{type: string, format: folder}}
agents:
  greeter: {{uses: "my_package.agents:Greeter"}}
steps:
  - name: greet
    agent: greeter
  - name: each
    dependsOn: [greet]
    tool: "my_package.tools:shout"
    map: "${{ steps.greet.output }}"
output: "${{ steps.each.output }}"
"""


def completed(value: Any) -> list[Event]:
    """What happens in an execution that goes well: one step, then a map step of two items of which one is tried twice."""
    return [
        ev.StepScheduled("greet", 1),
        ev.StepCompleted("greet", 1, AT, encode_value(["a", "b"])),
        ev.StepExpanded("each", 2),
        ev.StepScheduled("each[0]", 1),
        ev.StepScheduled("each[1]", 1),
        ev.StepFailed("each[0]", 1, Failure("sandbox_lost", "the sandbox is gone\x1b[31m"), AT),
        ev.StepScheduled("each[0]", 2),
        ev.StepCompleted("each[1]", 1, AT, b'"B"'),
        ev.StepCompleted("each[0]", 2, AT, b'"A"'),
        ev.ExecutionCompleted(encode_value(value)),
    ]


def failed() -> list[Event]:
    failure = Failure("value_error", "no such name")
    return [ev.StepScheduled("greet", 1), ev.StepFailed("greet", 1, failure), ev.ExecutionFailed(failure, "greet")]


class Behind:
    """Supervisor and stores in memory. A started execution gets the events of `script` at once; all ports in one object."""

    def __init__(self) -> None:
        self.script: list[Event] = completed("hello")
        self.started: list[Start] = []
        self.journals: dict[str, list[Line]] = {}
        self.views: dict[str, ExecutionView] = {}
        self.stored: dict[tuple[str, str], StoredWorkflow] = {}
        self.claims: dict[str, IdempotencyClaim] = {}
        self.entries: list[CatalogueEntry] = []

    # supervisor

    async def submit(self, commands: Sequence[Command]) -> Sequence[Reply]:
        return [self._start(command) if isinstance(command, Start) else self._cancel(command) for command in commands]

    def _start(self, command: Start) -> Reply:
        if command.execution_id not in self.views:
            self.started.append(command)
            first = ev.ExecutionStarted(
                command.tenant_id, command.workflow, command.version, command.code_hash, command.principal, command.input
            )
            events = [first, *self.script]
            self.journals[command.execution_id] = [Line(seq, AT + timedelta(seconds=seq), event) for seq, event in enumerate(events, 1)]
            view = ExecutionView(
                command.execution_id, command.tenant_id, command.workflow, command.version, ExecutionStatus.RUNNING, AT, input=command.input
            )
            self.views[command.execution_id] = _ended(view, events[-1])
        return Reply(command.execution_id, status=self.views[command.execution_id].status)

    def _cancel(self, command: Cancel) -> Reply:
        view = self.views.get(command.execution_id)
        if view is None:
            return Reply(command.execution_id, error_code="not_found", message=f"There is no execution {command.execution_id}.")
        if view.status.ended and view.status is not ExecutionStatus.CANCELLED:
            return Reply(command.execution_id, status=view.status, error_code="conflict", message=f"It has {view.status} already.")
        journal = self.journals[command.execution_id]
        line = Line(len(journal) + 1, AT, ev.ExecutionCancelled(command.principal, command.reason))
        journal.append(line)
        self.views[command.execution_id] = _ended(view, line.event)
        return Reply(command.execution_id, status="cancelled")

    async def changes(self, cursor: str, wait_s: float) -> Changes:
        await asyncio.sleep(min(wait_s, 0.02))
        return Changes("1", tuple(Change(key, len(lines), self.views[key].status) for key, lines in self.journals.items()))

    async def status(self) -> SupervisorStatus:
        worker = WorkerStatus("agentflow:agent:0:1", "agent", "default", "my_package.agents:Greeter", "hash", "ready", 2, 0, AT)
        return SupervisorStatus("0", "running", (0,), 0, 0, (worker,))

    async def metrics(self) -> bytes:
        return b""

    # stores

    async def get(self, tenant_id: str, name: str, version: str | None = None) -> Any:
        if version is None and name in self.views:
            return self.views[name]
        found = [stored for (stored_name, number), stored in self.stored.items() if stored_name == name and version in (None, number)]
        return found[-1] if found else None

    async def events(self, tenant_id: str, execution_id: str, *, after: int = 0, limit: int = 500, max_bytes: int = 0) -> Sequence[Line]:
        return [line for line in self.journals.get(execution_id, []) if line.seq > after][: min(limit, 4)]

    async def put(self, tenant_id: str, workflow: Workflow, principal: str) -> bool:
        key = (workflow.name, workflow.version)
        if key in self.stored and self.stored[key].source != workflow.source:
            raise Conflict(f"Workflow {workflow.name} {workflow.version} is stored with another source.")
        self.stored[key] = StoredWorkflow(*key, workflow.source, AT, principal)
        return True

    async def versions(self, tenant_id: str, name: str) -> Sequence[StoredWorkflow]:
        return [stored for stored in self.stored.values() if stored.name == name]

    async def claim(self, tenant_id: str, operation: str, key: str, body_hash: str, execution_id: str) -> IdempotencyClaim:
        fresh = IdempotencyClaim(execution_id, body_hash, True)
        held = self.claims.setdefault(key, fresh)
        return held if held is fresh else IdempotencyClaim(held.execution_id, held.body_hash, False)

    async def load_session(self, tenant_id: str, agent: str, session_id: str) -> SessionState:
        return SessionState(0, b"{}")

    async def find(self, key: str) -> Principal | None:
        roles = {KEY: "admin", VIEWER_KEY: "viewer"}
        return Principal("me", "default", roles[key], any_mount=True) if key in roles else None


class Executions:
    """`list` of the executions; the other reads are Behind's own."""

    def __init__(self, behind: Behind) -> None:
        self.get, self.events, self._behind = behind.get, behind.events, behind

    async def list(self, tenant_id: str, **wanted: Any) -> Sequence[ExecutionView]:
        views = [view for view in reversed(self._behind.views.values()) if wanted.get("status") in (None, view.status)]
        start = [view.execution_id for view in views].index(wanted["before"]) + 1 if wanted.get("before") else 0
        return views[start : start + wanted.get("limit", 50)]


class Workflows:
    def __init__(self, behind: Behind) -> None:
        self.get, self.put, self.versions, self._behind = behind.get, behind.put, behind.versions, behind

    async def list(self, tenant_id: str, *, after: str = "", limit: int = 50) -> Sequence[StoredWorkflow]:
        latest = {stored.name: stored for stored in self._behind.stored.values()}
        return [latest[name] for name in sorted(latest) if name > after][:limit]


class Catalogue:
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    async def list(self, tenant_id: str, kind: str) -> Sequence[CatalogueEntry]:
        return [entry for entry in self._behind.entries if entry.kind == kind]

    async def replace(self, tenant_id: str, entries: Sequence[CatalogueEntry]) -> None:
        raise NotImplementedError


def _ended(view: ExecutionView, last: Event) -> ExecutionView:
    from dataclasses import replace

    match last:
        case ev.ExecutionCompleted():
            return replace(view, status=ExecutionStatus.COMPLETED, ended_at=AT + timedelta(seconds=12), result=last.value)
        case ev.ExecutionFailed():
            return replace(
                view, status=ExecutionStatus.FAILED, ended_at=AT + timedelta(seconds=3), failure=last.failure, failed_step=last.step
            )
        case ev.ExecutionCancelled():
            return replace(view, status=ExecutionStatus.CANCELLED, ended_at=AT + timedelta(seconds=1))
    return view


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def url(behind: Behind) -> Iterator[str]:
    services: Any = Services(behind, Executions(behind), Workflows(behind), Catalogue(behind), behind, behind, behind)  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(build_app(services), port=0, log_level="error", timeout_graceful_shutdown=2))
    started = threading.Event()
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]

    async def serve() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        started.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Shell:
    """Runs command lines as a user would type them, with this cluster in the environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def __call__(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=stdin, env=self.environment, prog_name="agentflow")

    def json(self, *words: str) -> Any:
        result = self(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def agentflow(url: str, tmp_path: Path) -> Shell:
    return Shell({"AGENTFLOW_URL": url, "AGENTFLOW_KEY": KEY, "AGENTFLOW_HOME": str(tmp_path / "home"), "COLUMNS": "200", "TZ": "UTC"})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "greeting.yaml"
    path.write_text(WORKFLOW.format(version="1", description="Greets."))
    return str(path)


# ---------------------------------------------------------------------------------------------------- run


def test_a_file_is_stored_and_run_with_progress_and_result(agentflow: Shell, behind: Behind, file: str) -> None:
    result = agentflow("run", file, "-i", "name=Ada", "-i", "times=2")
    assert result.exit_code == 0, result.output
    assert result.stdout == "hello\n"
    assert behind.started[0].input == b'{"name":"Ada","times":2}'
    lines = [line[9:] for line in result.stderr.splitlines()]
    assert "greet: started" in lines
    assert "each: 2 items" in lines
    assert "each: 1/2" in lines
    assert "each[0] attempt 1: sandbox_lost: the sandbox is gone\\x1b[31m" in lines
    assert any(line.startswith("each: 2/2 in ") for line in lines)
    assert "\x1b" not in result.output


def test_a_stored_workflow_is_run_by_its_name_and_version(agentflow: Shell, behind: Behind, file: str, tmp_path: Path) -> None:
    agentflow("run", file, "-i", "name=Ada", "--no-wait")
    (tmp_path / "second.yaml").write_text(WORKFLOW.format(version="2", description="Greets again."))
    agentflow("run", str(tmp_path / "second.yaml"), "-i", "name=Ada", "--no-wait")
    assert agentflow("run", "greeting", "-i", "name=Bea").exit_code == 0
    assert agentflow("run", "greeting", "-i", "name=Bea", "--version", "1").exit_code == 0
    assert [start.version for start in behind.started] == ["1", "2", "2", "1"]


def test_no_wait_prints_the_id_alone_on_stdout(agentflow: Shell, behind: Behind, file: str) -> None:
    result = agentflow("run", file, "-i", "name=Ada", "--no-wait")
    assert result.exit_code == 0
    assert result.stdout == f"{behind.started[0].execution_id}\n"


def test_json_gives_the_whole_result_and_nothing_else_on_stdout(agentflow: Shell, behind: Behind, file: str) -> None:
    behind.script = completed({"text": "x" * 5000})
    result = agentflow("run", file, "-i", "name=Ada", "--json")
    document = json.loads(result.stdout)
    assert (document["status"], document["result"]) == ("completed", {"text": "x" * 5000})


def test_long_texts_of_a_result_are_cut_on_a_terminal_and_said_to_be(agentflow: Shell, behind: Behind, file: str) -> None:
    behind.script = completed({"html": "<p>" * 5000, "title": "short"})
    result = agentflow("run", file, "-i", "name=Ada")
    assert "(15,000 characters)" in result.stdout
    assert "--output-dir" in result.stderr


def test_documents_in_the_result_become_files(agentflow: Shell, behind: Behind, file: str, tmp_path: Path) -> None:
    behind.script = completed({"markdown": "# Hé", "html": "<p>\udcff</p>", "summary": 1})
    result = agentflow("run", file, "-i", "name=Ada", "--output-dir", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/report.md").read_text() == "# Hé"
    assert (tmp_path / "out/report.html").read_text() == "<p>\\udcff</p>"
    assert json.loads((tmp_path / "out/result.json").read_text())["summary"] == 1
    assert result.stdout.split() == [str(tmp_path / "out" / name) for name in ("result.json", "report.md", "report.html")]


def test_a_failed_execution_ends_with_1_and_says_where(agentflow: Shell, behind: Behind, file: str) -> None:
    behind.script = failed()
    result = agentflow("run", file, "-i", "name=Ada")
    assert result.exit_code == 1
    assert "error in step greet: no such name [value_error]" in result.stderr
    assert result.stdout == ""


def test_the_same_key_starts_once_and_another_input_under_it_is_a_conflict(agentflow: Shell, behind: Behind, file: str) -> None:
    words = ("run", file, "--idempotency-key", "k", "--no-wait", "-i")
    assert agentflow(*words, "name=Ada").stdout == agentflow(*words, "name=Ada").stdout
    assert len(behind.started) == 1
    refused = agentflow(*words, "name=Bea")
    assert refused.exit_code == 5
    assert "[idempotency_conflict]" in refused.stderr


def test_a_version_with_another_text_is_a_conflict_with_advice(agentflow: Shell, file: str) -> None:
    agentflow("run", file, "-i", "name=Ada", "--no-wait")
    Path(file).write_text(WORKFLOW.format(version="1", description="Changed."))
    result = agentflow("run", file, "-i", "name=Ada")
    assert result.exit_code == 5
    assert "raise `version`" in result.stderr


def test_an_input_that_does_not_fit_is_refused_before_anything_is_stored(agentflow: Shell, behind: Behind, file: str) -> None:
    result = agentflow("run", file, "--input", '{"times": "two", "nmae": 1}')
    assert result.exit_code == 2
    assert "input/times:" in result.stderr
    assert "'name' is a required property" in result.stderr
    assert "[input_invalid]" in result.stderr
    assert (behind.stored, behind.started) == ({}, [])


def test_the_input_may_come_from_a_file_or_stdin(agentflow: Shell, behind: Behind, file: str, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"name": "file"}')
    assert agentflow("run", file, "--input", f"@{tmp_path / 'input.json'}", "-i", "times=3").exit_code == 0
    assert agentflow("run", file, "--input", "@-", stdin='{"name": "stdin"}').exit_code == 0
    assert [json.loads(start.input) for start in behind.started] == [{"name": "file", "times": 3}, {"name": "stdin"}]


def test_an_invalid_file_shows_every_place_and_runs_nothing(agentflow: Shell, behind: Behind, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("apiVersion: agentflow/v1\nname: x\ncolour: red\nsteps:\n  - name: a\n    agent: nobody\n")
    result = agentflow("run", str(path))
    assert result.exit_code == 2
    assert f"{path}:3:1:" in result.stderr
    assert f"{path}:6:12:" in result.stderr
    assert behind.stored == {}


def test_an_unknown_workflow_is_not_found(agentflow: Shell) -> None:
    result = agentflow("run", "nothing")
    assert result.exit_code == 4
    assert "[not_found]" in result.stderr
    assert "Traceback" not in result.output


# ---------------------------------------------------------------------------------------------------- who and where


def test_a_wrong_key_a_missing_one_and_a_viewers_end_with_6(agentflow: Shell, file: str) -> None:
    for key, code in (("wrong", "unauthenticated"), ("", "unauthenticated"), (VIEWER_KEY, "forbidden")):
        agentflow.environment["AGENTFLOW_KEY"] = key
        result = agentflow("run", file, "-i", "name=Ada")
        assert (result.exit_code, f"[{code}]" in result.stderr) == (6, True), result.output


def test_url_and_key_may_stand_on_the_command_line(agentflow: Shell, url: str) -> None:
    agentflow.environment |= {"AGENTFLOW_URL": "http://127.0.0.1:1", "AGENTFLOW_KEY": "wrong"}
    assert agentflow("--url", url, "--key", KEY, "agents").exit_code == 0


def test_no_cluster_ends_with_3_and_says_how_to_start_one(agentflow: Shell) -> None:
    agentflow.environment["AGENTFLOW_URL"] = "http://127.0.0.1:1"
    unreachable = agentflow("agents")
    agentflow.environment["AGENTFLOW_URL"] = ""
    none_named = agentflow("agents")
    for result in (unreachable, none_named):
        assert result.exit_code == 3, result.output
        assert "agentflow up" in result.stderr
        assert "[cluster_down]" in result.stderr
        assert "Traceback" not in result.output


def test_a_bug_is_one_line_with_70_and_a_traceback_only_with_debug(agentflow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("agentflow.client.flow.Flow.agents", broken)
    quiet, loud = agentflow("agents"), agentflow("--debug", "agents")
    assert (quiet.exit_code, loud.exit_code) == (70, 70)
    assert "error: KeyError: 'surprise' [internal]" in quiet.stderr
    assert "Traceback" not in quiet.output
    assert "Traceback" in loud.stderr


# ---------------------------------------------------------------------------------------------------- executions, agents, tools


def started(agentflow: Shell, behind: Behind, file: str, script: list[Event]) -> str:
    behind.script = script
    agentflow("run", file, "-i", "name=Ada", "--no-wait")
    return behind.started[-1].execution_id


def test_executions_are_listed_newest_first(agentflow: Shell, behind: Behind, file: str) -> None:
    ids = [started(agentflow, behind, file, script) for script in (failed(), completed(1), completed(2))]
    assert [item["id"] for item in agentflow.json("executions", "list")["executions"]] == ids[::-1]
    assert [item["id"] for item in agentflow.json("executions", "list", "--limit", "1")["executions"]] == ids[2:]
    table = agentflow("executions", "list", "--status", "failed").stdout.splitlines()
    assert table[0].split() == ["ID", "WORKFLOW", "STATUS", "STARTED", "TOOK", "ERROR"]
    assert len(table) == 2
    assert table[1].endswith("greet: no such name [value_error]")


def test_an_execution_is_shown_with_its_steps(agentflow: Shell, behind: Behind, file: str) -> None:
    execution = started(agentflow, behind, file, completed("hello"))
    document = agentflow.json("executions", "show", execution)
    assert (document["status"], document["input"], document["result"]) == ("completed", {"name": "Ada"}, "hello")
    assert [(step["name"], step["status"], step["total"]) for step in document["steps"]] == [
        ("greet", "completed", 1),
        ("each", "completed", 2),
    ]
    text = agentflow("executions", "show", execution).stdout
    assert "took      12 s" in text
    assert "each   completed  2/2" in text


def test_a_running_execution_is_shown_as_far_as_it_is(agentflow: Shell, behind: Behind, file: str) -> None:
    execution = started(agentflow, behind, file, completed("x")[:5])
    document = agentflow.json("executions", "show", execution)
    assert [(step["name"], step["status"], step["ended"]) for step in document["steps"]] == [
        ("greet", "completed", 1),
        ("each", "running", 0),
    ]


def test_events_are_one_line_each_and_resume_by_seq(agentflow: Shell, behind: Behind, file: str) -> None:
    execution = started(agentflow, behind, file, completed("hello"))
    lines = agentflow("executions", "events", execution).stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, 12))
    assert lines[6].endswith(
        "step.failed         each[0] attempt=1 sandbox_lost: the sandbox is gone\\x1b[31m retry_at=2026-11-21T12:00:00.000000Z"
    )
    followed = agentflow("executions", "events", execution, "--follow", "--after", "9", "--json")
    assert [json.loads(line)["kind"] for line in followed.stdout.splitlines()] == ["step.completed", "execution.completed"]


def test_a_cancelled_execution_stays_cancelled_and_an_ended_one_is_a_conflict(agentflow: Shell, behind: Behind, file: str) -> None:
    running = started(agentflow, behind, file, completed("x")[:3])
    assert agentflow.json("executions", "cancel", running, "--reason", "enough")["status"] == "cancelled"
    done = started(agentflow, behind, file, completed("x"))
    result = agentflow("executions", "cancel", done)
    assert (result.exit_code, "[conflict]" in result.stderr) == (5, True)


@pytest.mark.parametrize("words", [("show",), ("events",), ("events", "--follow"), ("cancel",)])
def test_an_execution_that_is_not_there_ends_with_4(agentflow: Shell, words: tuple[str, ...]) -> None:
    result = agentflow("executions", words[0], "0192f0c4-0000-7000-8000-000000000001", *words[1:])
    assert result.exit_code == 4, result.output


def test_agents_and_tools_are_listed_with_where_they_run(agentflow: Shell, behind: Behind) -> None:
    behind.entries = [
        CatalogueEntry("agent", "greeter", "my_package.agents:Greeter", "Greets.", None, "hash"),
        CatalogueEntry(
            "tool", "shout", "my_package.tools:shout", "Shouts.", {}, "hash", {"isolation": "gvisor", "wall_s": 10, "memory_bytes": 1 << 28}
        ),
    ]
    assert agentflow("agents").stdout.splitlines()[1].split()[:3] == ["greeter", "my_package.agents:Greeter", "agentflow:agent:0:1"]
    assert agentflow("tools").stdout.splitlines()[1].split() == [
        "shout",
        "my_package.tools:shout",
        "gvisor",
        "10",
        "s,",
        "256",
        "MiB",
        "Shouts.",
    ]
    assert agentflow.json("tools")["tools"][0]["profile"]["wall_s"] == 10
    assert agentflow.json("agents")["agents"][0]["uses"] == "my_package.agents:Greeter"


def test_stored_workflows_are_listed(agentflow: Shell, behind: Behind, file: str) -> None:
    started(agentflow, behind, file, failed())
    assert [item["name"] for item in agentflow.json("workflows")["workflows"]] == ["greeting"]
