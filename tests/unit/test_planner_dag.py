"""The DAG planner: what it decides, that it decides each thing once, and that it forgets nothing when its memory is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.domain import event as ev
from agentflow.domain.event import Event, Line
from agentflow.domain.failure import Failure
from agentflow.domain.state import ExecutionState
from agentflow.domain.workflow import Workflow
from agentflow.engine.definition import ExpressionError, load_workflow
from agentflow.engine.evolve import evolve, replay
from agentflow.engine.planners import DagPlanner
from agentflow.engine.planners.dag import MAX_MAP_ITEMS
from agentflow.ports import Decision, PlanComplete, PlanExpand, PlanFail, PlanSkip, PlanStep, PlanWait

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HEAD = "apiVersion: agentflow/v1\nname: x\n"


def workflow(*steps: dict[str, Any], **top: Any) -> Workflow:
    """A workflow of tool steps; JSON is YAML."""
    agents = {"g": {"uses": "m:G"}}
    whole = {"apiVersion": "agentflow/v1", "name": "x", "agents": agents, "steps": [{"tool": "m:f"} | step for step in steps], **top}
    for step in whole["steps"]:
        if "agent" in step:
            del step["tool"]
    return load_workflow(json.dumps(whole))


class Driver:
    """An engine in a few lines: folds the planner's decisions, runs steps with `work`, and checks the contract on the way."""

    def __init__(self, definition: Workflow, value: Any = None, *, work: Callable[[str, Any], Any] | None = None) -> None:
        self.workflow = definition
        self.planner = DagPlanner(definition)
        self.work = work or (lambda key, value: key)
        self.journal: list[Line] = []
        self.state = ExecutionState("e-1")
        self.in_flight: list[str] = []
        self.backlog: list[PlanStep] = []
        self.answers: list[str] = []
        self.inputs: dict[str, Any] = {}
        self.failure: PlanFail | None = None
        self.record(ev.ExecutionStarted("t", definition.name, definition.version, "", "", json.dumps(value).encode()))

    def record(self, event: Event) -> None:
        line = Line(self.state.seq + 1, NOW, event)
        self.journal.append(line)
        evolve(self.state, line)

    def plan(self) -> None:
        """Ask until there is nothing to do, as ports.Planner wants it."""
        while not self.state.status.ended:
            decisions = self.planner.next(self.state)
            for decision in decisions:
                self.fold(decision)
            if all(isinstance(decision, (PlanStep, PlanWait)) for decision in decisions):
                return

    def fold(self, decision: Decision) -> None:
        if isinstance(decision, PlanStep):
            self.check_dependencies(decision.name)
            self.answers.append(decision.key)
            self.backlog.append(decision)
        elif isinstance(decision, PlanExpand):
            self.check_dependencies(decision.name)
            self.answers.append(f"expand {decision.name}")
            self.record(ev.StepExpanded(decision.name, decision.count))
        elif isinstance(decision, PlanSkip):
            self.check_dependencies(decision.name)
            self.answers.append(f"skip {decision.name}")
            self.record(ev.StepSkipped(decision.name))
        elif isinstance(decision, PlanComplete):
            assert set(self.state.settled) >= {step.name for step in self.workflow.steps}
            self.record(ev.ExecutionCompleted(decision.value))
        elif isinstance(decision, PlanFail):
            self.failure = decision
            self.record(ev.ExecutionFailed(Failure.of(decision.code, decision.message), decision.step))

    def check_dependencies(self, name: str) -> None:
        for dependency in self.workflow.step(name).depends_on:
            assert dependency in self.state.settled, f"{name} came before {dependency}"

    def schedule(self, count: int) -> None:
        for step in self.backlog[:count]:
            self.inputs[step.key] = json.loads(self.planner.input_of(self.state, step))
            self.record(ev.StepScheduled(step.key, 1))
            self.in_flight.append(step.key)
        del self.backlog[:count]

    def finish(self, key: str) -> None:
        self.in_flight.remove(key)
        value = json.dumps(self.work(key, self.inputs[key])).encode()
        self.record(ev.StepCompleted(key, 1, NOW, value))

    def take_over(self) -> None:
        """Another supervisor reads the journal; what was answered but not recorded is lost, and must be answered again."""
        lost = {step.key for step in self.backlog}
        self.answers = [answer for answer in self.answers if answer not in lost]
        self.backlog.clear()
        self.planner = DagPlanner(self.workflow)
        self.state = replay("e-1", self.journal)

    def run(self) -> Any:
        """To the end, one step after the other; the result."""
        self.plan()
        while not self.state.status.ended:
            self.schedule(1_000_000)
            assert self.in_flight, "the planner stopped before the end"
            self.finish(self.in_flight[0])
            self.plan()
        return None if self.state.result is None else json.loads(self.state.result)


