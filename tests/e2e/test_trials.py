"""Tools and agents that behave badly, on the real cluster: each ends with its own code, and nothing else suffers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

import agentflow
from agentflow.cluster.ray_head import processes

pytestmark = [pytest.mark.ray, pytest.mark.runsc, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def flow(cluster) -> Iterator[agentflow.Flow]:
    with agentflow.connect(cluster.url, cluster.key) as connected:
        yield connected


def workflow(*steps: str, name: str = "trial", agents: str = "") -> str:
    lines = "\n".join(f"  - {step}" for step in steps)
    return f"apiVersion: agentflow/v1\nname: {name}\nagents: {{{agents}}}\nsteps:\n{lines}\n"


def tool_step(function: str, **arguments: object) -> str:
    return json.dumps({"name": "only", "tool": f"trials.tools:{function}", "input": arguments})


def run(flow: agentflow.Flow, text: str, value: object = None) -> agentflow.Execution:
    """Each text gets a name of its own: a version never changes."""
    import hashlib

    name = "trial-" + hashlib.sha256(text.encode()).hexdigest()[:12]
    return flow.run(agentflow.Workflow(text.replace("name: trial\n", f"name: {name}\n", 1)), input=value)


def failure(execution: agentflow.Execution) -> dict:
    with pytest.raises(agentflow.ExecutionFailed) as raised:
        execution.result(timeout=90)
    error: dict = raised.value.facts["error"]
    return error


def test_a_tool_that_raises_fails_with_its_exceptions_name(flow):
    error = failure(run(flow, workflow(tool_step("raises", message="no such thing"))))
    assert (error["code"], "no such thing" in error["message"]) == ("key_error", True)


def test_a_tool_that_hangs_is_ended_at_its_wall_time(flow):
    assert failure(run(flow, workflow(tool_step("hangs"))))["code"] == "sandbox_timeout"


def test_a_tool_that_prints_100_mb_is_cut_and_completes(flow):
    assert run(flow, workflow(tool_step("prints", megabytes=100))).result(timeout=90) == 100


def test_a_tool_that_eats_memory_is_ended_by_its_own_limit(flow):
    assert failure(run(flow, workflow(tool_step("eats_memory"))))["code"] == "sandbox_oom"


def test_nul_and_lone_surrogates_come_through_unchanged(flow):
    result = run(flow, workflow(tool_step("odd_text"))).result(timeout=90)
    assert result == {"nul": "a\0b", "surrogate": "\ud800", "key \udfff": 1}


def test_a_tool_sees_no_network_no_host_file_and_no_secret(flow, cluster):
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = run(flow, workflow(tool_step("reaches_out", host="127.0.0.1", port=server.getsockname()[1]))).result(timeout=90)
    assert seen["network"] != "open"
    assert seen["shadow"] is False and seen["home"] == []
    assert cluster.key not in json.dumps(seen) and not [name for name in seen["environment"] if "AGENTFLOW" in name or "RAY" in name]


def test_arguments_that_do_not_fit_fail_before_a_sandbox_starts(flow):
    error = failure(run(flow, workflow(tool_step("double", wrong=1))))
    assert (error["code"], "value" in error["message"]) == ("invalid_request", True)


def test_a_tool_that_is_not_there_fails_with_the_reason(flow):
    error = failure(run(flow, workflow(tool_step("no_such_tool"))))
    assert "no_such_tool" in error["message"]


def test_a_mount_shows_exactly_its_folder_and_cannot_be_written(flow, tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a.txt").write_text("a")
    (tmp_path / "outside.txt").write_text("o")
    names, writable = run(flow, workflow(tool_step("lists", folder=str(tmp_path / "inside")))).result(timeout=90)
    assert (names, writable) == (["a.txt"], False)


def test_an_inline_tool_runs_in_the_tool_actor(flow, cluster):
    pid = run(flow, workflow(tool_step("inline_pid"))).result(timeout=90)
    assert pid in {process.pid for process in processes(cluster.settings.home)}


def test_an_agent_that_kills_its_process_is_poison_after_three_crashes(flow):
    execution = run(flow, workflow("{name: only, agent: dies}", agents='dies: {uses: "trials.agents:Dies"}'))
    assert failure(execution)["code"] == "poison"
    crashes = [event for event in execution.events() if event.kind == "step.crashed"]
    assert [event.body["crashes"] for event in crashes] == [1, 2, 3]


def test_a_plain_function_agent_calls_a_tool_from_its_thread(flow):
    text = workflow('{name: only, agent: blocking, input: "${ input }"}', agents='blocking: {uses: "trials.agents:Blocking"}')
    assert run(flow, text, 21).result(timeout=90) == 42


def test_an_agent_that_needs_more_than_the_cluster_has_says_so_and_can_be_cancelled(flow):
    execution = run(flow, workflow("{name: only, agent: big}", agents='big: {uses: "trials.agents:Add", resources: {cpu: 64}}'))
    said = next(event for event in execution.events() if event.kind == "step.delayed")
    assert "64 CPUs" in said.body["message"]
    assert execution.cancel("enough").status == "cancelled"


def test_a_sessions_messages_are_counted_in_order_and_kept(flow):
    answers = [flow.say("counts", "s1", f"m{n}") for n in range(3)]
    assert answers == [{"messages": n + 1, "said": f"m{n}"} for n in range(3)]
    assert flow.say("counts", "s2", "x")["messages"] == 1
    assert flow.session("counts", "s1")["version"] == 3


def test_a_message_sent_twice_under_one_id_is_handled_once(flow):
    first = flow.say("counts", "twice", "m", message_id="only")
    again = flow.say("counts", "twice", "m", message_id="only")
    assert first == again == {"messages": 1, "said": "m"}


def test_the_catalogue_names_agents_and_tools_with_their_schemas(flow):
    tools = {tool.uses: tool for tool in flow.tools()}
    assert tools["trials.tools:double"].input_schema["properties"]["value"]["type"] == "integer"
    assert tools["trials.tools:lists"].input_schema["properties"]["folder"]["format"] == "folder"
    assert "trials.agents:Counts" in {agent.uses for agent in flow.agents()}


def test_a_principal_of_http_mounts_nothing_outside_mount_roots(cluster, tmp_path):
    """The operator's key may mount any folder; another admin's may not: the step's own check holds where no schema names the folder."""
    import asyncio

    from agentflow.adapters.embedded_postgres import EmbeddedPostgres
    from agentflow.adapters.postgres import PostgresStore
    from agentflow.ports import Principal

    async def add() -> None:
        async with PostgresStore(EmbeddedPostgres(cluster.settings.home).url) as store:
            await store.api_keys.add("remote-admin", Principal("remote", "default", "admin"))
            await store.api_keys.add("remote-viewer", Principal("looker", "default", "viewer"))

    asyncio.run(add())
    with agentflow.connect(cluster.url, "remote-admin") as remote:
        assert failure(run(remote, workflow(tool_step("lists", folder=str(tmp_path)))))["code"] == "mount_forbidden"
    with agentflow.connect(cluster.url, "remote-viewer") as viewer, pytest.raises(agentflow.Forbidden):
        viewer.run("trial", input=None)
    answer = httpx.post(f"{cluster.url}/v1/executions", json={"workflow": "trial"}, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_nothing_of_the_sandboxes_is_left_when_calls_have_ended(flow, cluster):
    for n in range(3):
        assert run(flow, workflow(tool_step("double", value=n), name="trial")).result(timeout=90) == n * 2
    home = str(cluster.settings.home)
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    names = {line.split()[-1] for line in lines if "runsc" in line and home in line and " run " in line}
    # the warm ones, the one that is being ended, and their replacements that boot
    assert len(names) <= 2 * cluster.settings.sandbox_pool_size + 1, names
