"""The program `agentflow` as a user has it: a cluster of its own in a home of its own, from `up` to `down`, and the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.cluster.ray_head import processes

pytestmark = [pytest.mark.ray, pytest.mark.runsc, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "repository_review"
START_TIMEOUT_S = 180


class Program:
    """Runs `agentflow` in a process, as a script would."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFLOW_URL", "AGENTFLOW_KEY"))}
        self.environment |= {"AGENTFLOW_HOME": str(home), "AGENTFLOW_DASHBOARD_PORT": "0", "AGENTFLOW_PORT": "0", "COLUMNS": "200"}

    def start(self, *words: str, module: Sequence[str] = ("agentflow.cluster.cli",)) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *module, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            # a runner in the background (nohup, CI) has SIGINT ignored, and children inherit that: nobody could press Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, *words: str, code: int = 0, **options: Any) -> str:
        """stdout of a command that must end with `code`."""
        process = self.start(*words, **options)
        try:
            output, errors = process.communicate(timeout=START_TIMEOUT_S)
        finally:
            process.kill()
        assert process.returncode == code, f"{words} ended with {process.returncode}\n{output}\n{errors}"
        assert "Traceback" not in errors
        self.errors = errors
        return output

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self(*words, "--json", **options))


@pytest.fixture(scope="module")
def agentflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """With a running cluster that has the example's agents and tools."""
    program = Program(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("folder"))
    try:
        address = program.json("up", "--app-dir", str(EXAMPLE))
        assert address["already_running"] is False
        yield program
    finally:
        program("down")
        left = processes(program.home)
        for home in (program.home, program.home / "demo"):
            EmbeddedPostgres(home).destroy()  # root's PostgreSQL lies outside the home
        assert left == []


@pytest.fixture(scope="module")
def code(agentflow: Program) -> str:
    """A small folder of code beside the program's current folder; its relative name."""
    for name, text in {"alpha/a.py": "def f(x):\n    return eval(x)\n", "beta/b.py": '"""Doc."""\n', "broken.py": "def (:\n"}.items():
        path = agentflow.folder / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return "code"


def test_a_second_up_says_that_it_runs_already(agentflow: Program) -> None:
    assert "runs already" in agentflow("up", "--app-dir", str(EXAMPLE))
    assert agentflow.json("up")["already_running"] is True


def test_up_says_what_listens_where_and_where_the_key_lies_but_never_the_key(agentflow: Program) -> None:
    shown = agentflow("up")
    assert "http://127.0.0.1:" in shown
    assert f"in {agentflow.home}/key" in shown
    assert (agentflow.home / "key").read_text().strip() not in shown
    assert "0.0.0.0" not in shown


def test_status_says_ready(agentflow: Program) -> None:
    status = agentflow.json("status")
    assert (status["ready"], status["agents"], status["tools"]) == (True, 3, 2)
    assert "ready" in agentflow("status")


def test_doctor_finds_nothing_that_fails(agentflow: Program) -> None:
    checks = agentflow.json("doctor")["checks"]
    assert [check["name"] for check in checks if check["status"] == "fail"] == []


def test_agents_and_tools_of_the_folder_are_listed(agentflow: Program) -> None:
    assert {agent["uses"] for agent in agentflow.json("agents")["agents"]} == {
        f"repository_review.agents:{name}" for name in ("Scout", "Analyst", "Reporter")
    }
    assert {tool["name"]: tool["profile"]["isolation"] for tool in agentflow.json("tools")["tools"]} == {
        "find_packages": "gvisor",
        "analyse_package": "gvisor",
    }


