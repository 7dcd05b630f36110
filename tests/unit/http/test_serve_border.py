"""What holds for every route: keys and roles, limits on bodies, problem documents, request ids, and that bugs leak nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentflow.errors import NotYet, SandboxRefused, StepFailed
from agentflow.ports import Principal
from agentflow.serve.auth import KNOWN_LIMIT, UNKNOWN_LIMIT, Authenticator

SOME_ID = "0193f000-0000-7000-8000-000000000003"
READS = [
    "/v1/workflows",
    "/v1/workflows/greet",
    "/v1/workflows/greet/versions",
    "/v1/executions",
    f"/v1/executions/{SOME_ID}",
    f"/v1/executions/{SOME_ID}/events",
    "/v1/agents",
    "/v1/tools",
    "/v1/agents/Greeter/sessions/s",
]
WRITES = [
    ("PUT", "/v1/workflows/greet"),
    ("POST", "/v1/workflows"),
    ("POST", "/v1/executions"),
    ("POST", f"/v1/executions/{SOME_ID}/cancel"),
    ("POST", "/v1/agents/Greeter/sessions/s/messages"),
]


def test_these_lists_name_every_operation(world: Any) -> None:
    known = {("GET", path) for path in READS} | set(WRITES)
    open_or_own = {"/health", "/ready", "/metrics"}
    count = sum(len(operations) for path, operations in world.app.openapi()["paths"].items() if path not in open_or_own)
    assert count == len(known)


@pytest.mark.parametrize(("method", "path"), [("GET", path) for path in [*READS, "/metrics"]] + WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"X-API-Key": "wrong"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "k" * 600},
        {"Authorization": b"Bearer \xff"},
    ],
)
async def test_without_a_known_key_every_route_is_401(world: Any, method: str, path: str, headers: Any) -> None:
    answer = await world.client.request(method, path, headers=headers)
    assert answer.status_code == 401 and answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_viewer_who_writes_is_403(world: Any, keys: Any, method: str, path: str) -> None:
    answer = await world.client.request(method, path, content=b"{}", headers=keys.viewer)
    assert answer.status_code == 403 and answer.json()["code"] == "forbidden"
    assert "www-authenticate" not in answer.headers and not world.supervisor.commands


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs"])
async def test_these_need_no_key(world: Any, path: str) -> None:
    assert (await world.client.get(path)).status_code == 200


async def test_both_headers_carry_the_key(world: Any) -> None:
    for headers in ({"Authorization": "bearer viewer-key"}, {"X-API-Key": "viewer-key"}):
        assert (await world.client.get("/v1/tools", headers=headers)).status_code == 200


# ------------------------------------------------------------------------------------------------- the key cache


class Keys:
    def __init__(self) -> None:
        self.asked = 0
        self.known = {"good": Principal("ada", "acme", "admin")}

    async def find(self, key: str) -> Principal | None:
        self.asked += 1
        await asyncio.sleep(0)
        return self.known.get(key)

    async def add(self, key: str, principal: Principal) -> None:
        self.known[key] = principal


async def test_a_key_is_looked_up_once_in_a_while_and_a_revoked_one_ends_then() -> None:
    keys, now = Keys(), [100.0]
    authenticator = Authenticator(keys, believe_s=5.0, monotonic=lambda: now[0])
    assert {(await authenticator.principal("Bearer good", None)).name for _ in range(10)} == {"ada"}
    assert keys.asked == 1
    keys.known.clear()
    assert (await authenticator.principal("Bearer good", None)).name == "ada"
    now[0] += 5.1
    with pytest.raises(Exception, match="not known"):
        await authenticator.principal("Bearer good", None)
    keys.known["good"] = Principal("ada", "acme", "admin")
    now[0] += 5.1
    assert (await authenticator.principal("Bearer good", None)).name == "ada"


async def test_a_burst_with_one_key_is_one_look_up_even_if_the_first_client_goes() -> None:
    keys = Keys()
    authenticator = Authenticator(keys, believe_s=5.0)
    first = asyncio.create_task(authenticator.principal("Bearer good", None))
    others = [asyncio.create_task(authenticator.principal(None, "good")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    assert {principal.name for principal in await asyncio.gather(*others)} == {"ada"}
    assert keys.asked == 1


async def test_a_flood_of_unknown_keys_is_bounded_and_pushes_no_good_one_out() -> None:
    keys = Keys()
    authenticator = Authenticator(keys, believe_s=1000.0)
    await authenticator.principal("Bearer good", None)
    for n in range(UNKNOWN_LIMIT + 100):
        with pytest.raises(Exception, match="not known"):
            await authenticator.principal(f"Bearer bad{n}", None)
    assert len(authenticator._unknown) == UNKNOWN_LIMIT <= KNOWN_LIMIT
    asked = keys.asked
    await authenticator.principal("Bearer good", None)
    assert keys.asked == asked


# ------------------------------------------------------------------------------------------------- bodies


async def test_a_declared_length_over_the_limit_is_413_before_anything_is_read(make_world: Any, keys: Any) -> None:
    world = await make_world(payload_limit_bytes=1000)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-length", b"1001"), (b"authorization", b"Bearer admin-key")]
    scope = {"type": "http", "method": "POST", "path": "/v1/executions", "query_string": b"", "headers": headers, "root_path": ""}
    await world.app(scope, receive, send)
    assert sent[0]["status"] == 413 and (b"connection", b"close") in sent[0]["headers"]
    document = json.loads(sent[1]["body"])
    assert document["code"] == "payload_too_large"
    assert (document["size_bytes"], document["limit_bytes"], document["setting"]) == (1001, 1000, "payload_limit_bytes")


@pytest.mark.parametrize(("method", "path"), [write for write in WRITES if not write[1].endswith("cancel")])
async def test_a_body_without_length_is_413_where_it_crosses_the_limit(make_world: Any, keys: Any, method: str, path: str) -> None:
    world = await make_world(payload_limit_bytes=1000)
    given = 0

    async def endless() -> Any:
        nonlocal given
        while True:
            given += 100
            yield b"x" * 100

    async with asyncio.timeout(20):
        answer = await world.client.request(method, path, content=endless(), headers=keys.admin)
    assert answer.status_code == 413 and answer.json()["limit_bytes"] == 1000
    assert given <= 1200


async def test_a_body_of_exactly_the_limit_is_taken(make_world: Any, keys: Any) -> None:
    world = await make_world(payload_limit_bytes=1000)
    await world.put_workflow()
    body = b'{"workflow":"greet","input":{"name":"Ada"}}'
    assert (await world.client.post("/v1/executions", content=body.ljust(1000), headers=keys.admin)).status_code == 202
    assert (await world.client.post("/v1/executions", content=body.ljust(1001), headers=keys.admin)).status_code == 413


# ------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/executions", "/v1/executions/", "/v1/nothing", "/%00", "/redoc"])
async def test_a_path_that_is_not_there_is_a_problem(world: Any, keys: Any, path: str) -> None:
    answer = await world.client.get(path, headers=keys.admin, follow_redirects=True)
    assert answer.headers["content-type"] in ("application/problem+json", "application/json")
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.status_code == 404 and answer.json()["code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/executions"), ("PUT", "/v1/tools"), ("PATCH", "/v1/workflows/a")])
async def test_a_method_that_is_not_there_is_405_and_says_what_is(world: Any, keys: Any, method: str, path: str) -> None:
    answer = await world.client.request(method, path, headers=keys.admin)
    assert answer.status_code == 405 and answer.json()["code"] == "method_not_allowed"
    assert answer.headers["allow"]


async def test_a_bug_is_500_logged_with_its_id_and_leaks_nothing(world: Any, keys: Any, caplog: Any) -> None:
    async def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    world.services.catalogue.list = broken
    answer = await world.client.get("/v1/tools", headers={**keys.admin, "X-Request-Id": "req-7"})
    assert answer.status_code == 500 and answer.json()["code"] == "internal"
    assert "hunter2" not in answer.text and "RuntimeError" not in answer.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.request_id == "req-7" and "hunter2" in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotYet("triggers come later"), 501, "not_yet"),
        (SandboxRefused("no runsc"), 503, "sandbox_refused"),
        (StepFailed("it", error={"code": "x"}, status=5, odd={1, 2}, text="\ud800\0"), 500, "x"),
    ],
)
async def test_every_error_of_ours_is_a_problem_with_its_facts(world: Any, keys: Any, error: Exception, status: int, code: str) -> None:
    async def broken(*args: Any, **options: Any) -> Any:
        raise error

    world.services.catalogue.list = broken
    answer = await world.client.get("/v1/tools", headers=keys.admin)
    assert answer.status_code == status and answer.json()["code"] == code
    assert answer.json()["status"] == status
    if code == "x":
        assert answer.json()["fact_status"] == 5 and answer.json()["error"] == {"code": "x"} and "odd" in answer.json()


async def test_a_request_id_is_taken_if_harmless_and_made_if_not(world: Any, keys: Any) -> None:
    kept = await world.client.get("/health", headers={"X-Request-Id": "abc-1.2_3"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    for odd in ("a b", "x" * 65, "<script>", ""):
        made = (await world.client.get("/health", headers={"X-Request-Id": odd})).headers["x-request-id"]
        assert made != odd and len(made) == 32


async def test_answers_are_kept_by_no_cache_and_sniffed_by_no_browser(world: Any, keys: Any) -> None:
    answer = await world.client.get("/v1/tools", headers=keys.admin)
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