def test_a_chain_runs_in_order_and_passes_outputs_on() -> None:
    driver = Driver(
        workflow(
            {"name": "a", "input": {"from": "${ input.x }"}},
            {"name": "b", "input": {"from": "${ steps.a.output }"}},
            {"name": "c", "input": {"from": "got ${ steps.b.output } in ${ execution.workflow } ${ execution.id }"}},
        ),
        {"x": 7},
    )
    assert driver.run() == "c"
    assert driver.answers == ["a", "b", "c"]
    assert driver.inputs == {"a": {"from": 7}, "b": {"from": "a"}, "c": {"from": "got b in x e-1"}}


def test_a_step_without_input_gets_an_empty_object() -> None:
    driver = Driver(workflow({"name": "a"}))
    driver.run()
    assert driver.inputs == {"a": {}}


def test_the_result_is_an_object_when_nobody_waits_for_several_steps() -> None:
    assert Driver(workflow({"name": "a"}, {"name": "b-1", "dependsOn": ["a"]}, {"name": "c", "dependsOn": ["a"]})).run() == {
        "b-1": "b-1",
        "c": "c",
    }


def test_the_result_is_what_output_says() -> None:
    definition = workflow(
        {"name": "a"}, {"name": "b"}, output={"first": "${ steps.a.output }", "n": "${ input.n }", "s": "${ steps.b.status }"}
    )
    assert Driver(definition, {"n": 1}).run() == {"first": "a", "n": 1, "s": "completed"}


def test_a_skipped_step_counts_as_satisfied_and_its_output_is_null() -> None:
    driver = Driver(
        workflow(
            {"name": "a", "when": "${ input.go }"},
            {"name": "m", "map": "${ `[1]` }", "when": "${ `false` }"},
            {
                "name": "b",
                "input": {
                    "a": "${ steps.a.output }",
                    "s": "${ steps.a.status }",
                    "m": "${ steps.m.output }",
                    "x": "${ steps.a.output.x || 'none' }",
                },
            },
        ),
        {"go": False},
    )
    driver.run()
    assert driver.answers == ["skip a", "skip m", "b"]
    assert driver.inputs["b"] == {"a": None, "s": "skipped", "m": None, "x": "none"}


def test_a_workflow_that_is_skipped_whole_completes() -> None:
    chain = [{"name": f"s{i}", "when": "${ `false` }", **({"dependsOn": [f"s{i - 1}"]} if i else {})} for i in range(5)]
    assert Driver(workflow(*chain)).run() is None


@pytest.mark.parametrize(
    ("value", "runs"),
    [(True, True), (0, True), ("x", True), ([0], True), (False, False), (None, False), ("", False), ([], False), ({}, False)],
)
def test_when_is_true_as_jmespath_has_it(value: Any, runs: bool) -> None:
    driver = Driver(workflow({"name": "a", "when": "${ input.v }"}), {"v": value})
    driver.run()
    assert driver.answers == (["a"] if runs else ["skip a"])


