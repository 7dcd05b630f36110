"""`kill -9` of every kind of process while the example runs: it ends with the right report, and no finished step runs again."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import agentflow
from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.client import Event
from agentflow.cluster.ray_head import processes

pytestmark = [pytest.mark.ray, pytest.mark.runsc, pytest.mark.chaos, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "repository_review" / "workflow.yaml"
PACKAGES = 8
TITLES = {
    "supervisor": ("ray::SupervisorActor",),
    "agent": ("ray::AgentActor",),
    "tool actor": ("ray::ToolActor",),
    "replica": ("ray::SERVE_REPLICA", "ray::ServeReplica:agentflow"),
}


@pytest.fixture(scope="module")
def flow(cluster) -> Iterator[agentflow.Flow]:
    with agentflow.connect(cluster.url, cluster.key) as connected:
        yield connected


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with some packages to review."""
    for n in range(PACKAGES):
        package = tmp_path / "code" / f"package_{n}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'"""Package {n}."""\n# TODO: more\ndef f(x):\n    return eval(x)\n')
    return tmp_path / "code"


def pids(cluster, what: str) -> list[int]:
    found = []
    for process in processes(cluster.settings.home):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line and line[0].startswith(TITLES[what]):
            found.append(process.pid)
    return found


def kill(cluster, what: str) -> int:
    """SIGKILL to all of that kind; how many there were."""
    found = pids(cluster, what)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def no_step_ran_again(events: list[Event]) -> None:
    """From the journal alone: each step completed once, and nothing of it was scheduled after that."""
    completed = Counter(event.body["step"] for event in events if event.kind == "step.completed")
    assert set(completed.values()) == {1}, completed
    seen: set[str] = set()
    for event in events:
        step = event.body.get("step")
        if event.kind == "step.completed":
            seen.add(step)
        elif event.kind in ("step.scheduled", "step.crashed", "step.failed"):
            assert step not in seen, f"{step} was {event.kind} after it had completed (line {event.seq})"
    effects = Counter((event.body["step"], event.body["path"]) for event in events if event.kind == "effect.recorded")
    assert set(effects.values()) <= {1}, effects
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


def review(flow: agentflow.Flow, code: Path) -> agentflow.Execution:
    return flow.run(EXAMPLE, input={"path": str(code)})


def assert_right(execution: agentflow.Execution) -> list[Event]:
    result = execution.result(timeout=150)
    assert result["summary"]["total"]["packages"] == PACKAGES
    assert all(f"package_{n}" in result["markdown"] for n in range(PACKAGES))
    events = list(execution.events())
    no_step_ran_again(events)
    assert sum(event.kind == "step.completed" and event.body["step"].startswith("analyse[") for event in events) == PACKAGES
    return events


@pytest.mark.parametrize("victim", ["supervisor", "agent", "tool actor", "replica"])
def test_the_example_survives_the_death_of(victim, flow, cluster, code):
    execution = review(flow, code)
    killed = 0
    for event in execution.events():
        if victim == "agent":
            wanted = event.kind == "step.scheduled" and event.body["step"] == "scout"
        else:
            wanted = event.kind == "step.completed" and event.body["step"].startswith("analyse[")
        if wanted and not killed:
            killed = kill(cluster, victim)
    assert killed >= 1
    assert_right(execution)


def test_the_example_survives_all_of_them_again_and_again(flow, cluster, code):
    execution = review(flow, code)
    stop = threading.Event()
    kills: Counter[str] = Counter()

    def havoc() -> None:
        # no agent here: three deaths under one step would rightly make it poison
        for victim in ("tool actor", "supervisor", "replica", "tool actor", "supervisor"):
            kills[victim] += kill(cluster, victim)
            if stop.wait(3):
                return

    thread = threading.Thread(target=havoc)
    thread.start()
    try:
        assert_right(execution)
    finally:
        stop.set()
        thread.join()
    assert kills["supervisor"] >= 1 and kills["tool actor"] >= 1


def marking(name: str) -> agentflow.Workflow:
    return agentflow.Workflow(
        f"apiVersion: agentflow/v1\nname: {name}\nagents: {{marks: {{uses: 'trials.agents:Marks'}}}}\n"
        "steps:\n  - {name: a, agent: marks, input: '${ input }'}\n  - {name: b, agent: marks, dependsOn: [a], input: '${ input }'}\n"
    )


def log_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_running_step_is_adopted_by_a_restarted_supervisor_and_not_run_again(flow, cluster, tmp_path, wait_until):
    log, gate = tmp_path / "log", tmp_path / "gate"
    execution = flow.run(marking("marking"), input={"log": str(log), "gate": str(gate)})
    wait_until(lambda: len(log_of(log)) == 1, "the step begins")
    before = pids(cluster, "supervisor")
    kill(cluster, "supervisor")
    wait_until(lambda: pids(cluster, "supervisor") not in ([], before), "Ray starts the supervisor again")
    gate.touch()
    execution.result(timeout=90)
    assert [line.split()[:2] for line in log_of(log)] == [["a", "1"], ["b", "1"]]


def test_a_killed_agents_step_runs_again_as_the_same_attempt(flow, cluster, tmp_path, wait_until):
    log, gate = tmp_path / "log", tmp_path / "gate"
    execution = flow.run(marking("marking"), input={"log": str(log), "gate": str(gate)})
    wait_until(lambda: len(log_of(log)) == 1, "the step begins")
    os.kill(int(log_of(log)[0].split()[2]), signal.SIGKILL)
    wait_until(lambda: len(log_of(log)) == 2, "the step begins again")
    gate.touch()
    execution.result(timeout=90)
    first, second, third = (line.split() for line in log_of(log))
    assert first[:2] == second[:2] == ["a", "1"] and first[2] != second[2]
    assert third[:2] == ["b", "1"]
    assert [event.body["crashes"] for event in execution.events() if event.kind == "step.crashed"] == [1]


def test_a_recorded_effect_does_not_run_again_when_its_agent_is_killed(flow, cluster, tmp_path, wait_until):
    log, gate = tmp_path / "log", tmp_path / "gate"
    text = (
        "apiVersion: agentflow/v1\nname: two-effects\nagents: {two: {uses: 'trials.agents:TwoEffects'}}\n"
        "steps:\n  - {name: a, agent: two, input: '${ input }'}\n"
    )
    execution = flow.run(agentflow.Workflow(text), input={"value": 5, "log": str(log), "gate": str(gate)})
    wait_until(lambda: len(log_of(log)) == 1, "the step begins")
    os.kill(int(log_of(log)[0].split()[1]), signal.SIGKILL)
    wait_until(lambda: len(log_of(log)) == 2, "the step begins again")
    gate.touch()
    assert execution.result(timeout=90) == 20
    effects = [event for event in execution.events() if event.kind == "effect.recorded"]
    assert [(event.body["path"], event.value) for event in effects] == [("0", 10), ("1", 20)]


def test_executions_wait_for_a_killed_postgres_and_go_on(flow, cluster, tmp_path, wait_until):
    log, gate = tmp_path / "log", tmp_path / "gate"
    execution = flow.run(marking("marking"), input={"log": str(log), "gate": str(gate)})
    wait_until(lambda: len(log_of(log)) == 1, "the step begins")
    server = EmbeddedPostgres(cluster.settings.home)
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gate.touch()  # the step ends while there is nothing to write it to
    wait_until(lambda: server.pid not in (None, pid), "PostgreSQL is started again")
    execution.result(timeout=90)
    assert [line.split()[:2] for line in log_of(log)] == [["a", "1"], ["b", "1"]]
    no_step_ran_again(list(execution.events()))
