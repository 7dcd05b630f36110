"""Storing and reading workflows over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.serve import wire

PLAIN = """\
apiVersion: agentflow/v1
name: plain
version: "1"
agents:
  - {name: a, uses: "m:A"}
steps:
  - {name: only, agent: a}
"""


def versioned(version: str, name: str = "plain") -> str:
    return PLAIN.replace('version: "1"', f'version: "{version}"').replace("name: plain", f"name: {name}")


async def test_put_stores_a_version_once(world: Any, keys: Any) -> None:
    first = await world.client.put("/v1/workflows/plain", content=PLAIN, headers=keys.admin)
    second = await world.client.put("/v1/workflows/plain", content=PLAIN, headers=keys.admin)
    assert (first.status_code, second.status_code) == (201, 200)
    summary = wire.WorkflowSummary.model_validate_json(first.content)
    assert (summary.name, summary.version, summary.principal) == ("plain", "1", "ada")
    assert first.headers["location"] == "/v1/workflows/plain?version=1"


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8"])
async def test_put_takes_the_source_in_json_too(world: Any, keys: Any, media_type: str) -> None:
    headers = {**keys.admin, "Content-Type": media_type}
    import json

    answer = await world.client.put("/v1/workflows/plain", content=json.dumps({"source": PLAIN}), headers=headers)
    assert answer.status_code == 201
    assert (await world.client.get("/v1/workflows/plain", headers=keys.viewer)).json()["source"] == PLAIN


async def test_post_takes_the_name_from_the_source(world: Any, keys: Any) -> None:
    answer = await world.client.post("/v1/workflows", content=PLAIN, headers=keys.admin)
    assert answer.status_code == 201 and answer.json()["name"] == "plain"


async def test_another_source_under_a_stored_version_is_a_conflict(world: Any, keys: Any) -> None:
    await world.client.put("/v1/workflows/plain", content=PLAIN, headers=keys.admin)
    answer = await world.client.put("/v1/workflows/plain", content=PLAIN.replace("only", "other"), headers=keys.admin)
    assert answer.status_code == 409 and answer.json()["code"] == "conflict"


async def test_an_invalid_definition_is_422_with_every_error_located(world: Any, keys: Any) -> None:
    source = PLAIN + "  - {name: two, agent: nobody, dependsOn: [ghost]}\nsurprise: 1\n"
    answer = await world.client.put("/v1/workflows/plain", content=source, headers=keys.admin)
    assert answer.status_code == 422
    document = answer.json()
    assert document["code"] == "workflow_invalid"
    assert len(document["errors"]) >= 3
    assert all({"file", "line", "column", "code", "message"} <= set(error) for error in document["errors"])
    assert {error["line"] for error in document["errors"]} == {8, 9}


async def test_a_key_of_later_work_is_refused_as_not_yet(world: Any, keys: Any) -> None:
    answer = await world.client.put("/v1/workflows/plain", content=PLAIN + "triggers: []\n", headers=keys.admin)
    assert answer.status_code in (422, 501)
    document = answer.json()
    assert "not_yet" in {document["code"], *(error["code"] for error in document.get("errors", []))}


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/yaml", 400),
        (b"\xff\xfe\x00", "application/yaml", 400),
        (b"{", "application/json", 400),
        (b'{"source": 1}', "application/json", 400),
        (b'{"source": "\\ud800"}', "application/json", 400),
        (b'{"sauce": "x"}', "application/json", 400),
        (b"steps: [", "application/yaml", 422),
        (b"name: a\x00b", "application/yaml", 422),
        (b"just text", "text/plain", 422),
    ],
)
async def test_a_body_that_is_no_definition_is_refused(world: Any, keys: Any, content: bytes, media_type: str, status: int) -> None:
    headers = {**keys.admin, "Content-Type": media_type}
    answer = await world.client.put("/v1/workflows/plain", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_path_and_the_source_must_agree_on_the_name(world: Any, keys: Any) -> None:
    answer = await world.client.put("/v1/workflows/other", content=PLAIN, headers=keys.admin)
    assert answer.status_code == 400 and "plain" in answer.json()["detail"]


async def test_get_gives_the_latest_or_the_version_asked_for(world: Any, keys: Any) -> None:
    for version in ("1", "2"):
        await world.client.put("/v1/workflows/plain", content=versioned(version), headers=keys.admin)
    latest = await world.client.get("/v1/workflows/plain", headers=keys.viewer)
    assert wire.WorkflowDetail.model_validate_json(latest.content).version == "2"
    first = await world.client.get("/v1/workflows/plain?version=1", headers=keys.viewer)
    assert first.json()["version"] == "1" and first.json()["source"] == PLAIN
    versions = wire.WorkflowVersions.model_validate_json(
        (await world.client.get("/v1/workflows/plain/versions", headers=keys.viewer)).content
    )
    assert [item.version for item in versions.versions] == ["2", "1"]


async def test_get_shows_description_and_input_schema(world: Any, keys: Any) -> None:
    detail = (await world.client.get("/v1/workflows/greet", headers=keys.viewer)).json()
    assert detail["description"] == "Says hello." and detail["input_schema"]["required"] == ["name"]


@pytest.mark.parametrize("path", ["nobody", "nobody/versions", "greet?version=9", "a%00b", "a%00b/versions", "greet?version=%00"])
async def test_what_is_not_there_is_404(world: Any, keys: Any, path: str) -> None:
    answer = await world.client.get(f"/v1/workflows/{path}", headers=keys.viewer)
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


async def test_lists_are_paged_by_name_and_show_the_tenants_own_only(world: Any, keys: Any) -> None:
    for name in ("alpha", "beta", "gamma"):
        await world.client.put(f"/v1/workflows/{name}", content=versioned("1", name), headers=keys.admin)
    first = wire.WorkflowPage.model_validate_json((await world.client.get("/v1/workflows?limit=3", headers=keys.viewer)).content)
    assert [item.name for item in first.workflows] == ["alpha", "beta", "gamma"] and first.next_cursor
    second = (await world.client.get(f"/v1/workflows?limit=3&cursor={first.next_cursor}", headers=keys.viewer)).json()
    assert [item["name"] for item in second["workflows"]] == ["greet"] and second["next_cursor"] is None
    assert (await world.client.get("/v1/workflows", headers=keys.other)).json()["workflows"] == []
