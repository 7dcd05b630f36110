"""Reading workflows: what a valid definition becomes."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from agentflow.domain.workflow import Backoff, Resources, WorkflowConfig
from agentflow.engine.definition import load_workflow
from agentflow.engine.definition.quantities import parse_duration, parse_size

ROOT = Path(__file__).parents[2]
HEAD = "apiVersion: agentflow/v1\nname: x\n"


def documented_example() -> str:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "workflow.md").read_text(), re.S)
    assert found is not None
    return found[1]


def test_the_documented_example_loads() -> None:
    workflow = load_workflow(documented_example(), file="docs/workflow.md")
    assert (workflow.name, workflow.version) == ("order-review", "1.2.0")
    assert workflow.config == WorkflowConfig(timedelta(minutes=30), 16)
    assert workflow.agent("reviewer").resources == Resources(0.5, 512 << 20)
    check = workflow.step("check")
    assert check.depends_on == ("intake",)
    assert check.map == "steps.intake.output.lines"
    assert check.timeout == timedelta(seconds=60)
    assert check.retry.max_attempts == 3
    assert check.retry.retry_on == ("sandbox_timeout", "sandbox_lost")
    assert check.retry.backoff == Backoff(timedelta(seconds=1), 2.0, timedelta(seconds=30), 0.1)
    assert workflow.step("review").depends_on == ("check",)
    assert workflow.step("notify").depends_on == ("intake", "review")
    assert workflow.source == documented_example()
    assert workflow.output == {"lines": "${ steps.check.output }", "review": "${ steps.review.output }"}


def test_the_shipped_example_loads() -> None:
    path = ROOT / "examples" / "repository_review" / "workflow.yaml"
    workflow = load_workflow(path.read_text(), file=str(path))
    assert workflow.name == "repository-review"


def test_every_default_is_the_documented_one() -> None:
    workflow = load_workflow(HEAD + "steps: [{name: a, tool: 'm:f'}]")
    step = workflow.step("a")
    assert (workflow.version, workflow.description, workflow.output, workflow.input_schema) == ("1", "", None, None)
    assert workflow.config == WorkflowConfig(None, 64)
    assert (step.retry.max_attempts, step.timeout, step.input, step.session) == (1, None, None, None)


def test_agents_may_be_a_list() -> None:
    text = HEAD + "agents: [{name: one, uses: 'm:One', resources: {memory: 1024}}]\nsteps: [{name: a, agent: one}]"
    assert load_workflow(text).agent("one").resources.memory_bytes == 1024


def test_an_expression_is_a_dependency_wherever_it_stands() -> None:
    text = HEAD + (
        "agents: {g: {uses: 'm:G'}}\nsteps:\n"
        + "".join(f"  - {{name: s{i}, tool: 'm:f'}}\n" for i in range(5))
        + "  - name: last\n    agent: g\n    dependsOn: [s4, s0]\n    when: '${ steps.s1.status == `\"completed\"` }'\n"
        + "    session: 'x-${ steps.s2.output }'\n    input: {deep: [{er: 'a ${ steps.s3.output } ${ steps.s0.output }'}]}\n"
    )
    assert load_workflow(text).step("last").depends_on == ("s4", "s0", "s1", "s3", "s2")


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = (
        HEAD
        + "steps:\n  - name: a\n    tool: 'm:f'\n    input: {v: [no, on, 010, 0x1F, 0o17, 1e3, ~, 2026-11-21, 'true', true, 1_000, -5]}"
    )
    expected = ["no", "on", 10, 31, 15, 1000.0, None, "2026-11-21", "true", True, "1_000", -5]
    found = load_workflow(text).step("a").input["v"]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize("planner", ["", "planner: dag\n"])
def test_the_dag_planner_may_be_named(planner: str) -> None:
    assert load_workflow(HEAD + planner + "steps: [{name: a, tool: 'm:f'}]").steps


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert load_workflow("\ufeff" + HEAD + "steps: [{name: a, tool: 'm:f'}]").name == "x"


def test_a_plan_of_ten_thousand_steps_in_a_row_loads() -> None:
    steps = "".join(f"  - {{name: s{i}, tool: 'm:f', dependsOn: [s{i - 1}]}}\n" for i in range(1, 10_000))
    workflow = load_workflow(HEAD + "steps:\n  - {name: s0, tool: 'm:f'}\n" + steps)
    assert workflow.step("s9999").depends_on == ("s9998",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1m0.25s", timedelta(seconds=60.25)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1s1m", "1s1s", "1e3s", "1w", "９s", "99999999d", "1s\n"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("512MiB", 512 << 20), ("1GiB", 1 << 30), ("1.5 GB", 1_500_000_000), ("7", 7), ("7B", 7), ("0", 0)]
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-1B", "12XB", "1e3", "1Mib", "99999999TiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|larger"):
        parse_size(text)