def test_a_map_step_runs_once_for_each_item_and_gives_their_outputs_in_order() -> None:
    driver = Driver(
        workflow(
            {"name": "m", "map": "${ input.items }", "input": {"v": "${ item.v }", "i": "${ index }", "all": "${ length(input.items) }"}},
            {"name": "join", "input": {"whole": "${ steps.m.output }", "last": "${ steps.m.output[-1].got }", "s": "${ steps.m.status }"}},
        ),
        {"items": [{"v": 10}, {"v": 20}, {"v": 30}]},
        work=lambda key, value: {"got": value.get("v")} if key != "join" else value["whole"],
    )
    driver.plan()
    driver.schedule(9)
    assert driver.in_flight == ["m[0]", "m[1]", "m[2]"]
    for key in ("m[2]", "m[0]", "m[1]"):
        driver.finish(key)
        driver.plan()
    assert driver.run() == [{"got": 10}, {"got": 20}, {"got": 30}]
    assert driver.inputs["m[1]"] == {"v": 20, "i": 1, "all": 3}
    assert driver.inputs["join"] == {"whole": [{"got": 10}, {"got": 20}, {"got": 30}], "last": 30, "s": "completed"}


def test_an_empty_map_is_settled_at_once_with_an_empty_list() -> None:
    driver = Driver(workflow({"name": "m", "map": "${ input }"}, {"name": "b", "input": {"m": "${ steps.m.output }"}}), [])
    driver.run()
    assert driver.answers == ["expand m", "b"]
    assert driver.inputs["b"] == {"m": []}


@pytest.mark.parametrize(
    ("value", "code"),
    [(None, "map_not_list"), ({"a": 1}, "map_not_list"), ("ab", "map_not_list"), ([0] * (MAX_MAP_ITEMS + 1), "map_too_long")],
)
def test_what_cannot_be_mapped_fails_the_execution(value: Any, code: str) -> None:
    driver = Driver(workflow({"name": "m", "map": "${ input.v }"}), {"v": value})
    driver.run()
    assert driver.failure is not None
    assert (driver.failure.code, driver.failure.step) == (code, "m")


@pytest.mark.parametrize("key", ["when", "map"])
def test_an_expression_that_does_not_evaluate_fails_the_execution_at_its_step(key: str) -> None:
    driver = Driver(workflow({"name": "a", key: "${ length(input.nothing) }"}), {})
    driver.run()
    assert driver.failure is not None
    assert (driver.failure.code, driver.failure.step) == ("expression_error", "a")


def test_an_output_that_does_not_evaluate_fails_the_execution() -> None:
    driver = Driver(workflow({"name": "a"}, output="${ length(input.nothing) }"), {})
    driver.run()
    assert driver.failure is not None
    assert (driver.failure.code, driver.failure.step) == ("expression_error", None)


def test_the_input_of_a_tool_is_an_object() -> None:
    driver = Driver(workflow({"name": "a", "input": "${ input }"}), [1])
    driver.plan()
    with pytest.raises(ExpressionError, match="step a must be an object"):
        driver.schedule(1)


def test_sessions_are_text_or_none() -> None:
    definition = workflow(
        {"name": "a", "agent": "g", "session": "${ input.who }"},
        {"name": "b", "agent": "g", "map": "${ input.list }", "session": "${ execution.workflow }/${ item }"},
        {"name": "c"},
    )

    def session(who: Any, step: PlanStep) -> str | None:
        driver = Driver(definition, {"who": who, "list": ["x", "y"]})
        driver.plan()
        return driver.planner.session_of(driver.state, step)

    assert session("Ada", PlanStep("a")) == "Ada"
    assert session(None, PlanStep("a")) is None
    assert session("Ada", PlanStep("b", 1)) == "x/y"
    assert session("Ada", PlanStep("c")) is None
    for wrong in (5, "", "a\0b", "a\ud800", "x" * 1_001, []):
        with pytest.raises(ExpressionError, match="session of step a"):
            session(wrong, PlanStep("a"))