def test_the_example_reviews_a_relative_folder_and_the_second_review_knows_the_first(agentflow: Program, code: str) -> None:
    first = agentflow.json("run", str(EXAMPLE), "-i", f"path={code}")
    assert (first["status"], first["result"]["summary"]["review"]) == ("completed", 1)
    total = first["result"]["summary"]["total"]
    assert (total["packages"], total["risky_calls"], total["problems"]) == (3, 1, 1)
    (agentflow.folder / code / "alpha" / "a.py").write_text("x = 1\n")
    paths = agentflow("run", "repository-review", "-i", f"path={code}", "--output-dir", "out").split()
    assert paths == ["out/result.json", "out/report.md", "out/report.html"]
    assert "analyse: 3/3" in agentflow.errors
    second = json.loads((agentflow.folder / "out/result.json").read_text())
    assert (second["summary"]["review"], second["summary"]["changed"]) == (2, 1)
    assert "risky calls 1 → 0" in (agentflow.folder / "out/report.html").read_text()


def test_what_ran_is_listed_shown_and_its_events_resume(agentflow: Program, code: str) -> None:
    execution = agentflow("run", str(EXAMPLE), "-i", f"path={code}", "--no-wait").strip()
    events = [json.loads(line) for line in agentflow("executions", "events", execution, "--follow", "--json").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "execution.completed"
    later = agentflow("executions", "events", execution, "--after", str(events[-3]["seq"]), "--json").splitlines()
    assert [json.loads(line)["seq"] for line in later] == [events[-2]["seq"], events[-1]["seq"]]
    shown = agentflow.json("executions", "show", execution)
    assert {step["name"]: step["status"] for step in shown["steps"]} == dict.fromkeys(("scout", "analyse", "rank", "report"), "completed")
    assert execution in [item["id"] for item in agentflow.json("executions", "list")["executions"]]
    assert agentflow("executions", "cancel", execution, code=5) == ""


def test_a_failing_execution_ends_with_1_and_names_the_step(agentflow: Program) -> None:
    (agentflow.folder / "empty").mkdir()
    agentflow("run", str(EXAMPLE), "-i", "path=empty", code=1)
    assert "in step scout" in agentflow.errors
    assert "no Python files" in agentflow.errors


def test_bad_input_and_unknown_things_have_their_exit_codes(agentflow: Program) -> None:
    agentflow("run", str(EXAMPLE), "-i", "path=does-not-exist", code=2)
    agentflow("run", str(EXAMPLE), "-i", "colour=red", code=2)
    agentflow("run", "nothing", code=4)
    agentflow("executions", "show", "0192f0c4-0000-7000-8000-000000000001", code=4)
    agentflow("--key", "wrong", "agents", code=6)


def test_ctrl_c_detaches_and_the_execution_goes_on(agentflow: Program, code: str) -> None:
    process = agentflow.start("run", str(EXAMPLE), "-i", f"path={code}")
    assert process.stderr is not None
    execution = process.stderr.readline().split()[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"agentflow executions events {execution} --follow" in errors
    agentflow("executions", "events", execution, "--follow")
    assert agentflow.json("executions", "show", execution)["status"] == "completed"


def test_the_demo_writes_the_report_beside_a_running_cluster_and_leaves_no_process(agentflow: Program, code: str) -> None:
    output = agentflow(code, module=["agentflow.cluster.demo"])
    html = agentflow.folder / "agentflow-report" / "report.html"
    assert str(html) in output
    assert html.read_text().startswith("<!doctype html>")
    assert processes(agentflow.home / "demo") == []
    assert agentflow.json("status")["ready"] is True


def test_an_interrupted_demo_stops_its_cluster(agentflow: Program, code: str) -> None:
    process = agentflow.start(code, module=["agentflow.cluster.demo"])
    deadline = time.monotonic() + START_TIMEOUT_S
    while not processes(agentflow.home / "demo"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert processes(agentflow.home / "demo") == []


def test_down_leaves_nothing_and_then_everything_ends_with_3(tmp_path: Path) -> None:
    program = Program(tmp_path / "home", tmp_path)
    for words in (("status",), ("agents",), ("run", "anything")):
        program(*words, code=3)
        assert "agentflow up" in program.errors
    assert "no cluster was running" in program("down")
