"""Starting, reading, listing and cancelling executions over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentflow.codec import decode_value
from agentflow.domain.command import Cancel, Reply, Start
from agentflow.domain.event import ExecutionCompleted
from agentflow.errors import CommitUnknown, Unavailable
from agentflow.ids import is_execution_id
from agentflow.serve import wire

GREET = {"workflow": "greet", "input": {"name": "Ada"}}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document, checked for what every one has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code and document["status"] == status
    assert document["type"] == f"urn:agentflow:problem:{code}" and document["title"] and document["detail"]
    assert document["instance"] == answer.request.url.path
    assert document["request_id"] == answer.headers["x-request-id"]
    wire.Problem.model_validate_json(answer.content)
    return document


async def test_a_start_is_answered_202_with_its_place_once_it_is_committed(world: Any, keys: Any) -> None:
    answer = await world.client.post("/v1/executions", json=GREET, headers=keys.admin)
    assert answer.status_code == 202
    accepted = wire.ExecutionAccepted.model_validate_json(answer.content)
    assert is_execution_id(accepted.id) and accepted.status == "running" and not accepted.existed
    assert answer.headers["location"] == f"/v1/executions/{accepted.id}"
    (command,) = world.supervisor.commands
    assert command == Start(accepted.id, "acme", "ada", "greet", "1", b'{"name":"Ada"}', "code-of-acme", ())


async def test_wait_answers_200_with_the_whole_execution_when_it_ends_in_time(world: Any, keys: Any) -> None:
    world.supervisor.when_started = lambda start: asyncio.get_running_loop().call_soon(
        world.supervisor.complete, start.execution_id, {"said": "hello"}
    )
    answer = await world.client.post("/v1/executions?wait=30", json=GREET, headers=keys.admin)
    assert answer.status_code == 200
    execution = wire.Execution.model_validate_json(answer.content)
    assert execution.status == "completed" and execution.result == {"said": "hello"} and execution.input == {"name": "Ada"}
    assert execution.ended_at is not None and execution.error is None


async def test_wait_answers_200_when_the_execution_ended_within_the_start_itself(world: Any, keys: Any) -> None:
    world.supervisor.when_started = lambda start: world.supervisor.complete(start.execution_id, 1)
    answer = await world.client.post("/v1/executions?wait=30", json=GREET, headers=keys.admin)
    assert answer.status_code == 200 and answer.json()["result"] == 1


async def test_wait_answers_202_when_the_time_is_over(world: Any, keys: Any) -> None:
    answer = await world.client.post("/v1/executions?wait=0.05", json=GREET, headers=keys.admin)
    assert answer.status_code == 202 and answer.json()["status"] == "running"


async def test_wait_is_cut_to_the_limit_that_the_settings_name(make_world: Any, keys: Any) -> None:
    world = await make_world(wait_limit_s=0.05)
    await world.put_workflow()
    async with asyncio.timeout(20):
        answer = await world.client.post("/v1/executions?wait=86400", json=GREET, headers=keys.admin)
    assert answer.status_code == 202


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "soon"])
async def test_a_wait_that_is_no_number_of_seconds_is_refused(world: Any, keys: Any, wait: str) -> None:
    problem(await world.client.post(f"/v1/executions?wait={wait}", json=GREET, headers=keys.admin), 400, "invalid_request")
    assert not world.supervisor.commands


async def test_a_waiter_finds_the_end_by_itself_when_the_feed_says_nothing(make_world: Any, keys: Any) -> None:
    world = await make_world(recheck_s=0.02)
    await world.put_workflow()
    world.supervisor.silent = True
    world.supervisor.when_started = lambda start: asyncio.get_running_loop().call_soon(world.supervisor.complete, start.execution_id, 7)
    answer = await world.client.post("/v1/executions?wait=30", json=GREET, headers=keys.admin)
    assert answer.status_code == 200 and answer.json()["result"] == 7


async def test_a_waiter_survives_a_store_that_is_away_for_a_moment(make_world: Any, keys: Any) -> None:
    world = await make_world(recheck_s=0.02)
    await world.put_workflow()

    def away(start: Start) -> None:
        world.store.down = True
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, lambda: (setattr(world.store, "down", False), world.supervisor.complete(start.execution_id, "back")))

    world.supervisor.when_started = away
    answer = await world.client.post("/v1/executions?wait=30", json=GREET, headers=keys.admin)
    assert answer.status_code == 200 and answer.json()["result"] == "back"


async def test_the_same_key_and_body_start_one_execution(world: Any, keys: Any) -> None:
    headers = {**keys.admin, "Idempotency-Key": "k1"}
    first = await world.client.post("/v1/executions", json=GREET, headers=headers)
    turned = json.dumps({"input": {"name": "Ada"}, "workflow": "greet"})
    second = await world.client.post("/v1/executions", content=turned, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert (first.json()["existed"], second.json()["existed"]) == (False, True)
    assert len(world.store.views) == 1


async def test_the_same_key_with_another_body_is_a_conflict(world: Any, keys: Any) -> None:
    headers = {**keys.admin, "Idempotency-Key": "k1"}
    first = await world.client.post("/v1/executions", json=GREET, headers=headers)
    other = {"workflow": "greet", "input": {"name": "Bob"}}
    document = problem(await world.client.post("/v1/executions", json=other, headers=headers), 409, "idempotency_conflict")
    assert document["execution_id"] == first.json()["id"]
    assert len(world.store.views) == 1


async def test_another_tenant_may_use_the_same_key(world: Any, keys: Any) -> None:
    source = world.store.definitions["acme", "greet"]
    world.store.definitions["other", "greet"] = source
    ids = {
        (await world.client.post("/v1/executions", json=GREET, headers={**who, "Idempotency-Key": "k"})).json()["id"]
        for who in (keys.admin, keys.other)
    }
    assert len(ids) == 2


async def test_a_refused_request_does_not_use_its_key_up(world: Any, keys: Any) -> None:
    headers = {**keys.admin, "Idempotency-Key": "k1"}
    wrong = {"workflow": "greet", "input": {"name": 7}}
    problem(await world.client.post("/v1/executions", json=wrong, headers=headers), 422, "input_invalid")
    assert (await world.client.post("/v1/executions", json=GREET, headers=headers)).status_code == 202


async def test_the_claim_is_stored_before_the_command_is_sent(world: Any, keys: Any) -> None:
    world.supervisor.failures = [RuntimeError("the replica dies here")]
    headers = {**keys.admin, "Idempotency-Key": "k1"}
    problem(await world.client.post("/v1/executions", json=GREET, headers=headers), 500, "internal")
    ((claimed, _),) = world.store.claims.values()
    assert (await world.client.post("/v1/executions", json=GREET, headers=headers)).json()["id"] == claimed


@pytest.mark.parametrize("value", ["", "x" * 256, "tab\there"])
async def test_a_key_that_is_not_short_and_printable_is_refused(world: Any, keys: Any, value: str) -> None:
    answer = await world.client.post("/v1/executions", json=GREET, headers={**keys.admin, "Idempotency-Key": value})
    problem(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {"workflow": "nobody"},
        {"workflow": "greet", "version": "9", "input": {"name": "Ada"}},
        {"workflow": "gre\0et"},
        {"workflow": "../x y"},
    ],
)
async def test_an_unknown_workflow_or_version_is_404(world: Any, keys: Any, body: dict[str, Any]) -> None:
    problem(await world.client.post("/v1/executions", json=body, headers=keys.admin), 404, "not_found")


async def test_another_tenants_workflow_is_404(world: Any, keys: Any) -> None:
    problem(await world.client.post("/v1/executions", json=GREET, headers=keys.other), 404, "not_found")


async def test_an_input_that_fails_the_schema_is_422_with_every_place(world: Any, keys: Any) -> None:
    body = {"workflow": "greet", "input": {"name": 7, "folder": 8}}
    document = problem(await world.client.post("/v1/executions", json=body, headers=keys.admin), 422, "input_invalid")
    assert {item["path"] for item in document["errors"]} == {"/name", "/folder"}
    assert not world.supervisor.commands


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"workflow": "greet", "input": NaN}', "input"),
        (b'{"workflow": "greet", "input": {"name": 1e999}}', "input"),
        (b'{"workflow": "greet", "inputs": {}}', "inputs"),
        (b'{"workflow": 7}', "workflow"),
        (b"[]", "object"),
        (b'\xff\xfe{"', "not JSON"),
    ],
)
async def test_a_body_that_is_no_start_is_400_and_says_why(world: Any, keys: Any, body: bytes, says: str) -> None:
    document = problem(await world.client.post("/v1/executions", content=body, headers=keys.admin), 400, "invalid_request")
    assert says in document["detail"]


async def test_nul_and_lone_surrogates_go_in_and_come_out_as_they_are(world: Any, keys: Any) -> None:
    body = b'{"workflow":"greet","input":{"name":"a\\u0000b\\ud800c"}}'
    world.supervisor.when_started = lambda start: world.supervisor.add(start.execution_id, ExecutionCompleted(b'{"out":"\\udfff\\u0000"}'))
    headers = {**keys.admin, "Idempotency-Key": "k"}
    answer = await world.client.post("/v1/executions?wait=30", content=body, headers=headers)
    assert answer.status_code == 200
    found = decode_value(answer.content)
    assert found["input"] == {"name": "a\0b\ud800c"} and found["result"] == {"out": "\udfff\0"}
    again = await world.client.post("/v1/executions?wait=30", content=body, headers=headers)
    assert decode_value(again.content)["id"] == found["id"]


async def test_a_start_is_sent_again_until_the_supervisor_is_back(world: Any, keys: Any) -> None:
    world.supervisor.failures = [Unavailable("restarting"), CommitUnknown("lost"), TimeoutError()]
    world.supervisor.commit_first = True
    answer = await world.client.post("/v1/executions", json=GREET, headers=keys.admin)
    assert answer.status_code == 202 and answer.json()["existed"]
    assert len(world.store.views) == 1 and len(world.supervisor.calls) == 4


async def test_a_start_is_503_with_retry_after_when_the_supervisor_stays_away(make_world: Any, keys: Any) -> None:
    world = await make_world(submit_deadline_s=0.1)
    await world.put_workflow()
    world.supervisor.failures = [Unavailable("restarting")] * 50
    answer = await world.client.post("/v1/executions", json=GREET, headers=keys.admin)
    assert problem(answer, 503, "unavailable")["retryable"] is True
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_full_queue_is_429_with_retry_after(make_world: Any, keys: Any) -> None:
    world = await make_world(submit_queue_limit=1)
    await world.put_workflow()
    world.supervisor.held = asyncio.Event()
    in_call = asyncio.create_task(world.client.post("/v1/executions", json=GREET, headers=keys.admin))
    while not world.supervisor.calls:
        await asyncio.sleep(0)
    queued = asyncio.create_task(world.client.post("/v1/executions", json=GREET, headers=keys.admin))
    while len(world.api.commands) < 1:
        await asyncio.sleep(0)
    answer = await world.client.post("/v1/executions", json=GREET, headers=keys.admin)
    problem(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    world.supervisor.held.set()
    assert [(await task).status_code for task in (in_call, queued)] == [202, 202]


async def test_a_supervisors_refusal_is_the_problem_of_its_code(world: Any, keys: Any) -> None:
    world.supervisor.refuse = Reply("", error_code="busy", message="the tenant's queue is full")
    problem(await world.client.post("/v1/executions", json=GREET, headers=keys.admin), 429, "busy")


async def test_a_store_that_is_away_is_503(world: Any, keys: Any) -> None:
    assert (await world.client.get("/v1/executions", headers=keys.admin)).status_code == 200
    world.store.down = True
    answer = await world.client.post("/v1/executions", json=GREET, headers=keys.admin)
    problem(answer, 503, "store_unavailable")
    assert "retry-after" in answer.headers


# ------------------------------------------------------------------------------------------------- mounts


async def test_a_folder_outside_mount_roots_is_403(world: Any, keys: Any) -> None:
    body = {"workflow": "greet", "input": {"name": "Ada", "folder": "/etc"}}
    document = problem(await world.client.post("/v1/executions", json=body, headers=keys.admin), 403, "mount_forbidden")
    assert document["path"] == "/folder" and "mount_roots" in document["detail"]


async def test_a_folder_is_judged_by_where_its_links_lead(make_world: Any, keys: Any, tmp_path: Path) -> None:
    root = tmp_path / "shared"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "shared-not").mkdir()
    (root / "link").symlink_to(tmp_path / "shared-not")
    (tmp_path / "alias").symlink_to(root / "inside")
    world = await make_world(mount_roots=(str(root),))
    await world.put_workflow()

    async def status_of(folder: Path | str) -> int:
        body = {"workflow": "greet", "input": {"name": "Ada", "folder": str(folder)}}
        return int((await world.client.post("/v1/executions", json=body, headers=keys.admin)).status_code)

    assert await status_of(root / "inside") == 202
    assert await status_of(root) == 202
    assert await status_of(tmp_path / "alias") == 202
    assert await status_of(root / "link") == 403
    assert await status_of(root / "inside" / ".." / "..") == 403
    assert await status_of(tmp_path / "shared-not") == 403
    assert all(command.mount_roots == (str(root),) for command in world.supervisor.commands)


async def test_the_operator_of_the_machine_may_name_any_folder(world: Any, keys: Any) -> None:
    body = {"workflow": "greet", "input": {"name": "Ada", "folder": "/etc"}}
    assert (await world.client.post("/v1/executions", json=body, headers=keys.operator)).status_code == 202
    assert world.supervisor.commands[0].mount_roots is None


@pytest.mark.parametrize("folder", ["src", "", "/a\0b", "/a\ud800"])
async def test_a_folder_that_is_not_an_absolute_path_is_422(world: Any, keys: Any, folder: str) -> None:
    content = json.dumps({"workflow": "greet", "input": {"name": "Ada", "folder": folder}})
    for who in (keys.admin, keys.operator):
        document = problem(await world.client.post("/v1/executions", content=content, headers=who), 422, "input_invalid")
        assert document["errors"][0]["path"] == "/folder"


# ------------------------------------------------------------------------------------------------- reading


async def test_get_shows_the_execution_with_input_and_error(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    running = wire.Execution.model_validate_json((await world.client.get(f"/v1/executions/{execution_id}", headers=keys.viewer)).content)
    assert running.status == "running" and running.ended_at is None and running.input == {"name": "Ada"}
    world.supervisor.fail(execution_id, "value_error", "no \0 luck")
    failed = (await world.client.get(f"/v1/executions/{execution_id}", headers=keys.viewer)).json()
    assert failed["status"] == "failed" and "result" not in failed
    assert failed["error"] == {"code": "value_error", "message": "no \0 luck", "retryable": True, "step": "hello"}


async def test_get_waits_for_the_end_when_asked_to(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    waiting = asyncio.create_task(world.client.get(f"/v1/executions/{execution_id}?wait=30", headers=keys.admin))
    while not world.api.feed.waiting:
        await asyncio.sleep(0)
    world.supervisor.complete(execution_id, [1])
    assert (await waiting).json()["result"] == [1]
    assert not world.api.feed.waiting


@pytest.mark.parametrize("execution_id", ["nonsense", "00000000-0000-7000-8000-0000000000ff", "%00", "%ed%a0%80"])
@pytest.mark.parametrize("suffix", ["", "/events", "/cancel"])
async def test_an_execution_that_is_not_there_is_404(world: Any, keys: Any, execution_id: str, suffix: str) -> None:
    method = "POST" if suffix == "/cancel" else "GET"
    answer = await world.client.request(method, f"/v1/executions/{execution_id}{suffix}", headers=keys.admin)
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


async def test_another_tenants_execution_is_404_everywhere(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    for method, suffix in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        problem(await world.client.request(method, f"/v1/executions/{execution_id}{suffix}", headers=keys.other), 404, "not_found")
    assert (await world.client.get("/v1/executions", headers=keys.other)).json() == {"executions": [], "next_cursor": None}


async def test_lists_are_paged_newest_first_and_filtered(world: Any, keys: Any) -> None:
    ids = [await world.started() for _ in range(5)]
    world.supervisor.complete(ids[1])
    world.supervisor.complete(ids[3])
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        query: dict[str, Any] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        answer = await world.client.get("/v1/executions", params=query, headers=keys.viewer)
        page = wire.ExecutionPage.model_validate_json(answer.content)
        seen += [execution.id for execution in page.executions]
        cursor = page.next_cursor
    assert cursor is None and seen == sorted(ids, reverse=True)
    done = (await world.client.get("/v1/executions?status=completed&workflow=greet", headers=keys.viewer)).json()["executions"]
    assert {item["id"] for item in done} == {ids[1], ids[3]} and all("input" not in item for item in done)
    for nobody in ("nobody", "a\0b"):
        assert (await world.client.get("/v1/executions", params={"workflow": nobody}, headers=keys.viewer)).json()["executions"] == []


@pytest.mark.parametrize("query", ["cursor=x", "cursor=MTp4", "cursor=%00", "limit=0", "limit=501", "limit=x", "status=done"])
async def test_a_list_query_that_is_wrong_is_400(world: Any, keys: Any, query: str) -> None:
    answer = await world.client.get(f"/v1/executions?{query}", headers=keys.viewer)
    assert answer.status_code in (400, 404) and answer.headers["content-type"] == "application/problem+json"


# ------------------------------------------------------------------------------------------------- cancel


async def test_a_cancel_is_sent_with_who_and_why(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    answer = await world.client.post(f"/v1/executions/{execution_id}/cancel", json={"reason": "enough"}, headers=keys.admin)
    assert answer.status_code == 200 and answer.json()["status"] == "cancelled"
    assert world.supervisor.commands[-1] == Cancel(execution_id, "acme", "ada", "enough")


async def test_a_cancel_needs_no_body_and_may_be_repeated(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    for _ in range(2):
        assert (await world.client.post(f"/v1/executions/{execution_id}/cancel", headers=keys.admin)).status_code == 200
    assert sum(isinstance(command, Cancel) for command in world.supervisor.commands) == 1


async def test_cancelling_what_has_ended_is_409(world: Any, keys: Any) -> None:
    for end in (world.supervisor.complete, world.supervisor.fail):
        execution_id = await world.started()
        end(execution_id)
        document = problem(await world.client.post(f"/v1/executions/{execution_id}/cancel", headers=keys.admin), 409, "conflict")
        assert document["execution_status"] in ("completed", "failed")


async def test_a_cancel_that_loses_the_race_is_409(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    world.supervisor.held = asyncio.Event()
    cancelling = asyncio.create_task(world.client.post(f"/v1/executions/{execution_id}/cancel", headers=keys.admin))
    while len(world.supervisor.calls) < 2:
        await asyncio.sleep(0)
    world.supervisor.complete(execution_id)
    world.supervisor.held.set()
    problem(await cancelling, 409, "conflict")
