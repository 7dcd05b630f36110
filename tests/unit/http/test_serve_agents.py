"""Agents, tools and sessions over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from agentflow.codec import decode_value
from agentflow.domain.command import Start, WorkerStatus
from agentflow.domain.event import ExecutionCompleted
from agentflow.ids import session_shard, shard_of
from agentflow.ports import SessionState
from agentflow.serve import wire

MESSAGES = "/v1/agents/Greeter/sessions/s1/messages"


def worker(name: str, uses: str, tenant: str = "acme", kind: str = "agent") -> WorkerStatus:
    return WorkerStatus(name, kind, tenant, uses, "c0de", "ready", 1, 2, datetime(2026, 11, 21, tzinfo=UTC), 3)


async def test_agents_are_the_application_folders_with_the_actors_that_host_them(world: Any, keys: Any) -> None:
    world.supervisor.workers = (
        worker("w1", "greetings:Greeter"),
        worker("w2", "", tenant=""),
        worker("w3", "greetings:Greeter", tenant="other"),
        worker("t1", "", tenant="", kind="tool"),
    )
    answer = await world.client.get("/v1/agents", headers=keys.viewer)
    page = wire.AgentPage.model_validate_json(answer.content)
    (agent,) = page.agents
    assert (agent.name, agent.uses) == ("Greeter", "greetings:Greeter") and page.live
    assert [actor.name for actor in agent.actors] == ["w1"] and agent.actors[0].queued == 2
    assert [actor.name for actor in page.other_actors] == ["w2", "t1"]


async def test_agents_are_listed_without_actors_while_the_supervisor_is_away(world: Any, keys: Any) -> None:
    world.supervisor.state = "dead"
    page = (await world.client.get("/v1/agents", headers=keys.viewer)).json()
    assert page["agents"][0]["name"] == "Greeter" and page["live"] is False and page["reason"]


async def test_tools_are_listed_with_schema_and_profile(world: Any, keys: Any) -> None:
    page = wire.ToolPage.model_validate_json((await world.client.get("/v1/tools", headers=keys.viewer)).content)
    assert page.tools[0].uses == "greetings:count" and page.tools[0].profile == {"isolation": "gvisor"}
    assert (await world.client.get("/v1/tools", headers=keys.other)).json() == {"tools": []}


async def test_a_message_is_an_execution_on_the_sessions_shard_and_its_result_is_the_reply(world: Any, keys: Any) -> None:
    world.supervisor.when_started = lambda start: asyncio.get_running_loop().call_soon(
        world.supervisor.complete, start.execution_id, {"hello": "you"}
    )
    answer = await world.client.post(MESSAGES, json={"message": {"text": "hi"}}, headers=keys.admin)
    assert answer.status_code == 200
    reply = wire.MessageReply.model_validate_json(answer.content)
    assert reply.reply == {"hello": "you"} and reply.status == "completed"
    (command,) = world.supervisor.commands
    assert isinstance(command, Start)
    assert (command.workflow, command.version) == ("agentflow/session", "1")
    assert (command.session_agent, command.session_id, command.input) == ("greetings:Greeter", "s1", b'{"text":"hi"}')
    assert command.code_hash == "code-of-acme" and command.execution_id == reply.execution_id
    assert shard_of(command.execution_id) == session_shard("acme", "greetings:Greeter", "s1")


async def test_an_agent_is_found_by_its_import_path_too(world: Any, keys: Any) -> None:
    path = "/v1/agents/greetings:Greeter/sessions/s1/messages?wait=0"
    assert (await world.client.post(path, json={"message": 1}, headers=keys.admin)).status_code == 202
    assert world.supervisor.commands[0].session_agent == "greetings:Greeter"


async def test_a_message_that_takes_longer_is_202(world: Any, keys: Any) -> None:
    answer = await world.client.post(MESSAGES + "?wait=0.05", json={"message": None}, headers=keys.admin)
    assert answer.status_code == 202 and answer.json()["status"] == "running" and "reply" not in answer.json()
    assert answer.headers["location"] == f"/v1/executions/{answer.json()['execution_id']}"


async def test_a_message_that_the_agent_fails_on_says_how(world: Any, keys: Any) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.fail(start.execution_id)
    answer = await world.client.post(MESSAGES, json={"message": 1}, headers=keys.admin)
    assert answer.status_code == 200 and answer.json()["status"] == "failed" and answer.json()["error"]["code"] == "boom"


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_message_sent_twice_under_one_id_is_handled_once(world: Any, keys: Any, by_header: bool) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.complete(start.execution_id, len(world.store.views))
    body: dict[str, Any] = {"message": "hi"} if by_header else {"message": "hi", "message_id": "m1"}
    headers = keys.admin | ({"Idempotency-Key": "m1"} if by_header else {})
    answers = [await world.client.post(MESSAGES, json=body, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200} and {answer.json()["reply"] for answer in answers} == {1}
    changed = await world.client.post(MESSAGES, json={**body, "message": "other"}, headers=headers)
    assert changed.status_code == 409 and changed.json()["code"] == "idempotency_conflict"
    elsewhere = await world.client.post(MESSAGES.replace("s1", "s2"), json=body, headers=headers)
    assert elsewhere.status_code == 200 and elsewhere.json()["reply"] == 2


async def test_two_ids_for_one_message_are_refused(world: Any, keys: Any) -> None:
    headers = {**keys.admin, "Idempotency-Key": "a"}
    answer = await world.client.post(MESSAGES, json={"message": 1, "message_id": "b"}, headers=headers)
    assert answer.status_code == 400


async def test_odd_text_reaches_the_agent_and_comes_back(world: Any, keys: Any) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.add(start.execution_id, ExecutionCompleted(start.input))
    answer = await world.client.post(MESSAGES, content=b'{"message":"\\u0000\\udc00"}', headers=keys.admin)
    assert decode_value(answer.content)["reply"] == "\0\udc00"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"message":1,"message_id":""}', b'{"message":1,"message_id":"\\u0000"}', b'{"massage":1}']
)
async def test_a_body_that_is_no_message_is_400(world: Any, keys: Any, body: bytes) -> None:
    answer = await world.client.post(MESSAGES, content=body, headers=keys.admin)
    assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize("name", ["Nobody", "%00", "a b"])
async def test_an_agent_that_is_not_in_the_folder_is_404(world: Any, keys: Any, name: str) -> None:
    assert (await world.client.post(f"/v1/agents/{name}/sessions/s/messages", json={"message": 1}, headers=keys.admin)).status_code == 404
    assert (await world.client.get(f"/v1/agents/{name}/sessions/s", headers=keys.admin)).status_code == 404


@pytest.mark.parametrize("session", ["%00", "a%09b", "s" * 201])
async def test_a_session_id_that_is_not_short_and_printable_is_400(world: Any, keys: Any, session: str) -> None:
    for method, suffix in (("GET", ""), ("POST", "/messages")):
        answer = await world.client.request(
            method, f"/v1/agents/Greeter/sessions/{session}{suffix}", json={"message": 1}, headers=keys.admin
        )
        assert answer.status_code == 400 and answer.json()["code"] == "invalid_request"


async def test_a_session_shows_its_version_and_state(world: Any, keys: Any) -> None:
    fresh = await world.client.get("/v1/agents/Greeter/sessions/s1", headers=keys.viewer)
    assert fresh.json() == {"agent": "greetings:Greeter", "id": "s1", "version": 0, "state": {}}
    world.store.states["acme", "greetings:Greeter", "s1"] = SessionState(4, b'{"seen":["\\ud800"]}')
    known = await world.client.get("/v1/agents/Greeter/sessions/s1", headers=keys.viewer)
    assert decode_value(known.content)["version"] == 4 and decode_value(known.content)["state"] == {"seen": ["\ud800"]}
    world.store.entries["other", "agent"] = world.store.entries["acme", "agent"]
    assert (await world.client.get("/v1/agents/Greeter/sessions/s1", headers=keys.other)).json()["version"] == 0
