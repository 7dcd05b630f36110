"""Health, readiness, metrics, the reference page and the OpenAPI document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentflow.serve import wire
from agentflow.serve.metrics import summed
from agentflow.serve.openapi import rendered

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


async def test_a_replica_that_lives_is_healthy_whatever_else_is_down(world: Any) -> None:
    world.store.down = True
    world.supervisor.state = "dead"
    assert (await world.client.get("/health")).json() == {"status": "ok"}


async def test_ready_when_the_store_answers_and_the_supervisor_runs(world: Any) -> None:
    assert (await world.client.get("/ready")).json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("store_down", "state", "missing"),
    [
        (True, "running", ["store"]),
        (False, "dead", ["supervisor"]),
        (False, "taking_over", ["supervisor"]),
        (True, "connecting", ["store", "supervisor"]),
    ],
)
async def test_not_ready_is_503_and_says_what_is_missing(world: Any, store_down: bool, state: str, missing: list[str]) -> None:
    world.store.down, world.supervisor.state = store_down, state
    answer = await world.client.get("/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    document = answer.json()
    assert [item["part"] for item in document["missing"]] == missing
    assert all(item["reason"] in document["detail"] for item in document["missing"])


async def test_metrics_are_the_supervisors_and_the_replicas_own(world: Any, keys: Any) -> None:
    await world.started()
    answer = await world.client.get("/metrics", headers=keys.viewer)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "agentflow_steps_total 3" in answer.text
    assert re.search(r'agentflow_http_requests_total\{method="POST",replica="0",route="/v1/executions",status="202"\} 1.0', answer.text)
    assert "agentflow_http_request_duration_seconds_bucket" in answer.text


async def test_ids_and_unknown_paths_do_not_become_labels(world: Any, keys: Any) -> None:
    execution_id = await world.started()
    await world.client.get(f"/v1/executions/{execution_id}", headers=keys.admin)
    await world.client.get("/wp-login.php")
    await world.client.request("BREW", "/v1/tools")
    text = (await world.client.get("/metrics", headers=keys.viewer)).text
    assert execution_id not in text and "wp-login" not in text and "BREW" not in text
    assert 'route="/v1/executions/{execution_id}"' in text and 'route="unmatched"' in text


async def test_metrics_are_shown_while_the_supervisor_is_away(world: Any, keys: Any) -> None:
    async def away() -> bytes:
        raise TimeoutError

    world.supervisor.metrics = away
    answer = await world.client.get("/metrics", headers=keys.viewer)
    assert answer.status_code == 200 and "agentflow_http_requests_total" in answer.text and "agentflow_steps_total" not in answer.text


async def test_metrics_need_no_key_only_if_the_setting_says_so(make_world: Any) -> None:
    assert (await (await make_world()).client.get("/metrics")).status_code == 401
    assert (await (await make_world(metrics_open=True)).client.get("/metrics")).status_code == 200


def test_snapshots_of_several_supervisors_are_added_series_by_series() -> None:
    one = b'# HELP a_total A.\n# TYPE a_total counter\na_total{w="x y"} 1.0\na_total{w="b"} 2\n'
    two = b'# HELP a_total A.\n# TYPE a_total counter\na_total{w="x y"} 0.5\n# TYPE c gauge\nc 4\n'
    assert summed([one, two]).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{w="x y"} 1.5',
        'a_total{w="b"} 2',
        "# TYPE c gauge",
        "c 4",
    ]
    assert summed([]) == b"" and summed([b"c 1"]) == b"c 1\n"


async def test_the_reference_page_loads_nothing_and_names_every_operation(world: Any) -> None:
    answer = await world.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.search(r"<script|<link|<img|<iframe|src=|@import|url\(|https?://", page, re.IGNORECASE)
    for path, operations in world.app.openapi()["paths"].items():
        assert path in page
        for operation in operations.values():
            assert operation["summary"] in page


async def test_the_served_document_is_the_one_in_docs(world: Any) -> None:
    served = (await world.client.get("/openapi.json")).json()
    assert served == json.loads(DOCUMENT.read_text("utf-8"))


def test_docs_openapi_json_is_current() -> None:
    assert DOCUMENT.read_text("utf-8") == rendered(), "run: python -m agentflow.serve.openapi > docs/openapi.json"


def test_the_document_has_bodies_problems_and_keys_and_every_reference_leads_somewhere() -> None:
    document = json.loads(rendered())
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas) and {shape.__name__ for shape in wire.ASKED} <= references
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "401" in operation["responses"] or path in ("/health", "/ready")
            assert "HTTPValidationError" not in json.dumps(operation)
