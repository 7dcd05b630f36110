"""The example's agents with a small context, its score, and what its report does with hostile text."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "repository_review"))

from repository_review import score
from repository_review.agents import Analyst, NoPythonCode, Reporter, Scout
from repository_review.tools import analyse_package


class Session:
    """A context whose tools run here; its state goes through JSON after each step, as the store would have it."""

    execution_id = workflow = step = tenant_id = "x"
    session_id: str | None = None
    attempt = 1
    cancelled = False

    def __init__(self, at: datetime) -> None:
        self.started_at = at
        self.state: dict[str, Any] = {}
        self.called: list[dict[str, Any]] = []

    async def tool(self, function: Any, /, **arguments: Any) -> Any:
        self.called.append(arguments)
        return json.loads(json.dumps(function(**arguments)))

    def log(self, message: str, /, **fields: Any) -> None:
        json.dumps(fields)

    def stored(self) -> None:
        self.state = json.loads(json.dumps(self.state))


@pytest.fixture
def session() -> Session:
    return Session(datetime(2026, 11, 21, 12, 30, tzinfo=UTC))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name, text in {"alpha/a.py": "eval('1')\n", "beta/b.py": '"""Doc."""\nx = 1\n', "top.py": "# TODO\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def review(session: Session, root: Path, **extra: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """One whole review without a cluster: the ranking, and the report."""
    scout = asyncio.run(Scout().run(session, {"path": str(root)}))  # type: ignore[arg-type]
    packages = [
        json.loads(json.dumps(analyse_package(package["folder"], name=package["name"], top_level_only=package["top_level_only"])))
        for package in scout["packages"]
    ]
    ranking = Analyst().run(session, {"packages": packages})  # type: ignore[arg-type]
    session.stored()
    report = Reporter().run(session, {"path": str(root), "scout": scout, "packages": packages, "review": ranking, **extra})  # type: ignore[arg-type]
    json.dumps(report)
    return ranking, report


def test_the_scout_names_the_folder_that_each_sandbox_may_see(session: Session, code: Path) -> None:
    found = asyncio.run(Scout().run(session, {"path": str(code)}))  # type: ignore[arg-type]
    assert {package["name"]: package["folder"] for package in found["packages"]} == {
        "alpha": f"{code}/alpha",
        "beta": f"{code}/beta",
        "(top-level modules)": str(code),
    }
    assert session.called == [{"folder": str(code), "include_tests": False}]


def test_a_folder_without_python_says_what_to_do(session: Session, tmp_path: Path) -> None:
    with pytest.raises(NoPythonCode, match="include_tests"):
        asyncio.run(Scout().run(session, {"path": str(tmp_path)}))  # type: ignore[arg-type]


def test_the_riskier_package_is_ranked_first(session: Session, code: Path) -> None:
    ranking, _ = review(session, code)
    assert ranking["ranking"][0]["name"] == "alpha"
    assert ranking["changes"] is None
    assert ranking["total"]["risky_calls"] == 1


def test_the_second_review_says_what_is_new_gone_and_moved(session: Session, code: Path) -> None:
    review(session, code)
    (code / "alpha" / "a.py").write_text("x = 1\n")
    (code / "gamma").mkdir()
    (code / "gamma" / "g.py").write_text("")
    (code / "top.py").unlink()
    session.started_at = datetime(2026, 11, 22, tzinfo=UTC)
    ranking, report = review(session, code)
    changes = ranking["changes"]
    assert (changes["since"], changes["added"], changes["removed"]) == ("2026-11-21T12:30:00+00:00", ["gamma"], ["(top-level modules)"])
    assert [(moved["name"], moved["because"]) for moved in changes["moved"]] == [("alpha", ["risky calls 1 → 0"])]
    assert changes["moved"][0]["after"] < changes["moved"][0]["before"]
    assert ranking["review"] == 2
    assert "risky calls 1 → 0" in report["html"]
    assert "risky calls 1 → 0" in report["markdown"]


def test_an_unchanged_folder_has_no_changes(session: Session, code: Path) -> None:
    review(session, code)
    ranking, report = review(session, code)
    assert (ranking["changes"]["added"], ranking["changes"]["removed"], ranking["changes"]["moved"]) == ([], [], [])
    assert "Nothing changed" in report["html"]


def test_what_a_session_keeps_stays_bounded(session: Session, code: Path) -> None:
    for _ in range(40):
        review(session, code)
    assert len(session.state["history"]) == 30
    assert len(json.dumps(session.state)) < 10_000


# ---------------------------------------------------------------------------------------------------- score


def package(**changed: Any) -> dict[str, Any]:
    numbers = {
        "over_limit": 0,
        "high": 0,
        "medium": 0,
        "public": 0,
        "documented": 0,
        "todos": 0,
        "problems": 0,
        "code_lines": 1000,
        **changed,
    }
    return {
        "name": "p",
        "files": 1,
        "code_lines": numbers["code_lines"],
        "functions": 1,
        "classes": 0,
        "complexity": {"over_limit": numbers["over_limit"], "max": 0, "top": []},
        "docstrings": {"public": numbers["public"], "documented": numbers["documented"]},
        "todos": {"count": numbers["todos"], "first": []},
        "risky_calls": {"high": numbers["high"], "medium": numbers["medium"], "first": []},
        "problems": {"count": numbers["problems"], "first": []},
        "truncated": "",
    }


def test_a_package_without_findings_is_at_zero() -> None:
    assert score.score(package())["score"] == 0


@pytest.mark.parametrize(
    ("findings", "points"),
    [({"over_limit": 5}, 17.5), ({"medium": 4}, 15.0), ({"public": 2, "documented": 1}, 10.0), ({"todos": 4}, 5.0), ({"problems": 1}, 2.5)],
)
def test_each_part_gives_half_its_weight_at_its_half_point(findings: dict[str, int], points: float) -> None:
    assert score.score(package(**findings))["score"] == points


def test_the_score_stays_within_a_hundred() -> None:
    worst = score.score(package(over_limit=10**6, high=10**6, public=10**6, todos=10**6, problems=10**6))
    assert 99 < worst["score"] <= 100


def test_one_finding_does_not_put_a_tiny_package_on_top() -> None:
    assert score.score(package(high=1, code_lines=3))["score"] == score.score(package(high=1, code_lines=500))["score"]


# ---------------------------------------------------------------------------------------------------- report


class Seen(HTMLParser):
    """Tags and attributes of a page, its visible text, and whether every element is closed."""

    VOID = frozenset({"meta"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.words = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.words += text


HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&`|"


@pytest.fixture
def hostile(session: Session, tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "a<img src=x onerror=1>"
    folder.mkdir()
    (folder / "<script>`|.py").write_text(f"# TODO {HOSTILE}\neval(1)\n")
    (folder / "b.py").write_text("def (:")
    return review(session, tmp_path, title=HOSTILE)[1]


def test_text_of_the_code_stays_text_in_the_page(hostile: dict[str, Any]) -> None:
    seen = Seen(hostile["html"])
    assert not seen.tags & {"script", "img", "link", "iframe", "object", "base"}
    assert not any(name.startswith("on") for name in seen.attributes)
    assert HOSTILE in seen.words
    assert seen.open == []


def test_the_page_needs_nothing_from_outside(hostile: dict[str, Any]) -> None:
    seen = Seen(hostile["html"])
    assert not seen.attributes.keys() & {"src", "href", "srcset", "data"}
    assert "url(" not in hostile["html"]
    assert "@import" not in hostile["html"]
    assert {"svg", "title", "desc"} <= seen.tags


def test_text_of_the_code_stays_text_in_markdown(hostile: dict[str, Any]) -> None:
    outside_of_code = "".join(re.sub(r"\\.", "", hostile["markdown"]).split("`")[::2])
    assert "<" not in outside_of_code


def test_a_path_that_is_not_unicode_gives_a_page_that_can_be_written(session: Session, code: Path) -> None:
    ranking, _ = review(session, code)
    packages = [analyse_package(str(code / "alpha"), name="alpha")]
    ranking["ranking"] = [entry for entry in ranking["ranking"] if entry["name"] == "alpha"]
    report = Reporter().run(session, {"path": "/a/\udcff", "scout": {"truncated": ""}, "packages": packages, "review": ranking})  # type: ignore[arg-type]
    assert "\\udcff" in report["html"].encode().decode()
    report["markdown"].encode()