def test_a_failed_step_releases_nothing() -> None:
    driver = Driver(workflow({"name": "a"}, {"name": "b", "dependsOn": ["a"]}))
    driver.plan()
    driver.schedule(1)
    driver.record(ev.StepFailed("a", 1, Failure.of("x", "x")))
    driver.plan()
    assert (driver.answers, driver.backlog) == (["a"], [])


def test_the_end_is_said_once() -> None:
    driver = Driver(workflow({"name": "a", "when": "${ `false` }"}))
    driver.record(ev.StepSkipped("a"))
    assert driver.planner.next(driver.state) == [PlanComplete(b"null")]
    assert [type(decision) for decision in driver.planner.next(driver.state)] == [PlanWait]


def test_nothing_is_answered_twice() -> None:
    driver = Driver(workflow({"name": "a"}, {"name": "b"}))
    first = driver.planner.next(driver.state)
    assert first == [PlanStep("a"), PlanStep("b")]
    assert [type(decision) for decision in driver.planner.next(driver.state)] == [PlanWait]
    driver.take_over()
    assert driver.planner.next(driver.state) == first, "what was not recorded is answered again"


def cost_of(work: Callable[[], object]) -> int:
    """How many bytecodes `work` executes: a measure of its cost that no clock and no other process disturbs."""
    count = 0

    def trace(frame: FrameType, kind: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += kind == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_steps_end_costs_the_same_in_a_plan_of_any_size() -> None:
    def cost(size: int) -> int:
        steps = [{"name": f"s{i}", **({"dependsOn": [f"s{i - 1}"]} if i else {})} for i in range(size)]
        driver = Driver(workflow(*steps))
        driver.plan()
        for at in range(size // 2):
            driver.schedule(1)
            driver.finish(f"s{at}")
            driver.plan()
        driver.schedule(1)
        driver.finish(f"s{size // 2}")
        return cost_of(lambda: driver.planner.next(driver.state))

    assert cost(10) == cost(4_000)


def test_an_items_end_and_the_inputs_of_a_large_map_cost_the_same_as_of_a_small_one() -> None:
    definition = workflow(
        {"name": "m", "map": "${ input.items }", "input": {"v": "${ item.v }", "n": "${ input.n }"}},
        {"name": "join", "input": {"all": "${ steps.m.output }"}},
    )

    def costs(size: int) -> tuple[int, int]:
        driver = Driver(definition, {"n": 1, "items": [{"v": i} for i in range(size)]})
        driver.plan()
        driver.schedule(size)
        of_input = cost_of(lambda: driver.planner.input_of(driver.state, PlanStep("m", size // 2)))
        for at in range(size - 2):
            driver.finish(f"m[{at}]")
        driver.plan()
        driver.finish(f"m[{size - 2}]")
        return of_input, cost_of(lambda: driver.planner.next(driver.state))

    assert costs(10) == costs(5_000)


def test_a_join_of_ten_thousand_composes_its_list_once() -> None:
    driver = Driver(
        workflow({"name": "m", "map": "${ input }"}, *({"name": f"j{i}", "input": {"all": "${ steps.m.output }"}} for i in range(3))),
        list(range(10_000)),
    )
    driver.plan()
    driver.schedule(10_000)
    for key in list(driver.in_flight):
        driver.in_flight.clear()
        driver.record(ev.StepCompleted(key, 1, NOW, b"1"))
        driver.plan()
    first, *others = (cost_of(lambda step=step: driver.planner.input_of(driver.state, step)) for step in driver.backlog)  # type: ignore[misc]
    assert first > 10_000
    assert all(other < 1_000 for other in others)


# ------------------------------------------------------------------------------------------------- any plan


@st.composite
def plans(draw: st.DrawFn) -> Workflow:
    """A DAG of up to twelve steps: explicit and implicit dependencies, `when` over inputs and outputs, maps over inputs and outputs."""
    steps: list[dict[str, Any]] = []
    size = draw(st.integers(1, 12))
    for at in range(size):
        step: dict[str, Any] = {"name": f"s{at}", "input": {"n": f"${{ input.n{at} }}"}}
        earlier = draw(st.lists(st.integers(0, at - 1), max_size=3, unique=True)) if at else []
        for other in earlier:
            how = draw(st.sampled_from(["dependsOn", "input", "status"]))
            if how == "dependsOn":
                step.setdefault("dependsOn", []).append(f"s{other}")
            else:
                step["input"][f"s{other}"] = f"${{ steps.s{other}.{'output' if how == 'input' else 'status'} }}"
        condition = draw(
            st.sampled_from([None, None, f"${{ input.w{at} }}", *(f"${{ steps.s{other}.status == 'completed' }}" for other in earlier)])
        )
        if condition:
            step["when"] = condition
        over = draw(st.sampled_from([None, None, f"${{ input.l{at} }}", *(f"${{ to_array(steps.s{other}.output) }}" for other in earlier)]))
        if over:
            step["map"] = over
            step["input"]["item"] = "${ item }"
        steps.append(step)
    order = draw(st.permutations(steps))
    return workflow(*order)


def inputs_for(definition: Workflow, random: Random) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for step in definition.steps:
        number = step.name[1:]
        value |= {f"n{number}": random.randrange(9), f"w{number}": random.random() < 0.6, f"l{number}": list(range(random.randrange(4)))}
    return value


def finish_at_random(driver: Driver, random: Random, *, takeovers: bool) -> Any:
    driver.plan()
    while not driver.state.status.ended:
        if takeovers and random.random() < 0.3:
            if random.random() < 0.5:
                driver.take_over()
            else:  # only the planner forgets
                driver.state.planner_memory = None
                lost = {step.key for step in driver.backlog}
                driver.answers = [answer for answer in driver.answers if answer not in lost]
                driver.backlog.clear()
            driver.plan()
            continue
        if driver.backlog and (not driver.in_flight or random.random() < 0.5):
            random.shuffle(driver.backlog)
            driver.schedule(random.randrange(1, 4))
        else:
            assert driver.in_flight, "the planner stopped before the end"
            driver.finish(random.choice(driver.in_flight))
            if random.random() < 0.7 or not (driver.in_flight or driver.backlog):
                driver.plan()
        if not (driver.in_flight or driver.backlog):
            driver.plan()
    assert driver.failure is None
    return json.loads(driver.state.result or b"")


def check_answers(driver: Driver) -> None:
    """Each step was decided exactly once: scheduled, skipped, or expanded into items that were scheduled once."""
    assert len(driver.answers) == len(set(driver.answers))
    for step in driver.workflow.steps:
        state = driver.state.steps[step.name]
        ways = [f"skip {step.name}", f"expand {step.name}", step.name]
        assert sum(way in driver.answers for way in ways) == 1, step.name
        items = [answer for answer in driver.answers if answer.startswith(f"{step.name}[")]
        assert sorted(items) == sorted(f"{step.name}[{item}]" for item in range(state.item_count))
    completed = [line.event.step for line in driver.journal if isinstance(line.event, ev.StepCompleted)]
    assert len(completed) == len(set(completed))


@settings(deadline=None)  # other work shares the machine
@given(plans(), st.integers(0, 2**32))
def test_any_plan_runs_to_its_end_and_each_step_is_decided_once(definition: Workflow, seed: int) -> None:
    driver = Driver(definition, inputs_for(definition, Random(seed)))
    finish_at_random(driver, Random(seed), takeovers=False)
    check_answers(driver)


@settings(deadline=None)  # other work shares the machine
@given(plans(), st.integers(0, 2**32))
def test_losing_the_memory_at_any_point_changes_no_result_no_input_and_no_decision(definition: Workflow, seed: int) -> None:
    value = inputs_for(definition, Random(seed))
    calm, restless = Driver(definition, value), Driver(definition, value)
    expected = finish_at_random(calm, Random(seed), takeovers=False)
    assert finish_at_random(restless, Random(seed + 1), takeovers=True) == expected
    check_answers(restless)
    assert restless.inputs == calm.inputs
    assert sorted(restless.answers) == sorted(calm.answers)
