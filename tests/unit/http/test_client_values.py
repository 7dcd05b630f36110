"""The client without a network: addresses, event streams from bytes, what an answer means, paths made absolute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.client import calls, following
from agentflow.client.address import find_address
from agentflow.client.answers import Repeat, answer_of
from agentflow.client.sse import FrameReader
from agentflow.client.views import snapshot_of
from agentflow.client.workflow import Workflow
from agentflow.errors import (
    AgentFlowError,
    Busy,
    ClusterDown,
    ExecutionFailed,
    IdempotencyConflict,
    InvalidRequest,
    MountForbidden,
    StoreUnavailable,
    Unavailable,
    WorkflowInvalid,
)

HEAVY = ("httpx", "ray", "litellm", "asyncpg", "fastapi", "pydantic", "agentflow.engine")
PROBLEM = {"content-type": "application/problem+json"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AGENTFLOW_URL", "AGENTFLOW_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))


def running(home: Path, url: str = "http://127.0.0.1:8000/", key: str = "local-key") -> Path:
    home.mkdir(parents=True)
    (home / "cluster.json").write_text(json.dumps({"url": url, "more": 1}))
    (home / "key").write_text(key + "\n")
    return home


# ------------------------------------------------------------------------------------------------- addresses


def test_the_running_local_cluster_is_found_with_its_key(tmp_path: Path) -> None:
    running(tmp_path / "home")
    address = find_address()
    assert (address.url, address.key, address.local) == ("http://127.0.0.1:8000", "local-key", True)
    assert "local-key" not in repr(address)


def test_arguments_win_over_the_environment_and_that_over_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(tmp_path / "home")
    monkeypatch.setenv("AGENTFLOW_URL", "http://there")
    monkeypatch.setenv("AGENTFLOW_KEY", "env-key")
    assert find_address() == find_address("http://there/", "env-key")
    assert find_address("http://here", "mine").key == "mine" and not find_address("http://here").local
    other = find_address(home=running(tmp_path / "other", key="other-key"))
    assert (other.url, other.key) == ("http://127.0.0.1:8000", "other-key")


def test_the_local_key_is_never_sent_to_another_address(tmp_path: Path) -> None:
    running(tmp_path / "home")
    assert find_address("http://somewhere-else").key is None
    assert find_address("http://127.0.0.1:8000").key == "local-key"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"url": null}'])
def test_without_a_cluster_the_error_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "cluster.json").write_text(content)
    with pytest.raises(ClusterDown, match="agentflow up"):
        find_address()


def test_a_url_without_scheme_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="http://"):
        find_address("localhost:8000")


# ------------------------------------------------------------------------------------------------- event streams


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)), st.data())
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    ends = [data.draw(st.sampled_from(["\n", "\r\n", "\r"])) for _ in texts]
    raw = "".join(
        f"id: {n}{e}event: k{e}data: {text}{e}{e}: comment{e}" for n, (text, e) in enumerate(zip(texts, ends, strict=True))
    ).encode()
    reader = FrameReader()
    found = []
    while raw:
        cut = data.draw(st.integers(1, len(raw)))
        found += reader.feed(raw[:cut])
        raw = raw[cut:]
    assert [(frame.id, frame.event, frame.data.decode()) for frame in found] == [(str(n), "k", text) for n, text in enumerate(texts)]


def test_a_frame_that_is_not_complete_is_not_given() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"id: 1\ndata: {}\n")) == []
    assert [frame.data for frame in reader.feed(b"\n")] == [b"{}"]
    assert list(reader.feed(b"retry: 1000\n\n: keep-alive\n\nid: 9\n\n")) == []


def test_a_place_gives_each_event_once_and_resumes_behind_it() -> None:
    def frame(seq: int, kind: str = "step.scheduled") -> bytes:
        line = {"seq": seq, "at": "2026-11-21T12:00:00.000000Z", "kind": kind, "body": {"step": "a\u2028"}, "value": "\ud800"}
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, kind.encode(), json.dumps(line).encode())

    place = following.Place(2)
    assert place.connected()["Last-Event-ID"] == "2"
    assert [event.seq for event in place.feed(frame(2) + frame(3) + frame(4)[:-5])] == [3]
    assert place.connected()["Last-Event-ID"] == "3"
    (event, last) = place.feed(frame(3) + frame(4) + frame(5, "execution.completed"))
    assert (event.seq, event.step, event.value) == (4, "a\u2028", "\ud800") and last.ends and place.ended


# ------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (409, "idempotency_conflict", IdempotencyConflict),
        (422, "workflow_invalid", WorkflowInvalid),
        (403, "mount_forbidden", MountForbidden),
        (418, "some_new_code", AgentFlowError),
    ],
)
def test_a_problem_is_raised_as_the_error_of_its_code_with_its_facts(status: int, code: str, kind: type[AgentFlowError]) -> None:
    body = json.dumps({"code": code, "detail": "so it is", "status": status, "errors": [1], "message": "x", "self": 1, "a-b": 2}).encode()
    with pytest.raises(AgentFlowError, match="so it is") as caught:
        answer_of(status, PROBLEM, body)
    assert type(caught.value) is kind and caught.value.code == code
    assert caught.value.facts == {"errors": [1], "http_status": status}


@pytest.mark.parametrize(("status", "code", "kind"), [(503, "store_unavailable", StoreUnavailable), (429, "busy", Busy)])
def test_what_may_succeed_later_is_repeated_after_the_time_that_is_named(status: int, code: str, kind: type[AgentFlowError]) -> None:
    body = json.dumps({"code": code, "detail": "later", "retryable": True}).encode()
    with pytest.raises(Repeat) as caught:
        answer_of(status, {**PROBLEM, "retry-after": "7"}, body)
    assert type(caught.value.error) is kind and caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, {"content-type": "text/html"}, b"<h1>Internal Server Error</h1>"),
        (502, {}, b""),
        (503, {"content-type": "application/json"}, b'{"code": "x"}'),
        (500, PROBLEM, b'{"cut'),
        (500, PROBLEM, b"[]"),
        (408, {}, b"timed out"),
        (200, {}, b'{"cut'),
    ],
)
def test_an_answer_that_is_not_ours_means_send_it_again(status: int, headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(Repeat) as caught:
        answer_of(status, headers, body)
    assert isinstance(caught.value.error, Unavailable)


def test_a_bug_of_the_server_is_not_repeated() -> None:
    with pytest.raises(AgentFlowError) as caught:
        answer_of(500, PROBLEM, json.dumps({"code": "internal", "detail": "x", "retryable": False}).encode())
    assert caught.value.code == "internal"


def test_a_page_of_something_else_is_told_from_agentflow() -> None:
    with pytest.raises(Unavailable, match="Is the url right"):
        answer_of(404, {"content-type": "text/html"}, b"<h1>nginx</h1>")


# ------------------------------------------------------------------------------------------------- requests


def test_names_cannot_leave_their_place_in_the_path() -> None:
    assert calls.get_execution("../../metrics?x#y").path == "/v1/executions/..%2F..%2Fmetrics%3Fx%23y"
    for name in ("", ".", "..", "\ud800"):
        with pytest.raises(InvalidRequest):
            calls.get_execution(name)


def test_every_start_carries_a_key_of_its_own_unless_one_is_given() -> None:
    keys = {calls.start_execution("w", version=None, input=None, key=None).idempotency_key for _ in range(10)}
    assert len(keys) == 10 and None not in keys
    assert calls.start_execution("w", version=None, input=None, key="mine").idempotency_key == "mine"


def test_what_json_cannot_hold_is_refused_before_it_is_sent() -> None:
    for value in ({1, 2}, float("nan"), {"a": object()}, {1: 2}):
        with pytest.raises(InvalidRequest, match="cannot be sent"):
            calls.start_execution("w", version=None, input=value, key=None)


def test_a_workflow_is_read_from_a_path_a_text_or_itself(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text("name: a\n")
    assert calls.put_workflow(path).body == calls.put_workflow(str(path)).body == calls.put_workflow("name: a\n").body == b"name: a\n"
    assert calls.put_workflow(Workflow.from_file(path)).query == {"file": str(path)}
    assert calls.is_source(str(path)) and calls.is_source("a: 1\nb: 2") and not calls.is_source("repository-review")
    for odd in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            calls.put_workflow(odd)


def test_folders_are_made_absolute_where_the_schema_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schema = {
        "properties": {
            "path": {"type": "string", "format": "folder"},
            "name": {"type": "string"},
            "many": {"items": {"format": "folder"}},
            "deep": {"properties": {"path": {"format": "folder"}}},
        }
    }
    value = {"path": "src", "name": "src", "many": ["a", "/b"], "deep": {"path": ".."}, "other": [1, None]}
    assert following.with_absolute_folders(value, schema) == {
        "path": str(tmp_path / "src"),
        "name": "src",
        "many": [str(tmp_path / "a"), "/b"],
        "deep": {"path": str(tmp_path.parent)},
        "other": [1, None],
    }
    assert following.with_absolute_folders(value, None) == value


def test_whether_a_schema_is_needed_is_seen_in_the_input() -> None:
    assert following.may_hold_relative_path({"a": [{"b": "src"}]})
    assert not following.may_hold_relative_path({"a": [1, None, "/abs"], "b": True})


def test_the_result_of_what_failed_is_an_error_that_says_where_and_why() -> None:
    document = {"id": "i", "workflow": "w", "version": "1", "status": "failed", "started_at": "2026-11-21T12:00:00.000000Z"}
    failed = snapshot_of({**document, "error": {"code": "boom", "message": "it broke", "step": "two"}})
    with pytest.raises(ExecutionFailed, match=r"in step two: it broke \[boom\]") as caught:
        following.result_of(failed)
    assert caught.value.facts["status"] == "failed" and caught.value.facts["error"]["step"] == "two"
    with pytest.raises(ExecutionFailed, match="cancelled"):
        following.result_of(snapshot_of({**document, "status": "cancelled", "error": None}))


def test_importing_the_client_brings_in_neither_httpx_nor_ray_nor_the_engine() -> None:
    code = f"import sys, agentflow.client; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"


def test_both_clients_have_the_same_methods() -> None:
    from agentflow.client import async_flow, flow

    def public(kind: type[Any]) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    for one, other in (
        ("Flow", "AsyncFlow"),
        ("Execution", "AsyncExecution"),
        ("Workflows", "AsyncWorkflows"),
        ("Executions", "AsyncExecutions"),
    ):
        assert public(getattr(flow, one)) == public(getattr(async_flow, other))
